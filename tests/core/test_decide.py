"""The decision function: every rule of the round protocol, one case each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horovod_partial import _core
from horovod_partial._core import Healing


def decide(policy, size=4, **kwargs):
    says = {key: value for key, value in kwargs.items()
            if key not in ("ended", "round", "last_heal", "resync_every", "healing", "seed",
                           "parts", "part", "active")}
    rest = {key: value for key, value in kwargs.items() if key not in says}
    return _core.decide(policy, size, says, **rest)


ALL = [0, 1, 2, 3]


def test_stale_are_the_passive_ranks_that_hold_something():
    assert decide("solo", ready=[0], holds=[0, 2])["stale"] == [2]


@pytest.mark.parametrize("sole, size, says", [
    (2, 4, dict(ready=[2], holds=[2])), (-1, 4, dict(ready=[2], holds=[1, 2])),
    (1, 4, dict(flushing=ALL, caller=ALL, holds=[1])), (-1, 4, dict(flushing=ALL, caller=ALL)),
    (-1, 1, dict(ready=[0], holds=[0]))])
def test_who_contributes_alone_is_known(sole, size, says):
    assert decide("solo", size=size, **says)["sole"] == sole


# What is said of a wait names who is waited for, and why.
@pytest.mark.parametrize("policy, says, words", [
    ("majority", {"ready": [r for r in range(4) if r not in
                            _core.draw_committee(0, "group", 0, 1, 4)]}, "initiator"),
    ("quorum:4", {"ready": [0, 1, 2]}, "rank 3 (drawn into this round's committee)"),
    ("first:3", {"ready": [0], "excused": [1]}, "rank 2, 3 (the policy needs 2 more)"),
    ("full", {"ready": [0, 1, 2]}, "rank 3 (the policy needs all). Ready: rank 0, 1, 2"),
    ("solo", {"ready": [1], "veto": [0, 2]}, "rank 0, 2 (at the staleness bound of 8"),
    ("solo", {"ready": [1], "veto": [0], "merged": [0], "healing": Healing.IN_ROUNDS},
     "rank 0 (a heal is due"),
    ("solo", {"ready": [1], "veto": [2], "excused": [0]}, "excused: rank 0"),
    ("solo", {"flushing": [0, 1], "caller": [0], "apart": [2]}, "a flush that rank 0 called waits "
     "for rank 3"),
])
def test_a_wait_is_explained(policy, says, words):
    assert words in decide(policy, **says)["text"]


def test_nobody_ready():
    assert decide("solo")["kind"] == "wait"
    assert "nobody" in decide("solo")["text"]


def test_solo_starts_with_the_first():
    assert decide("solo", ready=[2])["active"] == [2]


@pytest.mark.parametrize("policy, k", [("majority", 1), ("quorum:2", 2), ("quorum:4", 4)])
def test_a_committee_is_waited_for(policy, k):
    committee = _core.draw_committee(0, "group", 0, k, 4)
    others = [rank for rank in ALL if rank not in committee]
    last = committee[-1]
    missing = [rank for rank in ALL if rank != last]
    waiting = decide(policy, ready=missing)
    assert waiting["kind"] == "wait" and waiting["waited_for"] == [last]
    assert decide(policy, ready=committee)["active"] == committee
    excused = decide(policy, ready=missing, excused=[last])
    assert excused["kind"] == "round" and excused["active"] == missing
    if others:
        assert decide(policy, ready=others)["kind"] == "wait"


def test_first_k_counts_the_ready_and_lowers_k_for_the_excused():
    assert decide("first:3", ready=[0, 1])["kind"] == "wait"
    assert decide("first:3", ready=[0, 1])["waited_for"] == [2, 3]
    assert decide("first:3", ready=[0, 1, 3])["active"] == [0, 1, 3]
    assert decide("first:3", ready=[0, 1], excused=[2])["kind"] == "wait"
    assert decide("first:3", ready=[0, 1], excused=[2, 3])["active"] == [0, 1]
    assert decide("first:9", ready=[0, 1, 2])["kind"] == "wait"
    assert decide("first:9", ready=ALL)["kind"] == "round"
    # A rank that is ready and excused counts as ready.
    assert decide("first:2", ready=[0], excused=[0, 1])["kind"] == "wait"


def test_full_waits_for_all_but_the_excused():
    assert decide("full", ready=[0, 1, 2])["waited_for"] == [3]
    assert decide("full", ready=[0, 1, 2], excused=[3])["kind"] == "round"


@pytest.mark.parametrize("policy", ["solo", "majority", "quorum:2", "first:2", "full"])
def test_one_veto_stops_a_round(policy):
    waiting = decide(policy, ready=[0, 1, 2], excused=[3], veto=[3])
    assert waiting["kind"] == "wait" and waiting["waited_for"] == [3]


@given(st.sampled_from(["solo", "majority", "quorum:3", "first:2", "first:4", "full"]),
       st.integers(0, 15), st.integers(0, 15), st.integers(0, 15), st.integers(0, 1000))
def test_a_round_has_exactly_the_ready_active_and_never_starts_past_a_veto(policy, ready, excused,
                                                                           veto, round_):
    def ranks(bits):
        return [rank for rank in ALL if bits >> rank & 1]

    decision = decide(policy, ready=ranks(ready), excused=ranks(excused), veto=ranks(veto),
                      round=round_)
    if decision["kind"] == "round":
        assert ready and not veto
        assert decision["active"] == ranks(ready)
    else:
        assert decision["kind"] == "wait"
    if ready == 15 and not veto:
        assert decision["kind"] == "round"


def test_flush_needs_everybody_and_a_caller_and_nobody_ready():
    assert decide("solo", flushing=ALL, caller=[1])["kind"] == "flush"
    assert decide("solo", flushing=[0, 1, 2], caller=[1])["kind"] == "wait"
    assert decide("solo", flushing=[0, 1, 2], apart=[3], caller=[1])["kind"] == "flush"
    assert decide("solo", flushing=ALL)["kind"] == "wait"  # all in join()
    # Rounds come before flushes.
    assert decide("solo", flushing=[0, 1, 2], caller=[0], ready=[3])["kind"] == "round"


def test_an_empty_flush():
    assert decide("solo", flushing=ALL, caller=ALL)["empty"]
    assert not decide("solo", flushing=ALL, caller=ALL, holds=[2])["empty"]


def test_a_heal_needs_all_active_and_blocked():
    due = {"healing": Healing.IN_ROUNDS, "merged": [2], "drifted": [2]}
    healing = decide("solo", ready=ALL, blocked=ALL, **due)
    assert healing["kind"] == "round" and healing["heal"] and healing["root"] == 0
    assert not decide("solo", ready=ALL, blocked=[0, 1, 2], **due)["heal"]
    assert not decide("solo", ready=[0, 1, 2], blocked=[0, 1, 2], **due)["heal"]
    assert not decide("solo", ready=ALL, blocked=ALL, healing=Healing.IN_ROUNDS)["heal"]
    for other in (Healing.NEVER, Healing.AT_FLUSHES):
        assert not decide("solo", ready=ALL, blocked=ALL, **{**due, "healing": other})["heal"]


@pytest.mark.parametrize("drifted, root", [([0], 1), ([0, 1], 2), (ALL, 0), ([3], 0)])
def test_the_root_is_the_lowest_rank_that_has_not_drifted(drifted, root):
    decision = decide("solo", ready=ALL, blocked=ALL, healing=Healing.IN_ROUNDS,
                      merged=drifted, drifted=drifted)
    assert decision["root"] == root


def test_resync_every_makes_a_heal_due():
    every = {"healing": Healing.IN_ROUNDS, "resync_every": 5, "last_heal": 10, "ready": ALL,
             "blocked": ALL}
    assert not decide("solo", round=14, **every)["heal"]
    assert decide("solo", round=15, **every)["heal"]


def test_drift_without_merging_makes_no_heal_due():
    assert not decide("solo", ready=ALL, blocked=ALL, healing=Healing.IN_ROUNDS,
                      drifted=[1])["heal"]


def test_a_group_goes_when_all_have_retired_or_ended():
    assert decide("solo", retired=[0, 1, 2])["kind"] == "wait"
    assert decide("solo", retired=[0, 1, 2], ended=[3])["kind"] == "remove"
    assert decide("solo", ended=ALL)["kind"] == "wait"


PARTS = dict(parts=[1, 2, 1])


def test_a_round_in_parts_begins_with_the_first_and_goes_on_as_active_ranks_have_the_next():
    begun = decide("solo", ready=[0, 1], whole=[1], **PARTS)
    assert (begun["kind"], begun["active"], begun["parts"]) == ("round", [0, 1], (0, 1))
    under_way = dict(part=1, active=[0, 1], ready=[0, 1, 2], **PARTS)
    waits = decide("full", next=[1, 2], **under_way)
    assert (waits["kind"], waits["waited_for"]) == ("wait", [0])
    assert "part 1 of 3 and waits for the backward pass of rank 0" in waits["text"]
    goes = decide("full", next=[0, 1], **under_way)
    assert (goes["active"], goes["parts"]) == ([0, 1], (1, 2))
    # Nobody new, no veto and no flush in between.
    goes = decide("full", next=[0, 1], whole=[0, 1], veto=[2, 3], caller=[3], **under_way)
    assert (goes["kind"], goes["active"], goes["parts"]) == ("round", [0, 1], (1, 3))


def test_a_round_goes_at_once_where_all_parts_are_there():
    assert decide("solo", ready=[0, 1], whole=[0, 1], **PARTS)["parts"] == (0, 3)
    assert decide("solo", ready=[0, 1])["parts"] == (0, 1)
    assert decide("solo", flushing=ALL, caller=[0], **PARTS)["parts"] == (0, 3)
