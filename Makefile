# Every target does its own set-up, and skips what is done: a virtual environment
# in .venv, the pinned dependencies, the build.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
RUN    := env PATH="$(CURDIR)/$(BIN):$(PATH)" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
NP     ?= 4
ARGS   ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := setup.py pyproject.toml LICENSE NOTICE tools/host.py patches/series \
           $(shell find patches horovod_partial -type f \( -name '*.patch' -o -name '*.py' \
             -o -name '*.cc' -o -name '*.h' -o -name '*.cmake' -o -name CMakeLists.txt \))

.DEFAULT_GOAL := help

.PHONY: help
help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

.PHONY: setup
setup: $(VENV)/.built ## Virtual environment, dependencies, build

.PHONY: demo
demo: $(VENV)/.built ## Trains the digits once per policy: table, results.json, plot (ARGS=--help)
	$(RUN) horovodrun -np $(NP) --gloo python examples/pytorch_digits.py $(ARGS)

.PHONY: test
test: $(VENV)/.built $(VENV)/.test $(VENV)/.docs openmpi4 services ## All tests (ARGS="-k word" for some)
	$(RUN) pytest $(ARGS)

.PHONY: test-core
test-core: $(VENV)/.built $(VENV)/.test ## The core, in one process: needs no launcher
	$(RUN) pytest tests/core $(ARGS)

.PHONY: test-hosts
test-hosts: $(VENV)/.built $(VENV)/.test ## Two hosts with a slow and lossy link (needs root)
	$(RUN) HOROVOD_PARTIAL_TEST_HOSTS=full pytest tests/hosts $(ARGS)

.PHONY: openmpi4
openmpi4: $(VENV)/.dependencies ## Debian's Open MPI 4 for the tests, unpacked where apt has it
	$(BIN)/python tools/openmpi4.py build/openmpi4

.PHONY: services
services: $(VENV)/.dependencies ## Debian's ssh server and SLURM for the tests, unpacked likewise
	$(BIN)/python tools/services.py build/services

.PHONY: test-long
test-long: $(VENV)/.built $(VENV)/.test ## Long forms: 10,000 rounds of memory, a rank that stands still for 20 s
	$(RUN) HOROVOD_PARTIAL_TEST_ROUNDS=10000 HOROVOD_PARTIAL_TEST_STANDSTILL=20 \
	  pytest tests/integration/test_memory.py tests/integration/test_faults.py \
	  -k "memory or stands_still" $(ARGS)

ROUNDS ?= 20000
.PHONY: soak
soak: $(VENV)/.built ## Random episodes on 4 real ranks, every check exact (ROUNDS=, SEED=)
	$(RUN) horovodrun -np $(NP) --gloo python tests/soak/soak.py --rounds $(ROUNDS) \
	  $(if $(SEED),--seed $(SEED))

BENCH := $(RUN) python -m benchmarks

.PHONY: bench
bench: $(VENV)/.built $(VENV)/.examples ## Short benchmarks and a report in results/benchmarks: 12 minutes (ARGS="--only control")
	$(BENCH) all --short $(ARGS)

.PHONY: bench-full
bench-full: $(VENV)/.built $(VENV)/.examples ## The benchmarks' full form, on a quiet machine: about an hour
	$(BENCH) all $(ARGS)

.PHONY: bench-docs
bench-docs: $(VENV)/.built ## docs/benchmarks.md and its figures from the results of bench or bench-full
	$(BENCH) docs $(ARGS)

.PHONY: unpatched
unpatched: $(VENV)/.dependencies ## Horovod without our patches in build/unpatched, to compare with
	$(BIN)/python tools/unpatched.py build/unpatched

STEPS ?= 40
.PHONY: sanitize
sanitize: $(VENV)/.built $(VENV)/.test ## The C++ under ThreadSanitizer and AddressSanitizer (STEPS=)
	$(RUN) HOROVOD_PARTIAL_SANITIZE_STEPS=$(STEPS) pytest tests/sanitize $(ARGS)

