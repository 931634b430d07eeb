"""What each policy would have cost on the same steps, and which one to launch with. The numbers
come from ``_core.replay``: the core that real ranks run, against a virtual clock."""

import dataclasses
import statistics

from horovod_partial import _core
from horovod_partial.policy import Policy

STALENESS_COST = _core.STALENESS_COST
# Policies that are this close are taken to be equally good: then the one that waits for more ranks
# is advised, which costs less accuracy where the estimate is off.
TOLERANCE = 0.03
_ROUNDS = (300, 2000)  # fewest and most that are replayed


@dataclasses.dataclass
class Prediction:
    """Training under one policy.

    Attributes:
        policy: its string.
        score: gradients submitted per second / (1 + staleness_cost x mean staleness).
        waiting: the share of the time that a rank waits in its submissions, on average.
    """

    policy: str
    rounds_per_second: float
    submissions_per_second: float
    mean_active: float
    mean_staleness: float
    waiting: float
    score: float


@dataclasses.dataclass
class Advice:
    """Which policy to launch with.

    Attributes:
        predictions: of all policies, from the one that waits the least to the one that waits the
            most.
        best: the advised one of those with a K that stays.
        full: synchronous training.
        auto: the policy that finds its own K, not among ``predictions``; None for one rank.
        reason: sentences.
    """

    predictions: list
    best: Prediction
    full: Prediction
    auto: Prediction | None
    reason: str


def policies(size):
    """The policies to compare for so many ranks, from the least waiting to the most. ``solo`` is
    ``first:1``, and ``full`` is ``first:size``."""
    if size == 1:
        return ["full"]
    return ["solo", "majority", *(f"first:{k}" for k in range(2, size)), "full"]


def predict(steps, policy, *, round_seconds=0.0, staleness_bound=8,
            staleness_cost=STALENESS_COST):
    """A Prediction from ``steps``, for each rank the seconds of its steps (from getting a round to
    the next submission); a rank that has gone through its steps begins them anew.

    Raises:
        ValueError: a rank has no steps, or there is no such policy.
    """
    fewest, most = _ROUNDS
    policy = Policy.of(policy).with_staleness_cost(staleness_cost)
    replayed = _core.replay(steps, str(policy), round_seconds=round_seconds,
                            staleness_bound=staleness_bound,
                            rounds=min(max(fewest, *map(len, steps)), most))
    return Prediction(str(policy), replayed.rounds_per_second, replayed.submissions_per_second,
                      replayed.mean_active, replayed.mean_staleness,
                      replayed.wait_seconds / replayed.seconds, replayed.score(staleness_cost))


def advise(steps, **settings):
    """The Advice for these steps; arguments as for :func:`predict`."""
    predictions = [predict(steps, policy, **settings) for policy in policies(len(steps))]
    full = predictions[-1]
    highest = max(p.score for p in predictions)
    best = [p for p in predictions if p.score >= (1 - TOLERANCE) * highest][-1]
    auto = predict(steps, "auto", **settings) if len(steps) > 1 else None
    return Advice(predictions, best, full, auto, _reason(steps, best, full))


def _reason(steps, best, full):
    medians = [statistics.median(s) for s in steps]
    means = [statistics.fmean(s) for s in steps]
    typical = statistics.median(medians)
    slow = sorted((rank for rank, m in enumerate(medians) if m > 1.25 * typical),
                  key=lambda rank: -medians[rank])
    if best is full:
        return (f"Ranks are even enough: no policy is worth {TOLERANCE:.0%} more than waiting for "
                "all, so stay in step.")
    if slow:
        why = (("Rank " if len(slow) == 1 else "Ranks ") + _listed(slow) + (
            " takes " if len(slow) == 1 else " take ") + _listed(
                [f"{medians[rank] / typical:.1f}" for rank in slow]) +
            f" times as long for a step as the median rank ({typical:.3g} s)")
    elif max(means) > 1.25 * min(means) or max(medians) > 1.25 * min(medians):
        why = (f"The ranks' mean step takes between {min(means):.3g} and {max(means):.3g} s")
    else:
        why = ("No rank is slow for good, but single steps are: the slowest twentieth takes "
               f"{_tail(steps):.1f} times the median step, on whichever rank")
    return (f"{why}. With all in step, ranks wait {full.waiting:.0%} of the time; "
            f"with {best.policy} {best.waiting:.0%}, for {best.mean_active:.1f} of {len(steps)} "
            f"ranks active in a round and gradients {best.mean_staleness:.2f} rounds stale on "
            "average.")


def _tail(steps):
    every = sorted(seconds for rank in steps for seconds in rank)
    return every[int(0.95 * (len(every) - 1))] / max(statistics.median(every), 1e-9)


def _listed(things):
    *most, last = map(str, things)
    return f"{', '.join(most)} and {last}" if most else last
