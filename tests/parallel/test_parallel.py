"""Runs the bodies on 1, 2 and 4 ranks, over Gloo and over MPI: those in tests/parallel/shared for
each framework, and each framework's own.

The bodies are pytest files that every rank runs in the same order. A hang in any rank ends the run
within two minutes, with that rank's stacks.
"""

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


def run(launch, tmp_path, framework, np, backend, env, own=True):
    env = {**env, "HOROVOD_PARTIAL_TEST_EVENTS": str(tmp_path / "store"),
           "HOROVOD_PARTIAL_TEST_FRAMEWORK": framework}
    bodies = [str(HERE / "shared"), *([str(HERE / framework)] if own else [])]
    result = launch(np, [str(HERE / "run_rank.py"), *bodies], backend, env, timeout=800)
    assert result.returncode == 0, result.output[-8000:]
    assert result.output.count(" passed") == np, result.output[-8000:]
