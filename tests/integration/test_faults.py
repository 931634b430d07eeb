"""Ranks that die, and ranks that stand still for a while. Launchers end the survivors themselves, so
these workers run without one."""

import signal
import time

import pytest

from common import ROOT

SCRIPT = ROOT / "tests/integration/scripts/survivor.py"
pytestmark = pytest.mark.timeout(300)


@pytest.mark.parametrize("framework, victim", [("torch", 0), ("torch", 2), ("tensorflow", 1)])
def test_a_killed_rank_is_an_error_on_all_others(start, framework, victim):
    job = start(3, SCRIPT, framework, 0)
    job.wait_for(*[f"rank {rank} did step 20" for rank in range(3)])
    job.ranks[victim].kill()
    for rank in set(range(3)) - {victim}:
        assert job.end(rank) == 7, "".join(job.output)
    job.wait_for(*[f"rank {rank} noticed" for rank in set(range(3)) - {victim}])


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_rank_that_stands_still_loses_nothing(start, framework):
    steps = 400
    job = start(3, SCRIPT, framework, steps)
    job.wait_for(*[f"rank {rank} did step 1" for rank in range(3)])
    job.ranks[1].send_signal(signal.SIGSTOP)
    time.sleep(5)  # not to order events: this is the standstill
    job.ranks[1].send_signal(signal.SIGCONT)
    for rank in range(3):
        assert job.end(rank) == 0, "".join(job.output)
    results = [line.split("has ")[1] for line in job.output if " has " in line]
    assert len(results) == 3 and len(set(results)) == 1, job.output
    assert results[0].startswith(f"{float(steps * 7)} after"), results
