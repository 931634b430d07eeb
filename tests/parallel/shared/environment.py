"""Rounds among Horovod's own operations, whatever the environment switches on: what trainings do,
for as long as an autotuner needs. Run by test_parallel.py in several environments, and collected
only where it is named."""

import collections
import json
import os

import pytest

from test_programs import Runner


def operations(fw, name, rank, size):
    """As of a training step, alike on all ranks; more tensors than a tiny cache holds."""
    hvd = fw.hvd
    total = 2**size - 1
    for i in range(3):
        given = hvd.allreduce(fw.code(rank, 4 + i), op=hvd.Sum, name=f"{name}.{i}")
        assert fw.values(given) == [total] * (4 + i)
    given = hvd.grouped_allreduce([fw.code(rank, 1 + i) for i in range(4)], op=hvd.Sum, name=name)
    assert [fw.values(t) for t in given] == [[total] * (1 + i) for i in range(4)]
    given = hvd.allgather(fw.code(rank, 1), name=name)
    assert fw.values(given) == [2**r for r in range(size)]


@pytest.mark.parametrize("policy", ["majority", "first:2", "full"])
def test_rounds_among_other_operations(fw, hvd, name, ranks, policy):
    rank, size = ranks
    runner = Runner(fw, name, ranks, policy=policy, staleness_bound=2)
    for step in range(40):
        for which in "ABC" if policy == "full" or rank % 2 else "CBA":
            runner.step(which)
            if policy != "full" and (rank + step) % 5 == 0:
                runner.step(which)
        if step % 2:
            operations(fw, name, rank, size)
        if step % 10 == 9:
            runner.flush("A")
    runner.check()


def test_operations_while_a_rank_has_joined(fw, hvd, name, ranks):
    """Operations that every rank has seen before, in groups and alone, and rounds."""
    rank, size = ranks
    runner = Runner(fw, name, ranks, policy="majority", staleness_bound=1)
    for last in range(size):
        runner.step("A")
        for joined in (False, True):
            if joined and rank != last:
                break
            contributes = range(size) if not joined else [last]
            for _ in range(2):
                runner.step("A")
                given = hvd.allreduce(fw.code(rank), op=hvd.Sum, name=name + ".alone")
                together = hvd.grouped_allreduce([fw.code(rank)] * 3, op=hvd.Sum, name=name)
                for tensor in (given, *together):
                    assert fw.values(tensor) == [sum(2**r for r in contributes)] * 3
        assert hvd.join() == last
    runner.check()


@pytest.mark.skipif(os.environ.get("HOROVOD_TIMELINE") != "DYNAMIC",
                    reason="needs HOROVOD_TIMELINE=DYNAMIC")
def test_timelines_started_and_stopped_in_the_middle(fw, hvd, name, ranks, tmp_path):
    rank, size = ranks
    runner = Runner(fw, name, ranks, policy="solo")

    def rounds(which):
        return hvd.partial_stats(runner.group(which))["rounds"] if runner.given[which] else 0

    for part in range(3):
        path = tmp_path / f"{part}.json"
        runner.run("step:A step:A sync:S")
        before = {which: rounds(which) for which in "AB"}
        hvd.start_timeline(str(path), mark_cycles=part == 1)
        for _ in range(4):
            runner.run("step:A step:B sync:S")
        runner.flush("A")
        after = {"A": rounds("A")}
        hvd.stop_timeline()
        runner.run("step:B step:B sync:S")
        after["B"] = rounds("B")
        if rank == 0:
            rows, others = read_timeline(path)
            for which in "AB":
                row = rows[f"partial.{runner.group(which)}"]
                noted = check_rounds(row, before[which], after[which], size)
                if which == "A":
                    assert noted[-1]["name"] == "FLUSH"
                    assert noted[-1]["args"]["round"] == after["A"] - 1
            # Where marking has ended, it does so with a cycle that this rank took part in since.
            first = next(i for i, event in enumerate(others) if event.get("name") == "ALLREDUCE")
            marked = any(event.get("name") == "CYCLE_START" for event in others[first:])
            assert marked == (part == 1)
    runner.check()


def read_timeline(path):
    """The events of partial groups by their rows' names, and all others."""
    rows, others = collections.defaultdict(list), []
    names = {}
    for event in json.loads(path.read_text()):
        if event.get("name") == "process_name":
            names[event["pid"]] = event["args"].get("name", "")
        elif names.get(event.get("pid"), "").startswith("partial."):
            rows[names[event["pid"]]].append(event)
        else:
            others.append(event)
    return rows, others


def check_rounds(row, before, after, size):
    """The events of a group's rounds and flushes: all that there were in some stretch of rounds
    `before` to `after`. Returns them."""
    noted = [event for event in row if event.get("name") in ("ROUND", "FLUSH")]
    numbers = [event["args"]["round"] for event in noted]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert before <= numbers[0] and numbers[-1] < after
    rounds = [event["args"] for event in noted if event["name"] == "ROUND"]
    # All ranks meet after each step, so each of the last three has a round of its own.
    assert len(rounds) >= 3
    for round_ in rounds:
        assert round_["active"]
        assert sorted(round_["active"] + round_["stale"] + round_["null"]) == list(range(size))
    begun = [event for event in row if event.get("name") == "NEGOTIATE_ALLREDUCE"]
    # That of the first may have begun before the start; and a group's very first has none.
    assert len(begun) >= len(rounds) - 1
    return noted
