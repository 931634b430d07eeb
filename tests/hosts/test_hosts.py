"""Ranks on two hosts, with a slow and lossy link between them: each packet takes 5 ms, one in a hundred
is lost. `make test-hosts` runs the full form."""

import os
import time

import pytest

from common import ROOT

PARALLEL = ROOT / "tests/parallel"
SURVIVOR = ROOT / "tests/integration/scripts/survivor.py"
FULL = os.environ.get("HOROVOD_PARTIAL_TEST_HOSTS") == "full"
full = pytest.mark.skipif(not FULL, reason="long: make test-hosts")
pytestmark = pytest.mark.timeout(2000)
SHORT = "test_replay or test_flush"


@pytest.mark.parametrize("framework, size, select", [
    pytest.param("torch", 2, SHORT, id="torch-2-short"),
    pytest.param("torch", 2, "", id="torch-2", marks=full),
    pytest.param("torch", 4, "", id="torch-4", marks=full),
    pytest.param("tensorflow", 2, "", id="tensorflow-2", marks=full),
])
def test_bodies(start, link, tmp_path, framework, size, select):
    """The bodies that all frameworks share."""
    job = start(size, PARALLEL / "run_rank.py", PARALLEL / "shared", "-k", select, hosts=link.hosts,
                env={"HOROVOD_PARTIAL_TEST_EVENTS": str(tmp_path / "store"),
                     "HOROVOD_PARTIAL_TEST_FRAMEWORK": framework})
    statuses = [job.end(rank, timeout=1700) for rank in range(size)]
    assert statuses == [0] * size, "".join(job.output)[-8000:]
    assert link.lost > 0  # or the link was no trial


@pytest.mark.parametrize("victim", [0, 3])
def test_a_killed_rank_is_an_error_on_both_hosts(start, link, victim):
    job = start(4, SURVIVOR, "torch", 0, hosts=link.hosts)
    job.wait_for(*[f"rank {rank} did step 20" for rank in range(4)])
    job.ranks[victim].kill()
    survivors = set(range(4)) - {victim}
    job.wait_for(*[f"rank {rank} noticed" for rank in survivors], timeout=20)
    for rank in survivors:
        assert job.end(rank) == 7, "".join(job.output)


def test_nothing_is_lost_with_a_link_that_fails_for_a_while(start, link):
    steps = 100
    job = start(4, SURVIVOR, "torch", steps, hosts=link.hosts)
    job.wait_for(*[f"rank {rank} did step 1" for rank in range(4)])
    lost = link.lost
    with link.cut():
        time.sleep(10 if FULL else 3)  # not to order events: this is the failure
    assert link.lost > lost and all(rank.poll() is None for rank in job.ranks)
    for rank in range(4):
        assert job.end(rank, timeout=120) == 0, "".join(job.output)
    results = [line.split("has ")[1] for line in job.output if " has " in line]
    assert len(results) == 4 and len(set(results)) == 1, job.output
    assert results[0].startswith(f"{float(steps * 15)} after"), results
