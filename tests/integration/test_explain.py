"""What a job says of its rounds: of those that do not start, and in Horovod's timeline."""

import collections
import json
import re
import time

import pytest

from common import ROOT

SCRIPTS = ROOT / "tests/integration/scripts"
pytestmark = pytest.mark.timeout(300)

# What rank 1 does while rank 0 waits for it, and what rank 0 says after a second of that.
STALLS = {
    "registration": "'registration': its first round waits for rank 1, which has not submitted",
    "initiator": "'initiator': round 1 (policy majority) waits for rank 1 (drawn as this round's "
                 "initiator). Ready: rank 0.",
    "committee": "'committee': round 1 (policy quorum:2) waits for rank 1 (drawn into this "
                 "round's committee). Ready: rank 0.",
    "bound": "'bound': round 2 (policy solo) waits for rank 1 (at the staleness bound of 1 pending "
             "rounds). Ready: rank 0.",
    "full": "'full': round 1 (policy full) waits for rank 1 (the policy needs all). Ready: rank 0.",
    "flush": "'flush': a flush that rank 0 called waits for rank 1 to call flush() or join()",
}


def test_a_stalled_round_is_explained_and_ends_after_the_shutdown_time(start, fork_server, tmp_path):
    # With cycles at short intervals, in each of which a warning could come.
    job = start(2, SCRIPTS / "stalled.py", tmp_path / "go", spawn=fork_server("torch").spawn,
                env={"HOROVOD_STALL_CHECK_TIME_SECONDS": "1",
                     "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "15",
                     "HOROVOD_SAFETY_CYCLE_SECONDS": "0.05"})

    def waited(case):
        """At most so many seconds, since rank 0 has said so before it began."""
        since, = re.findall(rf"{case} waits from (\S+) on", "".join(job.output))
        return time.monotonic() - float(since)

    for case, explanation in STALLS.items():
        job.wait_for(f"{case} next")
        job.wait_for(explanation)
        assert waited(case) >= 1
        (tmp_path / f"go {case}").touch()
    job.wait_for("'end' has stalled for longer than 15 seconds", "rank 0 was shut down")
    assert waited("end") >= 15
    (tmp_path / "go end").touch()
    job.wait_for("rank 1 was shut down")
    # Not before a second is over, and not more often than once a second.
    for explanation in [*STALLS.values(), "'end': round 1 "]:
        said = [int(seconds) for seconds in re.findall(
            rf"{re.escape(explanation)}.* Nothing has moved there for (\d+) seconds",
            "".join(job.output))]
        assert said == sorted(set(said)) and said[0] >= 1, "".join(job.output)


def test_the_timeline_shows_who_was_active(launch, tmp_path):
    timeline = tmp_path / "timeline.json"
    result = launch(2, [str(SCRIPTS / "recorded.py"), str(tmp_path / "store")], imported="torch",
                    env={"HOROVOD_TIMELINE": str(timeline)})
    assert result.returncode == 0, result.output
    rows = collections.defaultdict(list)
    names = {}
    for event in json.loads(timeline.read_text()):
        if "name" in event.get("args", {}):
            names[event["pid"]] = event["args"]["name"]
        elif "ts" in event:
            rows[names.get(event["pid"])].append(event)
    events = rows["partial.recorded"]
    rounds = [event["args"] for event in events if event.get("name") == "ROUND"]
    assert {round_.pop("policy") for round_ in rounds} == {"solo"}
    # As recorded.py scripts it.
    assert rounds == [
        {"round": 0, "active": [0, 1], "stale": [], "null": [], "waited_for": []},
        {"round": 1, "active": [0], "stale": [], "null": [1], "waited_for": []},
        {"round": 2, "active": [0], "stale": [1], "null": [], "waited_for": []},
        {"round": 3, "active": [0], "stale": [1], "null": [], "waited_for": [1]},
    ]
    # Only rank 0 had something for round 1, so it went as a broadcast; nobody for the flush.
    assert [event["name"] for event in events
            if event.get("name") in ("ALLREDUCE", "BROADCAST") and event["ph"] == "B"] == [
        "ALLREDUCE", "BROADCAST", "ALLREDUCE", "ALLREDUCE"]
    late = [event["args"] for event in events if event.get("name") == "LATE"]
    assert late == 2 * [{"ranks": [1]}]
    flushes = [event["args"] for event in events if event.get("name") == "FLUSH"]
    assert flushes == [{"round": 4, "empty": True}]
    # Each rank that was ready has its mark in a negotiation, as in Horovod's own operations.
    ready = collections.Counter(event["name"] for event in events if event["ph"] == "X")
    assert ready["0"] == 3 and ready["1"] == 0, ready
    begun = [event["name"] for event in events if event["ph"] == "B"]
    assert begun.count("NEGOTIATE_ALLREDUCE") == 3, begun
    assert len(begun) == sum(event["ph"] == "E" for event in events)
