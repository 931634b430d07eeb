"""How jobs are launched: an unmodified script of stock Horovod trains partially however its ranks
are started, and rank 0 says so once."""

import os
import shlex
import subprocess
import sys

import pytest
import services

from common import ROOT

SCRIPT = str(ROOT / "tests/integration/scripts/stock.py")
POLICY = {"HOROVOD_PARTIAL_POLICY": "first:1", "HOROVOD_PARTIAL_STALENESS_BOUND": "3"}
SAID = ("[rank 0] horovod_partial: this job trains partially: policy first:1, staleness_bound 3, "
        "catch_up replay, seed 0")
pytestmark = pytest.mark.timeout(300)


def check(output, said=SAID):
    assert output.count("trained partially: first:1") == 2, output
    assert output.count("this job trains partially") == 1, output
    assert said in output, output


@pytest.mark.parametrize("backend", ["gloo", "horovodrun-mpi"])
def test_arguments_and_a_configuration_file(launch, tmp_path, backend):
    file = tmp_path / "job.yaml"
    file.write_text("partial:\n  policy: majority\n  staleness_bound: 3\n  resync_every: 50\n"
                    "  catch_up: sum\n")
    result = launch(2, [SCRIPT], backend, options=[
        "--config-file", str(file), "--partial", "first:1", "--partial-seed", "7"])
    assert result.returncode == 0, result.output
    check(result.output, "policy first:1, staleness_bound 3, catch_up sum, resync_every 50, seed 7")


def test_mpirun(launch):
    result = launch(2, [SCRIPT], "mpi", POLICY)
    assert result.returncode == 0, result.output
    check(result.output)


def test_synchronous_jobs_say_nothing(launch):
    result = launch(1, [SCRIPT])
    assert result.returncode == 0, result.output
    assert "partial" not in result.output, result.output


def test_horovod_run(tmp_path):
    """The function's environment, as horovod.run hands it on."""
    result = subprocess.run(
        [sys.executable, "run_function.py", "uneven_end", "horovod.torch", "end"], text=True,
        cwd=ROOT / "tests/integration/scripts", env={**os.environ, **POLICY}, timeout=200,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
    assert "horovod.run: [3, 40]" in result.stdout
    assert result.stdout.count("this job trains partially") == 1 and SAID in result.stdout


def test_hosts_by_ssh(launch, tmp_path):
    """Settings reach ranks that ssh starts, whose environment is not the launcher's."""
    with services.ssh_server(tmp_path) as port:
        result = launch(2, [SCRIPT], "gloo", {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "HOROVOD_PARTIAL_STALENESS_BOUND": "3",
        }, options=["--partial", "first:1", "-H", "localhost:1,127.0.0.2:1",
                    "--ssh-port", str(port), "--ssh-identity-file", str(tmp_path / "key"),
                    "--network-interfaces", "lo", "--disable-cache", "--start-timeout", "120"])
    assert result.returncode == 0, result.output
    check(result.output)


class TestCheck:
    """`python -m horovod_partial.check`"""

    def run(self, *arguments, **environment):
        return subprocess.run([sys.executable, "-m", "horovod_partial.check", *arguments],
                              env={**os.environ, **environment}, cwd="/", timeout=200, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def test_it_passes_and_minds_no_settings_of_a_job(self):
        result = self.run("--policy", "first:1", HOROVOD_PARTIAL_POLICY="nonsense",
                          HOROVOD_RANK="7")
        assert result.returncode == 0, result.stdout
        assert "ok: 2 ranks" in result.stdout and "each of 40 contributions" in result.stdout

    def test_as_ranks_of_a_launcher(self, launch):
        # -P: the installed package, not the sources in this folder.
        result = launch(2, ["-P", "-m", "horovod_partial.check", "--here",
                            "--framework", "tensorflow"], "mpi")
        assert result.returncode == 0, result.output
        assert result.output.count("partial rounds (majority) of tensorflow") == 1, result.output

    @pytest.mark.parametrize("arguments, words", [
        (["-np", "0"], "-np: 0 must be at least 1"),
        (["--device", "cuda", "--framework", "tensorflow"], "--device: cuda is for PyTorch")])
    def test_wrong_arguments(self, arguments, words):
        result = self.run(*arguments)
        assert result.returncode == 2 and words in result.stdout

    def test_a_lost_contribution_fails_it(self):
        """On one rank: a round is kept from it."""
        script = ("import horovod_partial.torch as hvd\n"
                  "from horovod_partial import check\n"
                  "given = hvd.partial_allreduce\n"
                  "hvd.partial_allreduce = lambda *args, **kwargs: given(*args, **kwargs)[1:]\n"
                  "raise SystemExit(check.main(['--here', '--framework', 'torch']))\n")
        # In a process of its own: an MPI that Horovod began ends with it, for good.
        result = subprocess.run([sys.executable, "-P", "-c", script], timeout=200, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert result.returncode == 1, result.stdout
        assert "the rounds hold 0.0 and not 20.0" in result.stdout


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with services.slurm(tmp_path_factory.mktemp("slurm")) as started:
        yield started


@pytest.mark.parametrize("command", [
    "srun --mpi=pmix -n 2 {python} {script}",
    "salloc --quiet -n 2 mpirun -np 2 --bind-to none {python} {script}",
    "salloc --quiet -n 2 sh -c 'horovodrun --gloo -np $SLURM_NTASKS {python} {script}'"],
    ids=["srun", "mpirun", "horovodrun"])
def test_slurm(cluster, command):
    prefix, environment = cluster
    if "horovodrun" not in command:
        environment = {**environment, "HOROVOD_CONTROLLER": "mpi", "HOROVOD_CPU_OPERATIONS": "mpi"}
    result = subprocess.run(
        [*prefix, *shlex.split(command.format(python=sys.executable, script=SCRIPT))],
        env={**os.environ, **environment, **POLICY}, timeout=240, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert result.returncode == 0, result.stdout
    check(result.stdout)
