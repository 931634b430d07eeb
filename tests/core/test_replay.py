"""Replaying steps of known durations: what a policy comes to in closed form."""

import pytest

from horovod_partial._core import replay

SLOW = [[0.25], [0.25], [0.25], [0.75]]  # exact in binary


def test_full_goes_at_the_pace_of_the_slowest_rank():
    result = replay(SLOW, "full", rounds=90)
    assert result.seconds == 90 * 0.75
    assert (result.rounds, result.submissions) == (90, 4 * 90)
    assert (result.mean_active, result.mean_staleness, result.max_staleness) == (4, 0, 0)
    assert result.wait_seconds == 90 * 3 * 0.5 / 4


def test_first_3_goes_at_the_pace_of_the_three_others():
    result = replay(SLOW, "first:3", rounds=90)
    assert result.seconds == 90 * 0.25
    # The slow rank submits at every third round's time, and is late: it has missed two rounds by
    # the first time, three by each later one.
    assert result.submissions == 3 * 90 + 30
    assert (result.mean_active, result.max_staleness) == (3, 3)
    assert result.mean_staleness == (2 + 29 * 3) / 300
    assert result.rounds_per_second == 4
    assert result.submissions_per_second == 300 / 22.5


@pytest.mark.parametrize("first, later", [("first:1", "solo"), ("first:4", "full"),
                                          ("quorum:1", "majority")])
def test_policies_that_are_the_same(first, later):
    steps = [[0.3, 0.2], [0.1, 0.25, 0.4], [0.2], [0.7, 0.1]]
    a, b = replay(steps, first), replay(steps, later)
    assert (a.seconds, a.submissions, a.mean_active, a.mean_staleness) == (
        b.seconds, b.submissions, b.mean_active, b.mean_staleness)


def test_steps_come_in_order_and_begin_anew():
    # In step: each round takes as long as the longest of both ranks' steps.
    result = replay([[1, 2, 4], [3, 1]], "full", rounds=6)
    assert result.seconds == 3 + 2 + 4 + 1 + 3 + 4


def test_the_time_of_a_round_makes_all_wait():
    result = replay([[1], [1]], "full", rounds=10, round_seconds=0.5)
    assert (result.seconds, result.wait_seconds) == (15, 5)


def test_who_comes_during_a_round_is_late_and_goes_on_at_its_end():
    # Rank 0 starts a round at 4 that ends at 6; rank 1 comes at 5, finds it pending at 6.
    result = replay([[4], [5]], "solo", rounds=1, round_seconds=2)
    assert (result.seconds, result.submissions, result.mean_active) == (6, 1, 1)
    result = replay([[4], [5, 100]], "solo", rounds=2, round_seconds=2)
    # Rank 0 goes on at 6, too, and starts the next at 10.
    assert (result.seconds, result.submissions, result.max_staleness) == (12, 3, 1)


def test_exchanges_take_time_and_only_news_makes_one_due():
    # Rank 0 is ready after 1 s and rank 1 after 1.5 s: two exchanges, and the second lets the round
    # start 0.25 s later.
    result = replay([[1], [1.5]], "first:2", rounds=10, exchange_seconds=0.25)
    assert (result.seconds, result.exchanges) == (10 * 1.75, 20)
    # What comes while an exchange is under way waits for the next one.
    result = replay([[1], [1.5]], "first:2", rounds=10, exchange_seconds=1)
    assert (result.seconds, result.exchanges) == (10 * 3, 20)
    # Where all are needed, there is one exchange, with all.
    result = replay([[1], [1.5]], "full", rounds=10, exchange_seconds=0.25)
    assert (result.seconds, result.exchanges) == (10 * 1.75, 10)
    # So where one is, which is drawn: the other is heard with it.
    result = replay([[1], [1.5]], "majority", rounds=10)
    assert result.exchanges == 10
    # Rank 1 is late each time, which is no news.
    result = replay([[1], [1.5]], "solo", rounds=10)
    assert (result.seconds, result.exchanges, result.submissions) == (10, 10, 16)


def test_a_rank_at_its_staleness_bound_is_waited_for():
    result = replay([[1], [100]], "solo", rounds=100, staleness_bound=5)
    assert result.max_staleness == 5
    # Round 6 waits until 100, then 5 rounds without rank 1 until 105, and it comes again at 200...
    assert result.seconds > 16 * 100


def test_staler_gradients_are_worth_less():
    result = replay([[1], [1.5]], "solo", rounds=300)
    assert result.mean_staleness > 0.2
    assert result.score() == pytest.approx(
        result.submissions_per_second / (1 + 0.7 * result.mean_staleness))
    assert result.score(staleness_cost=0) == result.submissions_per_second


@pytest.mark.parametrize("steps, settings, message", [
    ([], {}, "steps=\\[\\]"),
    ([[1], []], {}, "steps\\[1\\]"),
    ([[1], [-1]], {}, "steps\\[1\\] has -1"),
    ([[float("nan")]], {}, "nan"),
    ([[0], [0]], {}, "0 s"),
    ([[1]], {"rounds": 0}, "rounds=0"),
    ([[1]], {"round_seconds": -1}, "round_seconds=-1"),
    ([[1]], {"exchange_seconds": -1}, "exchange_seconds=-1"),
    ([[1]], {"staleness_bound": 0}, "staleness_bound=0"),
    ([[1]], {"policy": "most"}, "policy='most'"),
])
def test_wrong_arguments(steps, settings, message):
    with pytest.raises(ValueError, match=message):
        replay(steps, **{"policy": "solo", **settings})
