"""Policy auto: which K it takes for steps of known durations, when, and that it then stays."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horovod_partial import _core
from horovod_partial._core import Question, replay, replay_source

EVEN = [[0.1]] * 4


def noisy(rank, means, noise, seed=0):
    draw = random.Random(seed * 1000 + rank)
    return [means[rank] * (1 + noise * draw.gauss(0, 1)) for _ in range(16)]


@pytest.mark.parametrize("means, k", [
    ([1, 1, 1, 1], 0),           # 0: as it is
    ([1, 1, 1, 3], 3),
    ([5, 1, 1, 3], 2),
    ([1, 1, 1, 1, 1, 1, 1, 3], 7),
    ([1] * 6 + [4] * 2, 6),
    ([1, 1, 1, 1.1], 0),         # what a stale gradient costs is more than is won
])
@pytest.mark.parametrize("noise", [0, 0.03])
def test_the_best_k_for_ranks_that_are_slow_for_good(means, k, noise):
    size = len(means)
    steps = [noisy(rank, means, noise) for rank in range(size)]
    answer, gain = Question(steps, size).answer()
    assert answer == k
    assert gain > 1.04 if k else gain == 1
    if k:
        # From there, it stays.
        assert Question(steps, k).answer() == (0, 1.0)


def test_what_slows_all_ranks_at_once_is_no_imbalance():
    steps = [[1, 1, 5, 1, 1, 1, 4, 1]] * 8
    assert Question(steps, 8).answer()[0] == 0
    # The same steps, each rank in turn: that is.
    turns = [steps[0][rank:] + steps[0][:rank] for rank in range(8)]
    assert 2 <= Question(turns, 8).answer()[0] <= 6


def test_a_slow_step_is_not_taken_for_a_slow_rank():
    """In three rounds, each time another rank takes four times as long: all are taken to be alike,
    so that more than one is left out of a round."""
    steps = [[4, 1, 1], [1, 4, 1], [1, 1, 4], *[[1, 1, 1]] * 5]
    assert 3 <= Question(steps, 8).answer()[0] <= 6


@pytest.mark.parametrize("cost, larger", [(0, False), (100, True)])
def test_the_staleness_cost(cost, larger):
    steps = [[1 + rank / 4] for rank in range(8)]
    scores = Question(steps, 8, staleness_cost=cost).scores()
    assert len(scores) == 8
    assert (scores[-1] == max(scores)) == larger
    assert (Question(steps, 8, staleness_cost=cost).answer()[0] == 0) == larger


def test_a_round_that_takes_long_favours_few_rounds():
    """Each round costs all ranks its time, so that more of them wait for one another."""
    steps = [[0.1]] * 6 + [[0.2], [0.3]]
    quick, slow = (Question(steps, 8, round_seconds=s).answer()[0] or 8 for s in (0, 1.0))
    assert quick == 6 and slow > quick


@given(st.integers(2, 40), st.integers(0, 2**32))
def test_an_answer_is_never_worse_than_what_is(size, seed):
    draw = random.Random(seed)
    steps = [[draw.expovariate(1) + 0.1 for _ in range(draw.randint(2, 8))] for _ in range(size)]
    present = draw.randint(1, size)
    question = Question(steps, present, seed=seed % 1000)
    k, gain = question.answer()
    scores = question.scores()
    assert 0 <= k <= size and k != present
    if k:
        assert scores[k - 1] / scores[present - 1] == pytest.approx(gain)
        assert gain > 1.04 and scores[k - 1] > 0.95 * max(scores)
    else:
        assert scores[present - 1] > 0.9 * max(scores)


def test_many_ranks():
    steps = [[1.0, 1.01]] * 900 + [[3.0, 3.01]] * 100
    assert 880 <= Question(steps, 1000).answer()[0] <= 910


# ------------------------------------------------------------------ changes, in a replay

def test_it_begins_with_all_ranks_and_changes_once():
    result = replay(3 * [[0.1]] + [[0.3]], "auto", rounds=200)
    (number, before, k, why), = result.changes
    assert (before, k) == (4, 3) and 2 <= number <= 4
    assert "times that of K=4" in why and "rounds stale" in why
    full = replay(3 * [[0.1]] + [[0.3]], "full", rounds=200)
    first = replay(3 * [[0.1]] + [[0.3]], "first:3", rounds=200)
    assert first.seconds < result.seconds < first.seconds + (number + 1) * 0.2 < full.seconds


def test_a_balanced_job_stays_with_all_ranks():
    for seed in range(10):
        steps = [[0.1 * (1 + 0.05 * random.Random(seed * 100 + rank * 10 + i).gauss(0, 1))
                  for i in range(10)] for rank in range(4)]
        result = replay(steps, "auto", rounds=300)
        assert result.changes == []
        assert result.seconds == replay(steps, "full", rounds=300).seconds


def switching(size, seed, when):
    draws = [random.Random(seed * 100 + rank) for rank in range(size)]

    def source(rank, now):
        if now < when:
            return (0.3 if rank == size - 1 else 0.1) * draws[rank].uniform(0.98, 1.02)
        return 0.1 * draws[rank].uniform(0.98, 1.02)
    return source


def test_it_follows_a_change_of_pattern():
    """A slow rank that is slow no longer: a round waits for all again."""
    result = replay_source(4, switching(4, 0, 10.0), "auto", rounds=300)
    assert [k for _, _, k, _ in result.changes] == [3, 4]
    # Within three seconds, as long as its memory goes back.
    assert 95 <= result.changes[1][0] <= 130


@pytest.mark.parametrize("pattern", ["random", "heavy", "skew"])
def test_it_does_not_flap(pattern):
    changes = 0
    for seed in range(5):
        draws = [random.Random(seed * 100 + rank) for rank in range(8)]

        def source(rank, now):
            factor = {"random": 4 if draws[rank].random() < 0.125 else 1,
                      "heavy": 1 + min(draws[rank].paretovariate(1.5) - 1, 30) / 2,
                      "skew": 1 + 3 * rank / 7 + 0.02 * draws[rank].gauss(0, 1)}[pattern]
            return 0.1 * factor

        changes += len(replay_source(8, source, "auto", rounds=400).changes)
    assert 5 <= changes <= 5 * 8


def test_changes_are_those_of_a_policy_with_this_cost():
    steps = [[0.1 + 0.02 * rank] for rank in range(8)]
    free, dear = (replay(steps, f"auto:{cost}", rounds=100).changes for cost in (0, 50))
    assert free and not dear


@pytest.mark.parametrize("text, cost", [("auto", 0.7), ("auto:0.7", 0.7), ("auto:0", 0),
                                        ("auto:1e-2", 0.01), ("auto:12", 12)])
def test_strings(text, cost):
    assert _core.parse_policy(text) == ("auto", 1, cost)


@pytest.mark.parametrize("text", ["auto:", "auto:-1", "auto:x", "auto:nan", "auto:inf", "auto:1 ",
                                  "Auto"])
def test_wrong_strings(text):
    with pytest.raises(ValueError, match="policy=.*'auto:COST'"):
        _core.parse_policy(text)
