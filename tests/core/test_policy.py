"""What policies' strings mean, and who is drawn."""

import collections
import warnings
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import horovod_partial
from horovod_partial import _core

names = st.text(min_size=1, max_size=20)
seeds = st.integers(0, 2**63)


@pytest.mark.parametrize("text, kind, k", [
    ("solo", "solo", 1), ("majority", "majority", 1), ("full", "full", 1),
    ("quorum:2", "quorum", 2), ("first:17", "first", 17)])
def test_strings(text, kind, k):
    assert _core.parse_policy(text)[:2] == (kind, k)
    assert str(horovod_partial.Policy(text)) == text


@pytest.mark.parametrize("text", [
    "", "Solo", "first", "first:", "first:0", "first:-1", "first:1.5", "first:x", "quorum:0",
    "majority:2", "solo:1", "first:1 ", " full", "first:9999999999", "all"])
def test_wrong_strings(text):
    with pytest.raises(ValueError, match="policy=.*use 'solo'"):
        horovod_partial.Policy(text)


def test_objects():
    assert str(horovod_partial.Solo()) == "solo"
    assert str(horovod_partial.Majority()) == "majority"
    assert str(horovod_partial.Quorum(2)) == "quorum:2"
    assert str(horovod_partial.First(3)) == "first:3"
    assert str(horovod_partial.Full()) == "full"
    assert str(horovod_partial.Auto()) == "auto"
    assert str(horovod_partial.Auto(staleness_cost=1)) == "auto:1.0"
    assert horovod_partial.First(3) == horovod_partial.Policy("first:3")
    for wrong in (0, -1, 1.5, "x", None):
        with pytest.raises(ValueError, match="policy="):
            horovod_partial.First(wrong)


def test_k_above_the_size_counts_as_the_size_with_one_warning():
    with pytest.warns(UserWarning, match="first:9.*'first:4' is used") as caught:
        limited = horovod_partial.First(9).limited_to(4)
    assert str(limited) == "first:4" and len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert str(horovod_partial.First(4).limited_to(4)) == "first:4"


@given(seeds, names, st.integers(0, 2**40), st.integers(1, 20), st.integers(1, 16))
def test_a_committee_has_k_different_ranks(seed, group, round_, k, size):
    ranks = _core.draw_committee(seed, group, round_, k, size)
    assert len(set(ranks)) == len(ranks) == min(k, size)
    assert all(0 <= rank < size for rank in ranks)
    assert ranks == _core.draw_committee(seed, group, round_, k, size)


def test_initiators_are_uniform_and_differ_by_seed_and_group():
    rounds, size = 20_000, 8

    def draws(seed, group):
        return [_core.draw_committee(seed, group, r, 1, size)[0] for r in range(rounds)]

    first = draws(0, "a")
    counts = collections.Counter(first)
    # Six standard deviations of a binomial.
    expected = rounds / size
    spread = 6 * (rounds * (1 / size) * (1 - 1 / size)) ** 0.5
    assert all(abs(counts[rank] - expected) < spread for rank in range(size))
    # No memory from one round to the next.
    pairs = collections.Counter(zip(first, first[1:]))
    assert max(pairs.values()) < 2 * rounds / size**2
    for other in (draws(1, "a"), draws(0, "b")):
        same = sum(x == y for x, y in zip(first, other))
        assert abs(same - expected) < spread


@given(st.integers(1, 16), st.integers(1, 16), seeds)
def test_majority_counts_half_of_the_ranks_on_average(size, k, seed):
    """Invariant 6, and its form for quorum:K: with a random arrival order, a round that starts
    with the last of a committee of K has K (P + 1) / (K + 1) ranks active on average."""
    k = min(k, size)
    random = Random(seed)
    rounds = 1500
    total = 0
    for r in range(rounds):
        order = list(range(size))
        random.shuffle(order)
        committee = _core.draw_committee(seed, "g", r, k, size)
        total += 1 + max(order.index(rank) for rank in committee)
    expected = k * (size + 1) / (k + 1)
    assert abs(total / rounds - expected) < 6 * size / rounds**0.5
