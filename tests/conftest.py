"""What all tests share. Rank-parallel tests: see tests/parallel/torch/conftest.py."""

import os
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


class Launcher:
    """Runs a command on several ranks of this machine."""

    def __init__(self, directory):
        self.directory = directory

    def __call__(self, np, command, backend="gloo", env=None, timeout=240, options=()):
        """`command` (after `python`) on `np` ranks; returns the finished process, stdout and
        stderr together. A hang kills all ranks and fails the test with what they have printed.
        `backend`: "gloo", "mpi" (by mpirun) or "horovodrun-mpi". `options` of the launcher."""
        environment = {**os.environ, **(env or {}), "PYTHONUNBUFFERED": "1"}
        if backend in ("gloo", "horovodrun-mpi"):
            launch = ["horovodrun", "-np", str(np), f"--{backend.removeprefix('horovodrun-')}"]
        else:
            environment.update(HOROVOD_CONTROLLER="mpi", HOROVOD_CPU_OPERATIONS="mpi")
            launch = ["mpirun", "-np", str(np), "--oversubscribe", "--bind-to", "none"]
        log = self.directory / f"{backend}-{np}.log"
        with open(log, "w") as output:
            process = subprocess.Popen([*launch, *options, sys.executable, *command],
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
def launch(tmp_path):
    return Launcher(tmp_path)


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
