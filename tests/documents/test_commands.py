"""Every command in README, CONTRIBUTING, examples/ and docs/ is run by a test: here, or by the one that a row
of TABLE names."""

import ast
import importlib.metadata
import re
import shlex
import subprocess
import sys

import pytest

import documents
from common import ROOT
from documents import DOCUMENTS

PATH = "tests/documents/test_user_path.py::"
JOBS = "tests/integration/test_jobs.py::"
PATCHES = "tests/patches/test_patches.py::"
EXAMPLES = "tests/integration/test_examples.py::"
ENVIRONMENTS = "tests/integration/test_launch_environments.py::"

# Command: the tests that run it. What `make` is to run is also looked at below.
TABLE = {
    "make demo": [JOBS + "TestDemos::test_four_ranks"],
    'make demo ARGS="--imbalance random"': [JOBS + "TestDemos::test_four_ranks"],
    "make demo ARGS=--help": [JOBS + "TestDemos::test_help_and_wrong_options"],
    "make test": [".ci/run"],
    "make test-core": ["tests/core/test_simulation.py::test_invariants_hold_in_random_schedules"],
    'HOROVOD_PARTIAL_SCHEDULES=200000 make test-core ARGS="-k random_schedules"': [
        "tests/core/test_simulation.py::test_invariants_hold_in_random_schedules"],
    "make setup": [".ci/run"],
    "make test-hosts": ["tests/hosts/test_hosts.py::test_bodies"],
    "make test-long": ["tests/integration/test_memory.py::test_memory_stays_flat",
                       "tests/integration/test_faults.py::test_a_rank_that_stands_still_loses_nothing"],
    "make bench": [
        "tests/single/test_benchmarks.py::test_a_job_takes_turns_with_another",
        "tests/single/test_benchmarks.py::"
        "test_the_report_has_measured_and_wanted_values_and_verdicts"],
    "make unpatched bench-full": [
        "tests/single/test_benchmarks.py::test_the_unpatched_horovod_has_nothing_of_ours",
        "tests/single/test_benchmarks.py::test_a_job_takes_turns_with_another"],
    "python benchmarks/auto_simulation.py --first-seed 100 --seeds 61": [
        "tests/single/test_benchmarks.py::test_auto_finds_the_slow_worker_in_the_simulation"],
    "make soak": [JOBS + "test_a_short_soak"],
    "make sanitize": ["tests/sanitize/test_sanitize.py::test_everything_that_a_job_does"],
    "make lint": ["tests/documents/test_commands.py::test_lint"],
    "make help": ["tests/documents/test_commands.py::test_make_help"],
    "make docs": ["tests/documents/test_docs.py::test_the_pages_are_built_without_a_warning"],
    "make patch-tree": [PATCHES + "test_tree_and_refresh_give_the_same_patches"],
    "make patch-refresh": [PATCHES + "test_tree_and_refresh_give_the_same_patches"],
    "make patch-check": [PATCHES + "test_the_series_applies_has_headers_and_no_orphan"],
    "cd build/patch-tree": [PATCHES + "test_tree_and_refresh_give_the_same_patches"],
    "git commit --all --fixup=COMMIT": ["tests/documents/test_commands.py::test_git_commands"],
    "git rebase --interactive --autosquash --root": [
        "tests/documents/test_commands.py::test_git_commands"],
    "cd ../..": ["tests/documents/test_commands.py::test_git_commands"],
    "pip install torch==2.13.0": ["tests/documents/test_commands.py::test_pip_commands"],
    "pip install -r requirements/build.txt": [
        "tests/documents/test_commands.py::test_pip_commands"],
    "pip install --no-build-isolation .": ["tests/documents/test_commands.py::test_pip_commands"],
    "horovodrun --check-build": [JOBS + "test_check_build_names_us"],
    "horovodrun --help": ["tests/single/test_launch.py::test_help_has_a_line_for_each_policy"],
    "horovodrun --partial first:3 -np 4 python train.py": [
        PATH + "test_from_an_unmodified_script_to_the_advised_policy"],
    "HOROVOD_TIMELINE=timeline.json horovodrun --partial majority -np 4 python train.py": [
        PATH + "test_from_an_unmodified_script_to_the_advised_policy"],
    "HOROVOD_TIMELINE=timeline.json horovodrun --partial full -np 4 python train.py": [
        PATH + "test_from_an_unmodified_script_to_the_advised_policy"],
    "python -m horovod_partial.report timeline.json": [
        PATH + "test_from_an_unmodified_script_to_the_advised_policy"],
    "python -m horovod_partial.report --help": ["tests/single/test_report.py::test_help_teaches"],
    "python -m horovod_partial.report stats.json --staleness-cost 1 -o report-of-stats": [
        "tests/single/test_report.py::test_a_page_of_statistics_and_one_without_steps",
        "tests/single/test_report.py::test_the_cost_of_staleness_decides"],
    "horovodrun -np 4 python examples/tensorflow2_keras_digits.py": [
        JOBS + "TestDemos::test_four_ranks"],
    "pip install -r requirements/examples.txt": [
        "tests/documents/test_commands.py::test_pip_commands"],
    "python examples/pytorch_cifar10_resnet.py --make-sample data/cifar10-sample": [
        EXAMPLES + "test_resnet_on_cifar10"],
    "horovodrun -np 2 python examples/pytorch_cifar10_resnet.py --data data/cifar10-sample "
    "--batch-size 32 --epochs 5 --warm-up 1": [EXAMPLES + "test_resnet_on_cifar10"],
    "python examples/pytorch_imagenet_resnet50.py --make-sample data/imagenet-sample": [
        EXAMPLES + "test_resnet_on_imagenet_by_slurm_carries_on_from_a_checkpoint"],
    "horovodrun -np 2 python examples/pytorch_imagenet_resnet50.py --data data/imagenet-sample "
    "--model resnet18 --image-size 64 --batch-size 8 --epochs 4 --warm-up 1": [
        EXAMPLES + "test_resnet_on_imagenet_by_slurm_carries_on_from_a_checkpoint"],
    "echo localhost:2 > hosts": [EXAMPLES + "test_elastic_digits"],
    "horovodrun -np 2 --min-np 2 --max-np 4 --host-discovery-script examples/discover_hosts.sh "
    "--network-interfaces lo python examples/elastic_digits.py": [EXAMPLES + "test_elastic_digits"],
    "horovodrun -np 4 --mpi python train.py": [JOBS + "test_a_stock_script_runs_unchanged"],
    "mpirun -np 4 -x HOROVOD_CONTROLLER=mpi -x HOROVOD_CPU_OPERATIONS=mpi python train.py": [
        JOBS + "test_a_stock_script_runs_unchanged"],
    "mpirun -np 4 -x HOROVOD_PARTIAL_POLICY=first:3 -x HOROVOD_CONTROLLER=mpi "
    "-x HOROVOD_CPU_OPERATIONS=mpi python train.py": [JOBS + "test_a_rank_that_ends_early_drains"],
    "python -m horovod_partial.check": [
        ENVIRONMENTS + "TestCheck::test_it_passes_and_minds_no_settings_of_a_job"],
    "horovodrun -np 4 -H one:2,two:2 python -m horovod_partial.check --here": [
        ENVIRONMENTS + "TestCheck::test_as_ranks_of_a_launcher", ENVIRONMENTS + "test_hosts_by_ssh"],
    "horovodrun --partial first:3 -np 4 -H one:2,two:2 --ssh-port 2222 --ssh-identity-file KEY "
    "python train.py": [ENVIRONMENTS + "test_hosts_by_ssh"],
    "export HOROVOD_PARTIAL_POLICY=first:3 HOROVOD_CONTROLLER=mpi HOROVOD_CPU_OPERATIONS=mpi": [
        ENVIRONMENTS + "test_slurm"],
    "srun --mpi=pmix -n 4 python train.py": [ENVIRONMENTS + "test_slurm"],
    "mpirun -np $SLURM_NTASKS --bind-to none python train.py": [ENVIRONMENTS + "test_slurm"],
    "horovodrun --partial first:3 -np $SLURM_NTASKS python train.py": [ENVIRONMENTS + "test_slurm"],
    "horovodrun --config-file job.yaml -np 4 python train.py": [
        "tests/documents/test_snippets.py::test_configuration_files",
        "tests/single/test_launch.py::test_the_command_line_wins_over_the_configuration_file"],
    "horovodrun --partial majority --partial-staleness-bound 32 --partial-catch-up latest "
    "--partial-resync-every 1000 -np 4 python train.py": [
        "tests/single/test_launch.py::test_arguments_become_environment_variables"],
}

