"""Ranks that die, and ranks that stand still for a while. Launchers end the survivors themselves, so
these workers run without one."""

import os
import signal
import time

import pytest

from common import ROOT
from forks import ForkServer

KILLED = ROOT / "tests/integration/scripts/killed.py"
SCRIPT = ROOT / "tests/integration/scripts/survivor.py"
STANDSTILL = float(os.environ.get("HOROVOD_PARTIAL_TEST_STANDSTILL", "5"))  # seconds
NOTICE = 10  # seconds, from when the operating system has noticed, until all ranks have
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def spawn():
    """Ranks of a process that has imported PyTorch."""
    server = ForkServer("torch", "horovod_partial.torch")
    yield server.spawn
    server.close()


def check_survivors(job, noticing, statuses):
    """The ranks in `noticing` get their error in time, and all in `statuses` end like that."""
    job.wait_for(*[f"rank {rank} noticed" for rank in noticing], timeout=NOTICE)
    for rank, status in statuses.items():
        assert job.end(rank) == status, "".join(job.output)


# Where the victim kills itself (or ends: ENDS), and where ranks 0, 1 and 2 are meanwhile ("-" is the
# victim). In PyTorch; what differs in other frameworks, in these as well.
DEATHS = [
    ("computing", "-", "step", "flush"),
    ("computing", "join", "polled", "-"),
    ("computing", "-", "in a process set", "polled round"),
    ("computing", "step", "-", "removing a process set"),
    ("submitting", "step", "join", "-"),
    ("before a round", "synchronous", "-", "polled"),
    ("raising before a round", "-", "step", "flush"),
    ("raising before a round", "round", "-", "computing"),
    ("in the middle of a round", "-", "excused", "computing"),
    ("in the middle of a round", "synchronous", "-", "join"),
    ("in the middle of a round", "-", "draining", "step"),
    ("between two buckets", "-", "step", "flush"),
    ("between two buckets", "flush", "-", "computing"),
    ("exiting with buckets handed in", "-", "synchronous", "step"),
    ("flushing", "round", "-", "polled round"),
    ("comparing", "flush", "flush", "-"),
    ("before a transfer", "-", "drifted flush", "join"),
    ("in the middle of a transfer", "-", "drifted flush", "flush"),
    ("in the middle of a transfer", "join", "drifted flush", "-"),
    ("joining", "adding a process set", "-", "polled"),
    ("excused", "-", "draining", "draining"),
    ("in a synchronous operation", "synchronous", "polled", "-"),
    ("registering", "-", "step", "round"),
    ("draining", "step", "-", "round"),
]
TENSORFLOW = [
    ("raising before a round", "step", "-", "synchronous"),
    ("in the middle of a round", "-", "step", "excused"),
    ("before a transfer", "drifted flush", "join", "-"),
    ("registering", "flush", "-", "step"),
    ("draining", "-", "round", "step"),
]
# The exit status of victims that are not killed.
ENDS = {"raising before a round": 1, "exiting with buckets handed in": 3}


@pytest.mark.parametrize("framework, death, places", [
    *[("torch", death, places) for death, *places in DEATHS],
    *[("tensorflow", death, places) for death, *places in TENSORFLOW],
], ids=lambda value: "/".join(value) if isinstance(value, list) else value)
def test_a_death_at_any_point(start, spawn, fork_server, tmp_path, framework, death, places):
    victim = places.index("-")
    survivors = {0, 1, 2} - {victim}
    job = start(3, KILLED, framework, tmp_path, victim, death, *places,
                spawn=spawn if framework == "torch" else fork_server(framework).spawn)
    job.wait_for(*[f"rank {rank} is in place" for rank in survivors])
    (tmp_path / "go").touch()
    assert job.end(victim) == ENDS.get(death, -signal.SIGKILL), "".join(job.output)
    (tmp_path / "dead").touch()
    # Who drains has no application any longer that could get the error.
    noticing = [rank for rank in survivors if places[rank] != "draining"]
    job.wait_for(*[f"rank {rank} noticed" for rank in noticing], timeout=NOTICE)
    (tmp_path / "noticed").touch()
    for rank in survivors:
        assert job.end(rank) == (7 if rank == 1 and rank in noticing else 0), "".join(job.output)


@pytest.mark.parametrize("framework, victim, places", [
    ("torch", 0, []), ("tensorflow", 1, []), ("tensorflow", 0, ["step", "flush", "join"])])
def test_a_killed_rank_is_an_error_on_all_others(start, fork_server, framework, victim, places):
    job = start(3, SCRIPT, framework, 0, *places, spawn=fork_server(framework).spawn)
    job.wait_for(*[f"rank {rank} did step 20" for rank in range(3)])
    job.ranks[victim].kill()
    job.end(victim)
    survivors = {0, 1, 2} - {victim}
    check_survivors(job, survivors, dict.fromkeys(survivors, 7))


@pytest.mark.parametrize("framework, standing", [("torch", 1), ("tensorflow", 0)])
def test_a_rank_that_stands_still_loses_nothing(start, fork_server, framework, standing):
    steps = 400
    job = start(3, SCRIPT, framework, steps, spawn=fork_server(framework).spawn)
    job.wait_for(*[f"rank {rank} did step 1" for rank in range(3)])
    job.ranks[standing].send_signal(signal.SIGSTOP)
    time.sleep(STANDSTILL)  # not to order events: this is the standstill
    job.ranks[standing].send_signal(signal.SIGCONT)
    for rank in range(3):
        assert job.end(rank) == 0, "".join(job.output)
    results = [line.split("has ")[1] for line in job.output if " has " in line]
    assert len(results) == 3 and len(set(results)) == 1, job.output
    assert results[0].startswith(f"{float(steps * 7)} after"), results
