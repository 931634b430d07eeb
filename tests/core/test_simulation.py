"""The protocol as a whole, in the simulation: thousands of seeded schedules, fixed programs with
all kinds of interleavings, and planted mistakes."""

import os

import pytest

from horovod_partial import _core
from horovod_partial._core import simulation

SCHEDULES = int(os.environ.get("HOROVOD_PARTIAL_SCHEDULES", "10000"))
CHUNKS = 20


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_invariants_hold_in_random_schedules(chunk):
    """Invariants 1 to 5, 8 and 9, P from 1 to 16. A failing seed replays with
    `simulation.run_random(seed)`."""
    seen = dict(rounds=0, late=0, merged=0, heals=0, flushes=0, changes=0, in_parts=0,
                cut_short=0, lost=0, left=0)
    for seed in range(chunk * SCHEDULES // CHUNKS, (chunk + 1) * SCHEDULES // CHUNKS):
        outcome = simulation.run_random(seed, 16)
        assert not outcome.violation, (
            f"seed {seed}: {outcome.violation}\n{simulation.describe(seed, 16)}")
        for key in seen:
            seen[key] += len(outcome.lost) if key == "lost" else getattr(outcome, key)
    # The schedules are worth something only if these things happen in them.
    assert all(count > 0 for count in seen.values()), seen


@pytest.mark.parametrize("fault, found", [
    ("LOSE_STALE", "conservation"), ("DOUBLE_COUNT", "conservation"),
    ("MISSING_EXCUSE", "progress"), ("IGNORE_BOUND", "bound"), ("NO_FOLLOW_UP", "progress"),
    ("LATE_CHANGE", "agreement"), ("NO_CUT_SHORT", "progress"), ("FORGET_LEFT", "operations")])
def test_planted_faults_are_found(fault, found):
    violations = [simulation.run_random(seed, 8, getattr(simulation.Fault, fault)).violation
                  for seed in range(200)]
    assert any(violation.startswith(found) for violation in violations), set(violations)


def test_a_violation_replays():
    fault = simulation.Fault.LOSE_STALE
    seed = next(seed for seed in range(200)
                if simulation.run_random(seed, 8, fault).violation)
    assert (simulation.run_random(seed, 8, fault).violation
            == simulation.run_random(seed, 8, fault).violation)


POLICIES = ["solo", "majority", "quorum:2", "first:1", "first:2", "first:3", "auto"]


def run(programs, policies, seeds=60, **group):
    names = sorted({word.split(":")[1] for program in programs for word in program.split()
                    if word.split(":")[0] in ("step", "part", "submit", "flush", "leave", "mistake")})
    outcomes = []
    for policy in policies:
        for seed in range(seeds):
            groups = [simulation.Group(name, policy=policy, **group) for name in names]
            outcome = simulation.run(groups, programs, seed)
            assert not outcome.violation, f"{policy}, seed {seed}: {outcome.violation}"
            outcomes.append(outcome)
    return outcomes


@pytest.mark.parametrize("programs", [
    ["step:A sync:S", "sync:S step:A"],
    ["step:A step:B", "step:B step:A"],
    ["step:A sync:S", "step:A step:A sync:S"],
    ["step:A join", "step:A flush:A join"],
    ["sync:S step:A sync:T step:A", "step:A step:A sync:S sync:T", "sync:S sync:T"],
    ["step:A step:A step:A step:A", "step:A", "step:A step:A"],
    ["submit:A sync:S wait:A", "sync:S step:A", "submit:A poll:A sync:S"],
    ["submit:A submit:B wait:B wait:A", "submit:B wait:B submit:A wait:A"],
    ["barrier:X step:A", "step:A barrier:X", "step:A step:A barrier:X"],
    ["flush:A step:A flush:A", "flush:A step:A step:A flush:A"],
    ["step:A flush:A", "flush:A"],
    ["flush:A", "flush:A", "flush:A"],
    ["join", "step:A step:A join", "step:A flush:A step:A join"],
    ["step:A join step:A step:A flush:A", "step:A step:A join step:A flush:A",
     "join step:A step:A step:A step:A flush:A"],
    ["step:A flush:A retire:A sync:S step:B", "step:B step:A flush:A retire:A sync:S"],
], ids=" | ".join)
def test_programs_that_an_earlier_wording_hung(programs):
    run(programs, POLICIES)
    run(programs, POLICIES, staleness_bound=1)
    run(programs, POLICIES, staleness_bound=1, catch_up="sum", resync_every=2)
    run(programs, POLICIES, staleness_bound=2, catch_up="latest", resync_every=1)


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("programs", [
    ["part:A step:A part:A step:A", "step:A part:A compute:3 step:A"],
    ["part:A sync:S step:A", "sync:S part:A step:A", "step:A step:A sync:S"],
    ["part:A sync:S step:A", "part:A sync:S step:A"],
    ["part:A step:B step:A", "part:B step:A step:B", "step:A step:B"],
    ["part:A flush:A step:A flush:A", "step:A flush:A part:A flush:A step:A"],
    ["part:A join step:A step:A", "step:A part:A step:A join step:A", "join part:A"],
    ["part:A barrier:X", "step:A part:A barrier:X", "part:A barrier:X step:A", "barrier:X"],
    ["step:A part:A retire:A sync:S", "step:A part:A sync:S retire:A"],
    ["mistake:A part:A sync:S step:A", "mistake:A sync:S part:A step:A"],
    ["part:A start:S compute:9 step:A", "step:A step:A"],
], ids=" | ".join)
def test_parts_and_ranks_that_wait_in_the_middle_of_a_step(programs, parts):
    run(programs, POLICIES, 20, parts=parts)
    run(programs, POLICIES, 20, parts=parts, staleness_bound=1)
    run(programs, POLICIES, 20, parts=parts, staleness_bound=1, catch_up="sum", resync_every=2)


def test_full_in_parts_is_whole():
    """Under full, whoever waits for others in the middle of a step does so as in Horovod, and a
    round waits for the rest: none is cut short."""
    for seed in range(60):
        outcome = simulation.run(
            [simulation.Group("A", policy="full", parts=3)],
            ["part:A compute:2 part:A sync:S compute:3 step:A part:A step:A flush:A"] * 4, seed)
        assert not outcome.violation, outcome.violation
        assert outcome.cut_short == 0 and outcome.rounds == 3


def test_flush_at_bound_one():
    run(["step:A flush:A", "step:A step:A step:A flush:A"], POLICIES, staleness_bound=1)


def test_a_subset_that_synchronises_each_step_and_a_fast_outsider():
    inside = " ".join(f"step:A barrier:S{i}" for i in range(5))
    outside = " ".join(f"step:A compute:1 barrier:S{i}" for i in range(5))
    run([inside, inside, outside, "step:A " * 12 + " ".join(f"barrier:S{i}" for i in range(5))],
        POLICIES, staleness_bound=2)


def test_full_in_lockstep():
    run(["step:A step:B sync:S flush:A"] * 4, ["full"])
    run(["step:A step:A step:A join", "step:A join"], ["full"])
    # After a join all are in step again, also who missed rounds in it (of partial_allreduce, which
    # join does not serve).
    run(["step:A join step:A sync:S", "step:A step:A step:A join step:A sync:S"], ["full"],
        healing=_core.Healing.NEVER)


def test_operations_without_a_counterpart_do_not_keep_ranks_that_have_ended():
    run(["step:A start:S", "step:A compute:9 start:T", "step:A start:S start:U"],
        POLICIES + ["full"])


@pytest.mark.parametrize("programs, lost", [
    (["step:A start:S", "step:A join"], []),
    (["step:A start:S", "step:A join compute:9 sync:T"], ["1:T"]),
    (["step:A start:S", "step:A sync:T step:A"], ["1:T"]),
    (["step:A start:S", "step:A set:P step:A"], ["1:P"]),
    (["step:A start:S", "compute:30 sync:S step:A"], []),
    (["start:S start:T", "compute:30 sync:T step:A sync:S"], []),
    (["start:S start:T", "compute:30 sync:T step:A sync:U sync:S"], ["1:U"]),
    (["start:S", "sync:S", "compute:30 step:A sync:S"], []),
    (["start:S", "sync:S step:A", "compute:30 step:A"], ["1:S"]),
    (["start:S", "sync:S step:A", "compute:30 step:A join"], []),
    (["start:S", "sync:T join", "compute:30 step:A sync:S join"], ["1:T"]),
    (["start:S step:B retire:B", "retire:B sync:T step:A", "step:B retire:B join"], ["1:T"]),
    (["start:S", "step:B retire:B sync:S step:A", "compute:40 step:B retire:B sync:S"], []),
    (["step:A set:P", "set:P step:A"], []),
], ids=str)
def test_operations_that_an_ended_rank_left_outstanding(programs, lost):
    """Others may still submit them, however much later; what it has not submitted fails at once."""
    for outcome in run(programs, POLICIES, 20):
        waited_for = [entry for entry in outcome.lost
                      if f"start:{entry[2:]}" not in programs[int(entry[0])]]
        assert waited_for == lost


LEAVES = dict(resync_every=1, staleness_bound=2)


@pytest.mark.parametrize("programs", [
    ["step:A flush:A step:A", "step:A leave:A"],
    ["step:A leave:A", "step:A flush:A flush:A"],
    ["step:A flush:A step:A flush:A", "step:A leave:A step:A flush:A"],
    ["step:A leave:A step:A flush:A", "step:A flush:A step:A flush:A", "step:A join"],
    ["step:A flush:A join", "step:A leave:A join", "step:A flush:A flush:A"],
    ["step:A leave:A", "step:A leave:A", "step:A leave:A"],
    ["step:A submit:A drop:A step:A step:A flush:A"] * 2 + ["step:A step:A step:A step:A flush:A"],
    ["step:A step:A flush:A", "step:A submit:A drop:A", "step:A step:A flush:A"],
], ids=" | ".join)
def test_ranks_that_leave_a_heal_by_an_error(programs):
    """They end, or ask for something else: the others do not wait for their replicas."""
    assert any(outcome.left for outcome in run(programs, POLICIES, 30, **LEAVES))
    run(programs, POLICIES, 20, catch_up="sum", **LEAVES)


def test_groups_of_policy_auto_take_turns():
    """Three groups have a question in almost every round, more than are answered."""
    program = " ".join(["step:A step:B step:C"] * 400)
    for seed in range(6):
        outcome = simulation.run([simulation.Group(name, policy="auto") for name in "ABC"],
                                 [program] * 2, seed)
        assert not outcome.violation, outcome.violation
        assert min(outcome.questions) > 5
        assert max(outcome.questions) - min(outcome.questions) <= 2, outcome.questions


def test_settings_that_differ_are_told_to_every_rank_however_late_it_comes():
    """A rank hears of the second failure when the others are at their third attempt already. Under
    full, nothing else would end its wait."""
    run([f"compute:{2 * rank} mistake:A mistake:B compute:{2 * rank} mistake:A mistake:B step:A step:B"
         for rank in range(5)], POLICIES + ["full"])


def test_settings_that_differ_are_told_to_ranks_that_join_at_once():
    """They ask for what has failed while the others have a group of that name already, which goes
    on."""
    run(["mistake:A step:A sync:S step:A step:A join"] * 2 + ["sync:S join:A"] * 2, POLICIES)


def test_heals_come_although_one_rank_is_often_excused():
    """A rank that falls behind in barriers merges; the others do not go on for ever without it."""
    program = " ".join(["step:A"] * 20) + " barrier:X"
    behind = "step:A barrier:X " + " ".join(["step:A"] * 3)
    for seed in range(40):
        outcome = simulation.run(
            [simulation.Group("A", policy="solo", staleness_bound=2)],
            [program + " step:A step:A step:A flush:A", behind + " flush:A"], seed)
        assert not outcome.violation, outcome.violation
        assert outcome.merged == 0 or outcome.heals > 0


def test_alone_every_policy_is_the_plain_optimizer():
    for policy in POLICIES + ["full"]:
        outcome = simulation.run([simulation.Group("A", policy=policy)],
                                 ["step:A step:A step:A flush:A"], 0)
        assert not outcome.violation
        assert (outcome.rounds, outcome.late, outcome.mean_active) == (4, 0, 1.0)


def test_the_mean_active_of_majority():
    """Invariant 6 on the protocol: ranks that arrive in random order."""
    total = count = 0
    for seed in range(150):
        programs = [f"compute:{1 + (seed * 7 + 13 * rank) % 40} "
                    + " ".join(f"step:A compute:{1 + (seed * 31 + 17 * rank + 7 * i) % 40}"
                               for i in range(10)) for rank in range(8)]
        outcome = simulation.run([simulation.Group("A", staleness_bound=100)], programs, seed)
        assert not outcome.violation
        total += outcome.mean_active * outcome.rounds
        count += outcome.rounds
    solo = simulation.run([simulation.Group("A", policy="solo", staleness_bound=100)], programs, 0)
    assert solo.mean_active < total / count < 6.5


def test_a_round_in_parts_is_settled_when_it_begins():
    """Rank 1 comes when rank 0 has not handed in its last part, and is late."""
    late = in_parts = 0
    for seed in range(40):
        outcome = simulation.run(
            [simulation.Group("A", policy="solo", parts=3)],
            ["flush:A part:A compute:30 part:A compute:30 step:A", "flush:A compute:20 step:A"],
            seed)
        assert not outcome.violation, outcome.violation
        late, in_parts = late + outcome.late, in_parts + outcome.in_parts
    assert late > 20 and in_parts > 20


def test_wrong_programs_are_errors():
    with pytest.raises(ValueError, match="no step"):
        simulation.run([simulation.Group("A")], ["stride:A"])
    with pytest.raises(ValueError, match="policy="):
        simulation.run([simulation.Group("A", policy="most")], ["step:A"])


def test_news_that_need_every_rank_wake_them_once():
    """Under full, and for a flush, ranks whose part alone leads to nothing start no cycle. The first
    round takes at most two for each announcement."""
    size, steps = 8, 20
    for seed in range(1, 41, 2):  # by events
        outcome = simulation.run([simulation.Group("A", policy="full")],
                                 [" ".join(["step:A"] * steps + ["flush:A"])] * size, seed)
        assert not outcome.violation
        assert outcome.rounds == steps + 1
        assert outcome.cycles <= outcome.rounds + 2 * size
