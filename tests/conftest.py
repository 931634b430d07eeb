"""What all tests share. Rank-parallel tests: see tests/parallel/torch/conftest.py."""

import os
import shutil
import subprocess
import sys

import hypothesis
import pytest

from common import ROOT

# Timings are no part of what is tested.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_configure(config):
    # MPI refuses root, which containers and CI are.
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")


@pytest.fixture(scope="session")
def fork_server():
    """`fork_server(framework)`: processes that begin with its modules imported, none of ours."""
    from forks import LARGE_MODULES, ForkServer

    servers = {}

    def server(framework):
        if framework not in servers:
            servers[framework] = ForkServer(*LARGE_MODULES[framework])
        return servers[framework]

    yield server
    for some in servers.values():
        some.close()


class Launcher:
    """Runs a command on several ranks of this machine."""

    def __init__(self, directory, fork_server):
        self.directory = directory
        self.fork_server = fork_server

    def __call__(self, np, command, backend="gloo", env=None, timeout=240, options=(),
                 imported=None):
        """`command` (after `python`) on `np` ranks; returns the finished process, stdout and
        stderr together. A hang kills all ranks and fails the test with what they have printed.
        `backend`: "gloo", "mpi" (by mpirun) or "horovodrun-mpi". `options` of the launcher.
        `imported`: a module such as `horovod.torch`, whose framework ranks begin with."""
        environment = {**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"}
        if backend in ("gloo", "horovodrun-mpi"):
            launch = [shutil.which("horovodrun"), "-np", str(np),
                      f"--{backend.removeprefix('horovodrun-')}"]
            if imported is not None:  # horovodrun asks PyTorch what the build has
                launch = self.fork_server("torch").command(*launch)
        else:
            environment.update(HOROVOD_CONTROLLER="mpi", HOROVOD_CPU_OPERATIONS="mpi")
            launch = ["mpirun", "-np", str(np), "--oversubscribe", "--bind-to", "none"]
        if imported is None:
            command = [sys.executable, *command]
        else:
            framework = "torch" if imported.endswith("torch") else "tensorflow"
            command = self.fork_server(framework).command(*command)
        log = self.directory / f"{backend}-{np}.log"
        with open(log, "w") as output:
            process = subprocess.Popen([*launch, *options, *command],
                                       stdout=output, stderr=subprocess.STDOUT, env=environment,
                                       cwd=ROOT, start_new_session=True)
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                pytest.fail(f"{' '.join(launch)} hung for {timeout} s:\n{log.read_text()[-6000:]}")
        process.output = log.read_text()
        return process


@pytest.fixture
def launch(tmp_path, fork_server):
    return Launcher(tmp_path, fork_server)


@pytest.fixture
def start():
    """Starts a `jobs.Job`, which ends with the test."""
    from jobs import Job

    jobs = []

    def begin(*args, **kwargs):
        jobs.append(Job(*args, **kwargs))
        return jobs[-1]

    yield begin
    for job in jobs:
        job.close()