WRITTEN = {command: documents._name(path) for path in DOCUMENTS
           for command in documents.commands(path)}
INLINE = {command for path in DOCUMENTS for command in documents.inline_commands(path)}


def make(*arguments):
    """`make` with the build that is there, whatever has changed since."""
    return subprocess.run(["make", "--old-file=.venv/.built", "--old-file=.venv/.dependencies",
                           "--old-file=.venv/.test", "--old-file=.venv/.docs", *arguments],
                          cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_every_command_is_in_the_table():
    unknown = {command: where for command, where in WRITTEN.items() if command not in TABLE}
    assert not unknown, f"say in TABLE which test runs these: {unknown}"


def test_every_row_of_the_table_is_written_somewhere():
    assert set(TABLE) <= set(WRITTEN)


def functions(path):
    """The tests in a file, with their classes."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{inner.name}" for inner in node.body
                      if isinstance(inner, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
    return found


@pytest.mark.parametrize("test", sorted({test for tests in TABLE.values() for test in tests}))
def test_the_tests_of_the_table_exist(test):
    file, _, name = test.partition("::")
    if file == ".ci/run":
        assert "make test" in (ROOT / file).read_text()
    else:
        assert name in functions(ROOT / file)


@pytest.mark.parametrize("command", sorted(
    command for command in {*WRITTEN, *INLINE} if re.match(r"(HOROVOD_\w+=\S+ )*make ", command)))
def test_make_knows_its_target(command):
    arguments = [a for a in shlex.split(command) if not a.startswith("HOROVOD_")][1:]
    planned = make("--dry-run", *arguments)
    assert planned.returncode == 0, planned.stderr


@pytest.mark.parametrize("command", sorted(
    command for command in {*WRITTEN, *INLINE} if re.search(r"\bhorovodrun .*-np", command)))
def test_horovodrun_takes_these_arguments(command, monkeypatch, tmp_path):
    """Up to where ranks would start."""
    from horovod.runner import launch
    from horovod.runner.common.util import config_parser

    words = [w for w in shlex.split(command.replace("$SLURM_NTASKS", "4"))
             if not w.startswith("HOROVOD_")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "job.yaml").write_text(documents.snippets("yaml")[0].code)
    monkeypatch.setattr(sys, "argv", words)
    args = launch.parse_args()
    environment = config_parser.set_env_from_args({}, args)
    assert args.command[:1] == ["python"] and args.num_proc >= 1
    assert ("HOROVOD_PARTIAL_POLICY" in environment) == ("--partial" in command
                                                          or "config-file" in command)


def test_make_help():
    lines = make("help").stdout.splitlines()
    targets = {line.split()[0]: line.split(maxsplit=1)[1:] for line in lines}
    assert {"demo", "test", "docs", "soak"} <= set(targets) and all(targets.values())


def test_lint():
    result = make("lint")
    assert result.returncode == 0, result.stdout + result.stderr


def test_git_commands(tmp_path):
    """What CONTRIBUTING has one do in build/patch-tree, in a small repository."""
    def git(*arguments):
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "sequence.editor=true",
             *arguments], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    for name in ("pristine", "compat/one", "partial/two"):
        file = tmp_path / name.replace("/", "-")
        file.write_text(name)
        git("add", "--all")
        git("commit", "--quiet", "--message", name)
    (tmp_path / "compat-one").write_text("better")
    git("commit", "--all", f"--fixup={git('rev-parse', 'HEAD~1').strip()}")
    git("rebase", "--interactive", "--autosquash", "--root")
    assert git("log", "--format=%s").split() == ["partial/two", "compat/one", "pristine"]
    assert git("show", "HEAD~1:compat-one") == "better"


def test_pip_commands():
    """The versions that README has one install are those that this environment was made with, and
    `make setup`, which made it, builds in the same way."""
    wanted = [word for command in WRITTEN if command.startswith("pip install")
              for word in command.split()[2:] if "==" in word]
    assert wanted
    for line in [*wanted, *(ROOT / "requirements/build.txt").read_text().splitlines()]:
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            installed = importlib.metadata.version(name)
            assert installed.partition("+")[0] == version, name
    makefile = (ROOT / "Makefile").read_text()
    assert "pip install --quiet --no-build-isolation" in makefile
    assert "pip install --quiet -r requirements/examples.txt" in makefile
