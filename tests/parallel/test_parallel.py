"""Runs the bodies on 1, 2 and 4 ranks, over Gloo and over MPI: those in tests/parallel/shared for
each framework, and each framework's own.

The bodies are pytest files that every rank runs in the same order. A hang in any rank ends the run
within two minutes, with that rank's stacks.
"""

import csv
import json

import pytest

from common import ROOT

HERE = ROOT / "tests/parallel"
NO_CACHE = {"HOROVOD_CACHE_CAPACITY": "0", "HOROVOD_FUSION_THRESHOLD": "64"}


@pytest.mark.parametrize("np, backend, env", [
    pytest.param(1, "gloo", {}, id="np1-gloo"),
    pytest.param(2, "gloo", {}, id="np2-gloo"),
    pytest.param(4, "gloo", {}, id="np4-gloo"),
    pytest.param(2, "gloo", NO_CACHE, id="np2-gloo-no-cache-tiny-fusion"),
    pytest.param(1, "mpi", {}, id="np1-mpi"),
    pytest.param(4, "mpi", {}, id="np4-mpi"),
    pytest.param(2, "mpi", NO_CACHE, id="np2-mpi-no-cache-tiny-fusion"),
])
@pytest.mark.timeout(600)
def test_torch(launch, tmp_path, np, backend, env):
    run(launch, tmp_path, "torch", np, ["shared", "torch"], backend, env)


# Each framework's own bodies at every number of ranks would take too long; and nothing of MPI is
# in the layer of TensorFlow.
OWN, ROUNDS = ["shared", "tensorflow"], ["shared/test_rounds.py", "shared/test_replicas.py"]


@pytest.mark.parametrize("np, backend, env, bodies", [
    pytest.param(1, "gloo", {}, OWN, id="np1-gloo"),
    pytest.param(2, "gloo", {}, OWN, id="np2-gloo"),
    pytest.param(4, "gloo", {}, ["shared"], id="np4-gloo"),
    pytest.param(2, "mpi", NO_CACHE, ROUNDS, id="np2-mpi-no-cache-tiny-fusion"),
])
@pytest.mark.timeout(900)
def test_tensorflow(launch, tmp_path, np, backend, env, bodies):
    run(launch, tmp_path, "tensorflow", np, bodies, backend, env)


ENVIRONMENT, PROGRAMS, SETS = [f"shared/{body}.py" for body in (
    "environment", "test_programs", "test_process_sets")]


@pytest.mark.timeout(300)
class TestEnvironments:
    """Some bodies, with what Horovod's environment variables switch on."""

    def test_autotune_and_timeline(self, launch, tmp_path):
        timeline, log = tmp_path / "timeline.json", tmp_path / "autotune.csv"
        env = {
            "HOROVOD_TIMELINE": str(timeline), "HOROVOD_TIMELINE_MARK_CYCLES": "1",
            "HOROVOD_AUTOTUNE": "1", "HOROVOD_AUTOTUNE_LOG": str(log),
            "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "1", "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "1",
            "HOROVOD_AUTOTUNE_BAYES_OPT_MAX_SAMPLES": "1", "HOROVOD_HIERARCHICAL_ALLGATHER": "0"}
        run(launch, tmp_path, "torch", 2, [ENVIRONMENT, PROGRAMS], env=env)
        assert any(event.get("name") == "CYCLE_START" for event in json.loads(timeline.read_text()))
        # It tried rounds with the cache and without.
        tried = csv.DictReader(log.read_text().splitlines(), skipinitialspace=True)
        assert {row["cache_enabled"] for row in tried} == {"0", "1"}

    def test_a_tiny_cache_and_no_pause(self, launch, tmp_path):
        """And options that are for GPUs on several hosts: they do no harm here."""
        env = {
            "HOROVOD_CACHE_CAPACITY": "2", "HOROVOD_DISABLE_GROUP_FUSION": "1",
            "HOROVOD_CYCLE_TIME": "0", "HOROVOD_BATCH_D2D_MEMCOPIES": "0",
            "HOROVOD_HIERARCHICAL_ALLGATHER": "1", "HOROVOD_HIERARCHICAL_ALLREDUCE": "1",
            "HOROVOD_TORUS_ALLREDUCE": "1"}
        run(launch, tmp_path, "torch", 2, [ENVIRONMENT, PROGRAMS, "shared/test_optimizers.py"],
            "mpi", env)

    @pytest.mark.parametrize("framework, env", [
        ("torch", {"HOROVOD_CYCLE_TIME": "10"}),
        ("tensorflow", {"HOROVOD_CACHE_CAPACITY": "2", "HOROVOD_EVENT_DRIVEN": "0"})],
        ids=["torch-slow-cycles", "tensorflow-tiny-cache-by-the-clock"])
    def test_timelines_in_the_middle(self, launch, tmp_path, framework, env):
        run(launch, tmp_path, framework, 2, [ENVIRONMENT], env={
            **env, "HOROVOD_TIMELINE": "DYNAMIC", "HOROVOD_DISABLE_GROUP_FUSION": "1"})

    @pytest.mark.parametrize("framework, bodies", [("torch", [ENVIRONMENT, SETS]),
                                                   ("tensorflow", [SETS])])
    def test_static_process_sets_on_two_hosts(self, launch, tmp_path, framework, bodies):
        """And with the options for hierarchical operations, which do no harm: Horovod has these
        operations for GPUs only, the allgather too, and they are not in this build."""
        run(launch, tmp_path, framework, 4, bodies,
            env={"HOROVOD_PARTIAL_TEST_PROCESS_SETS": "0,1,2;1,2,3"},
            options=["-H", "localhost:2,127.0.0.1:2", "--hierarchical-allreduce",
                     "--hierarchical-allgather"])


def run(launch, tmp_path, framework, np, bodies, backend="gloo", env=None, options=()):
    env = {**(env or {}), "HOROVOD_PARTIAL_TEST_EVENTS": str(tmp_path / "store"),
           "HOROVOD_PARTIAL_TEST_FRAMEWORK": framework,
           "HOROVOD_SAFETY_CYCLE_SECONDS": "1000"}  # a lost wake-up is a hang
    bodies = [str(HERE / body) for body in bodies]
    result = launch(np, [str(HERE / "run_rank.py"), *bodies], backend, env, timeout=800,
                    options=options, imported=framework)
    assert result.returncode == 0, result.output[-8000:]
    assert result.output.count(" passed") == np, result.output[-8000:]
