"""Cycles come when something happens, and by the clock where that is wanted."""

import json

import pytest

from common import ROOT

SCRIPT = ROOT / "tests/integration/scripts/idle.py"
pytestmark = pytest.mark.timeout(200)


@pytest.mark.parametrize("backend, env", [
    ("gloo", {}), ("mpi", {}), ("gloo", {"HOROVOD_EVENT_DRIVEN": "0"})])
def test_nothing_is_negotiated_while_nothing_happens(launch, tmp_path, backend, env):
    cycles = cycles_of(launch, tmp_path, backend, **env)
    # Two seconds: the safety cycles, or one each millisecond if the machine is not too busy.
    if env:
        assert cycles > 100
    else:
        assert 0 < cycles < 20


def test_one_rank_that_wants_the_clock_brings_it_back_for_all(launch, tmp_path):
    assert cycles_of(launch, tmp_path, "gloo", PARTIAL_TEST_CLOCKED_RANK="1",
                     expect="follow the clock of HOROVOD_CYCLE_TIME, not events: rank 1") > 100


def cycles_of(launch, tmp_path, backend, expect="", **env):
    """The cycles in which idle.py is idle."""
    timeline = tmp_path / "timeline.json"
    result = launch(2, [str(SCRIPT)], backend, imported="torch",
                    env={"HOROVOD_TIMELINE": str(timeline), "HOROVOD_TIMELINE_MARK_CYCLES": "1",
                         **env})
    assert result.returncode == 0 and expect in result.output, result.output
    events = json.loads(timeline.read_text())
    rows = {event["pid"]: event["args"]["name"] for event in events
            if "name" in event.get("args", {})}
    first, last = (next(event["ts"] for event in events
                        if rows.get(event.get("pid")) == f"allreduce.{name}" and event["ph"] == "B")
                   for name in ("first", "last"))
    return sum(event.get("name") == "CYCLE_START" and first < event["ts"] < last
               for event in events)