.PHONY: lint
lint: $(VENV)/.built ## Style of the Python files
	$(BIN)/pip install --quiet ruff==0.14.8
	$(BIN)/ruff check .

.PHONY: docs
docs: $(VENV)/.built $(VENV)/.docs ## The pages of docs/, with pictures and the API: build/docs/index.html
	$(RUN) sphinx-build --builder html --fail-on-warning --keep-going --quiet docs build/docs
	@echo "written: build/docs/index.html"

.PHONY: wheel
wheel: $(VENV)/.built $(VENV)/.ship ## Source archive and wheel, in dist/ (PyTorch and TensorFlow, MPI and Gloo)
	$(RUN) python -m build --no-isolation --sdist .
	$(RUN) python -m build --no-isolation --wheel .

.PHONY: wheel-check
wheel-check: wheel ## Installs the wheel in an empty environment and reduces partially there
	$(BIN)/python tools/wheel_check.py dist build/wheel-check

.PHONY: docker-lint
docker-lint: $(VENV)/.ship ## docker/ by hadolint and by Kubernetes' schemas
	$(BIN)/hadolint docker/*.Dockerfile
	$(BIN)/kubernetes-validate --strict docker/kubernetes/*.yaml

.PHONY: docker-check
docker-check: ## Builds and runs the CPU image without an engine (needs root, buildah, debootstrap)
	$(PYTHON) tools/docker_check.py build/docker

.PHONY: cuda-check
cuda-check: ## Compiles and links with CUDA and NCCL (downloads 3 GB, needs no GPU)
	$(PYTHON) tools/cuda.py check build/cuda

.PHONY: test-ray
test-ray: $(VENV)/.built $(VENV)/.test ## Horovod's executor for Ray, which is installed for it
	$(BIN)/pip install --quiet -r requirements/ray.txt
	$(RUN) pytest tests/integration/test_ray.py $(ARGS)

.PHONY: patch-tree
patch-tree: $(VENV)/.dependencies ## A git repository of the patched Horovod, in build/patch-tree
	$(BIN)/python tools/patches.py tree build/patch-tree

.PHONY: patch-refresh
patch-refresh: $(VENV)/.dependencies ## Writes patches/ from the commits of build/patch-tree
	$(BIN)/python tools/patches.py refresh build/patch-tree

.PHONY: patch-check
patch-check: $(VENV)/.dependencies ## The patches apply to the pristine Horovod, with headers
	$(BIN)/python tools/patches.py check

.PHONY: clean
clean: ## Removes what was built (neither the virtual environment nor results/)
	rm -rf build dist *.egg-info $(VENV)/.built

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: there is no python3 on the PATH"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "error: $(PYTHON) is not Python 3.11: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.dependencies: requirements/build.txt requirements/run.txt | $(BIN)/python
	@echo "Installing the pinned dependencies..."
	$(BIN)/pip install --quiet -r requirements/build.txt -r requirements/run.txt
	@touch $@

$(VENV)/.examples: requirements/examples.txt | $(VENV)/.dependencies
	$(BIN)/pip install --quiet -r requirements/examples.txt
	@touch $@

$(VENV)/.test: requirements/test.txt | $(VENV)/.examples
	$(BIN)/pip install --quiet -r requirements/test.txt
	@touch $@

$(VENV)/.docs: requirements/docs.txt | $(VENV)/.dependencies
	$(BIN)/pip install --quiet -r requirements/docs.txt
	@touch $@

$(VENV)/.ship: requirements/ship.txt | $(VENV)/.dependencies
	$(BIN)/pip install --quiet -r requirements/ship.txt
	@touch $@

$(VENV)/.built: $(SOURCES) $(VENV)/.dependencies
	@echo "Building Horovod with partial collectives: about 8 minutes on 2 cores the first time..."
	$(BIN)/pip install --quiet --no-build-isolation --no-deps --force-reinstall .
	@touch $@
