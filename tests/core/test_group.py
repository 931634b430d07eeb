"""A group on one rank: the send buffer, the receive queue, late submissions, merging."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from horovod_partial import _core


def values(rounds):
    return [(index, count, result[0]) for index, count, _, result in rounds]


def test_an_active_rank_gets_its_round():
    group = _core.Group(rank=0, size=2)
    assert group.submit([1]) == []
    assert group.send_buffer == [1]
    assert group.round(active=[0], others=[0]) == [(0, 1, [0], [1])]
    assert group.send_buffer == [0] and group.pending == 0


def test_a_late_submission_returns_at_once_and_travels_with_the_next_round():
    group = _core.Group(rank=1, size=2)
    for _ in range(3):
        assert group.round(active=[0], others=[1]) == []
    assert values(group.submit([2])) == [(0, 1, 1), (1, 1, 1), (2, 1, 1)]
    assert group.send_buffer == [2]
    group.round(active=[0], others=[1])  # a stale contribution
    assert group.send_buffer == [0]
    # Late again: its own stale gradient comes back in the round that carried it.
    assert values(group.submit([2])) == [(3, 1, 3)]


def test_submissions_add_up_until_a_round_carries_them():
    group = _core.Group(rank=1, size=2)
    for expected in (2, 4, 6):
        group.round(active=[0], others=[0]) if expected == 2 else None
        group.submit([2]) if expected == 2 else None
    group.round(active=[0], others=[1])
    assert values(group.submit([5])) == [(1, 1, 3)]
    group.round(active=[0], others=[1])
    assert values(group.submit([7])) == [(2, 1, 6)]
    assert group.send_buffer == [7]


@pytest.mark.parametrize("catch_up, expected", [
    ("replay", [(0, 1, 1), (1, 1, 2), (2, 1, 4)]), ("sum", [(2, 3, 7)]),
    ("latest", [(2, 3, 4)])])
def test_catch_up(catch_up, expected):
    group = _core.Group(rank=1, size=2, catch_up=catch_up)
    for result in (1, 2, 4):
        group.round(active=[0], others=[result])
    assert not group.drifted
    assert values(group.submit([0])) == expected
    assert group.drifted == (catch_up != "replay")


@pytest.mark.parametrize("catch_up", ["sum", "latest"])
def test_one_pending_round_is_no_drift(catch_up):
    group = _core.Group(rank=1, size=2, catch_up=catch_up)
    group.round(active=[0], others=[1])
    assert values(group.submit([0])) == [(0, 1, 1)]
    assert not group.drifted


@pytest.mark.parametrize("catch_up, oldest", [("replay", 1 + 2 + 4), ("latest", 4)])
def test_beyond_the_bound_the_two_oldest_are_merged(catch_up, oldest):
    group = _core.Group(rank=1, size=2, staleness_bound=2, catch_up=catch_up)
    for result in (1, 2):
        group.round(active=[0], others=[result])
    assert not group.drifted
    for result in (4, 8):
        group.round(active=[0], others=[result])
    assert group.drifted
    assert (group.pending, group.entries) == (4, 2)
    expected = ([(2, 3, oldest), (3, 1, 8)] if catch_up == "replay" else [(3, 4, 8)])
    assert values(group.submit([0])) == expected


def test_the_bound_vetoes_unless_excused():
    group = _core.Group(rank=1, size=2, staleness_bound=2)
    group.round(active=[0], others=[1])
    assert not group.vetoes()
    group.round(active=[0], others=[1])
    assert group.vetoes()
    assert not group.vetoes(elsewhere=True)
    assert not group.vetoes(joined=True)
    assert not group.vetoes(ended=True)
    group.submit([1])
    assert not group.vetoes()


def test_an_initiator_vetoes_until_it_is_ready():
    mine = _core.draw_committee(0, "group", 0, 1, 2)[0]
    group = _core.Group(rank=mine, size=2, policy="majority")
    other = _core.Group(rank=1 - mine, size=2, policy="majority")
    assert group.vetoes() and not other.vetoes()
    assert not group.vetoes(elsewhere=True)
    group.submit([1])
    assert not group.vetoes()


def test_full_is_excused_by_join_and_end_only():
    group = _core.Group(rank=0, size=2, policy="full")
    assert group.vetoes() and group.vetoes(elsewhere=True)
    assert not group.vetoes(joined=True) and not group.vetoes(ended=True)


def test_a_second_submission_is_refused():
    group = _core.Group(rank=0, size=2)
    group.submit([1])
    with pytest.raises(ValueError, match="outstanding"):
        group.submit([1])
    assert group.send_buffer == [1]


@given(st.lists(st.tuples(st.booleans(), st.integers(-100, 100)), max_size=60),
       st.integers(1, 5), st.sampled_from(["replay", "sum"]))
def test_nothing_is_lost_whatever_the_order(steps, bound, catch_up):
    """Submissions and rounds in any order: what came back and what is still there adds up."""
    group = _core.Group(rank=0, size=2, staleness_bound=bound, catch_up=catch_up)
    ready = False
    submitted = contributed = came_back = seen = rounds = 0
    for submits, number in steps:
        if submits and not ready:
            submitted += number
            got = group.submit([number])
            ready = not got
        else:
            got = group.round(active=[0] if ready else [1], others=[number])
            ready = False
            contributed += number
            rounds += 1
        came_back += sum(result[0] for _, _, _, result in got)
        seen += sum(count for _, count, _, _ in got)
        assert group.entries <= bound
    assert seen + group.pending == rounds
    last = [] if group.pending == 0 else group.submit([0]) if not ready else []
    came_back += sum(result[0] for _, _, _, result in last)
    assert came_back + group.send_buffer[0] == submitted + contributed


bits = hnp.arrays(np.uint16, st.integers(1, 40))


@given(bits, st.randoms(use_true_random=False))
def test_float16_adds_as_numpy_does(a, random):
    b = np.array([random.getrandbits(16) for _ in a], dtype=np.uint16)
    got = np.array(_core.add_sixteen_bits("float16", a.tolist(), b.tolist()), dtype=np.uint16)
    with np.errstate(all="ignore"):
        expected = (a.view(np.float16).astype(np.float32)
                    + b.view(np.float16).astype(np.float32)).astype(np.float16)
    np.testing.assert_array_equal(got.view(np.float16), expected)
    assert (np.signbit(got.view(np.float16)) == np.signbit(expected))[~np.isnan(expected)].all()


def test_float16_round_trips_every_value():
    every = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
    zero = np.full_like(every, 0x8000)  # -0.0, so that signed zeros survive
    got = np.array(_core.add_sixteen_bits("float16", every.tolist(), zero.tolist()),
                   dtype=np.uint16)
    number = ~np.isnan(every.view(np.float16))
    np.testing.assert_array_equal(got[number], every[number])
    assert np.isnan(got[~number].view(np.float16)).all()


@given(bits)
def test_bfloat16_adds_in_float32_and_rounds_to_even(a):
    x = torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16)
    b = a[::-1].copy()
    y = torch.from_numpy(b.view(np.int16).copy()).view(torch.bfloat16)
    got = np.array(_core.add_sixteen_bits("bfloat16", a.tolist(), b.tolist()), dtype=np.uint16)
    expected = (x.float() + y.float()).bfloat16()
    ours = torch.from_numpy(got.view(np.int16).copy()).view(torch.bfloat16)
    assert torch.equal(torch.nan_to_num(ours.float(), nan=1.5),
                       torch.nan_to_num(expected.float(), nan=1.5))


@given(st.binary(max_size=200))
def test_bytes_from_the_wire_never_crash(data):
    with pytest.raises((RuntimeError, ValueError)):
        _core.parse_group(data)


@given(st.integers(0, 10**6), st.integers(0, 255))
def test_a_damaged_announcement_is_an_error_or_a_group(position, byte):
    message = bytearray(_core.serialize_group("grüppe", [[3, 4], [], [0, 7]], "first:3"))
    assert _core.parse_group(bytes(message)) == "grüppe"
    message[position % len(message)] = byte
    try:
        _core.parse_group(bytes(message))
    except (RuntimeError, ValueError):
        pass
    with pytest.raises(RuntimeError):
        _core.parse_group(bytes(message[:position % len(message)]))
