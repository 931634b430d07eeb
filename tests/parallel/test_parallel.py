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
    pytest.param(2, "mpi", {}, id="np2-mpi"),
    pytest.param(4, "mpi", {}, id="np4-mpi"),
    pytest.param(2, "mpi", NO_CACHE, id="np2-mpi-no-cache-tiny-fusion"),
])
@pytest.mark.timeout(600)
def test_torch(launch, tmp_path, np, backend, env):
    run(launch, tmp_path, "torch", np, backend, env)


@pytest.mark.parametrize("np, backend, env, own", [
    pytest.param(1, "gloo", {}, True, id="np1-gloo"),
    pytest.param(2, "gloo", {}, True, id="np2-gloo"),
    # Four TensorFlows on two cores are slow: the invariants only.
    pytest.param(4, "gloo", {}, False, id="np4-gloo"),
    pytest.param(2, "mpi", NO_CACHE, False, id="np2-mpi-no-cache-tiny-fusion"),
])
@pytest.mark.timeout(900)
def test_tensorflow(launch, tmp_path, np, backend, env, own):
    run(launch, tmp_path, "tensorflow", np, backend, env, own)


@pytest.mark.timeout(300)
class TestEnvironments:
    """Some bodies, with what Horovod's environment variables switch on."""

    def run(self, launch, tmp_path, np, bodies, env, backend="gloo", options=()):
        bodies = [str(HERE / body) for body in bodies]
        run_bodies(launch, tmp_path, "torch", np, bodies, backend, env, options)

    def test_autotune_and_timeline(self, launch, tmp_path):
        timeline, log = tmp_path / "timeline.json", tmp_path / "autotune.csv"
        self.run(launch, tmp_path, 2, ["shared/environment.py", "shared/test_programs.py"], {
            "HOROVOD_TIMELINE": str(timeline), "HOROVOD_TIMELINE_MARK_CYCLES": "1",
            "HOROVOD_AUTOTUNE": "1", "HOROVOD_AUTOTUNE_LOG": str(log),
            "HOROVOD_AUTOTUNE_WARMUP_SAMPLES": "1", "HOROVOD_AUTOTUNE_STEPS_PER_SAMPLE": "1",
            "HOROVOD_AUTOTUNE_BAYES_OPT_MAX_SAMPLES": "1", "HOROVOD_HIERARCHICAL_ALLGATHER": "0"})
        assert any(event.get("name") == "CYCLE_START" for event in json.loads(timeline.read_text()))
        # It tried rounds with the cache and without.
        tried = csv.DictReader(log.read_text().splitlines(), skipinitialspace=True)
        assert {row["cache_enabled"] for row in tried} == {"0", "1"}

    def test_a_tiny_cache_and_no_pause(self, launch, tmp_path):
        self.run(launch, tmp_path, 2, ["shared/environment.py", "shared/test_programs.py",
                                       "shared/test_optimizers.py"], {
            "HOROVOD_CACHE_CAPACITY": "2", "HOROVOD_DISABLE_GROUP_FUSION": "1",
            "HOROVOD_CYCLE_TIME": "0", "HOROVOD_BATCH_D2D_MEMCOPIES": "0",
            "HOROVOD_HIERARCHICAL_ALLGATHER": "1", "HOROVOD_HIERARCHICAL_ALLREDUCE": "1",
            "HOROVOD_TORUS_ALLREDUCE": "1"}, "mpi")

    def test_slow_cycles_and_timelines_in_the_middle(self, launch, tmp_path):
        self.run(launch, tmp_path, 2, ["shared/environment.py"], {
            "HOROVOD_CYCLE_TIME": "10", "HOROVOD_TIMELINE": "DYNAMIC",
            "HOROVOD_DISABLE_GROUP_FUSION": "1"})

    def test_static_process_sets_on_two_hosts_with_hierarchical_operations(self, launch, tmp_path):
        self.run(launch, tmp_path, 4, ["shared/environment.py", "shared/test_process_sets.py"],
                 {"HOROVOD_PARTIAL_TEST_PROCESS_SETS": "0,1,2;1,2,3"},
                 options=["-H", "localhost:2,127.0.0.1:2", "--hierarchical-allreduce",
                          "--hierarchical-allgather"])


def run(launch, tmp_path, framework, np, backend, env, own=True):
    bodies = [str(HERE / "shared"), *([str(HERE / framework)] if own else [])]
    run_bodies(launch, tmp_path, framework, np, bodies, backend, env)


def run_bodies(launch, tmp_path, framework, np, bodies, backend, env, options=()):
    env = {**env, "HOROVOD_PARTIAL_TEST_EVENTS": str(tmp_path / "store"),
           "HOROVOD_PARTIAL_TEST_FRAMEWORK": framework}
    result = launch(np, [str(HERE / "run_rank.py"), *bodies], backend, env, timeout=800,
                    options=options)
    assert result.returncode == 0, result.output[-8000:]
    assert result.output.count(" passed") == np, result.output[-8000:]
