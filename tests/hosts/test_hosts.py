"""Ranks on two hosts, with a slow and lossy link between them: each packet takes 5 ms, one in a hundred
is lost. `make test-hosts` runs the full form."""

import contextlib
import os
import queue
import re
import time

import pytest

from common import ROOT

PARALLEL = ROOT / "tests/parallel"
SURVIVOR = ROOT / "tests/integration/scripts/survivor.py"
FULL = os.environ.get("HOROVOD_PARTIAL_TEST_HOSTS") == "full"
full = pytest.mark.skipif(not FULL, reason="long: make test-hosts")
pytestmark = pytest.mark.timeout(2000)
# Late ranks, flushes, synchronous operations in between, and replicas that are the same after all that.
SHORT = " or ".join([
    "test_a_late_rank_returns", "test_flush_carries",
    "(test_synchronous_operations_at_any_time and majority)",
    "(test_replicas_are_identical and momentum)"])
# What a link changes is what goes over it, and when. Wrong calls, dtypes, kinds of optimizers and the
# policies between the extremes are as they are on one host.
CORE = ("not test_bad_input and (not first or opposite_order) and (not float or float32) and "
        + " and ".join(f"not {word}" for word in (
            "quorum", "dtype", "bit_for_bit", "test_full_trains", "adamw", "rmsprop", "adagrad")))


@pytest.mark.parametrize("framework, size, select, least", [
    pytest.param("torch", 2, SHORT, 5, id="torch-2-short"),
    pytest.param("torch", 4, CORE, 90, id="torch-4", marks=full),
    pytest.param("tensorflow", 2, "test_replicas", 15, id="tensorflow-2", marks=full),
])
def test_bodies(start, link, hosts, tmp_path, capsys, framework, size, select, least):
    """The bodies that all frameworks share: so many at least, or words no longer match."""
    lost = link.lost
    # The time limit of a body is for what hangs, not for a link that is slow.
    job = start(size, PARALLEL / "run_rank.py", PARALLEL / "shared", "-vv", "--timeout=300",
                "-k", select, hosts=hosts(framework),
                env={"HOROVOD_PARTIAL_TEST_EVENTS": str(tmp_path / "store"),
                     "HOROVOD_PARTIAL_TEST_FRAMEWORK": framework})
    follow(job, capsys)
    statuses = [job.end(rank, timeout=60) for rank in range(size)]
    output = "".join(job.output)
    assert statuses == [0] * size, output[-8000:]
    passed = [int(count) for count in re.findall(r"(\d+) passed", output)]
    assert len(passed) == size and min(passed) >= least, output[-8000:]
    assert link.lost > lost  # or the link was no trial


def follow(job, capsys):
    """Waits for the first rank to end. The full form shows how far it is."""
    shown = None
    while all(rank.poll() is None for rank in job.ranks):
        with contextlib.suppress(queue.Empty):
            passed = re.search(r"(\w+\.py::.+?) PASSED +\[ *(\d+)%\]", job.lines.get(timeout=1))
            if FULL and passed and passed[2] != shown:
                shown = passed[2]
                with capsys.disabled():
                    print(f"\r{shown:>4} % {passed[1]:<90.90}", end="", flush=True)


@pytest.mark.parametrize("victim", [0, 3])
def test_a_killed_rank_is_an_error_on_both_hosts(start, hosts, victim):
    job = start(4, SURVIVOR, "torch", 0, hosts=hosts("torch"))
    job.wait_for(*[f"rank {rank} did step 20" for rank in range(4)])
    job.ranks[victim].kill()
    job.end(victim)
    survivors = set(range(4)) - {victim}
    # As on one host: what is lost on the link is sent again within a second.
    job.wait_for(*[f"rank {rank} noticed" for rank in survivors], timeout=10)
    for rank in survivors:
        assert job.end(rank) == 7, "".join(job.output)


def test_nothing_is_lost_with_a_link_that_fails_for_a_while(start, link, hosts):
    steps = 100
    job = start(4, SURVIVOR, "torch", steps, hosts=hosts("torch"))
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
