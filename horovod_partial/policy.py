"""The policies: when a round may start.

Each has a string form, for launchers and environment variables, and an object
form, for scripts. The rules are in ``horovod_partial/csrc/core/decide.h``.
"""

import operator
import warnings

from horovod_partial import _core


class Policy:
    """When a round may start. ``str(policy)`` is what the string form would be.

    Args:
        text: ``'solo'``, ``'majority'``, ``'quorum:K'``, ``'first:K'``, ``'full'``, ``'auto'`` or
            ``'auto:COST'``.

    Attributes:
        kind: the word before the colon.
        k: the K of ``'quorum:K'`` and ``'first:K'``.
        staleness_cost: of ``'auto'``; None if the text does not give it.

    Raises:
        ValueError: ``text`` is none of these, K is not a whole number of at least 1, or COST no
            number from 0.
    """

    def __init__(self, text):
        self.kind, self.k, staleness_cost = _core.parse_policy(text)
        self.staleness_cost = staleness_cost if ":" in text else None
        self._text = text

    @classmethod
    def of(cls, value):
        """The policy that a user's argument stands for: a string or a Policy."""
        if isinstance(value, Policy):
            return value
        if isinstance(value, str):
            return cls(value)
        raise ValueError(
            f"policy={value!r} is not a policy: give a string such as 'majority' or 'first:3', "
            "or an object such as hvd.First(3)")

    def limited_to(self, size):
        """This policy in a process set of ``size`` ranks, where K counts as ``size`` at most."""
        if self.kind not in ("quorum", "first") or self.k <= size:
            return self
        warnings.warn(f"policy='{self}' asks for {self.k} of {size} ranks; "
                      f"'{self.kind}:{size}' is used", stacklevel=2)
        return Policy(f"{self.kind}:{size}")

    def with_staleness_cost(self, cost):
        """This policy with ``cost`` as its staleness cost, if it is ``auto`` without one."""
        if self.kind != "auto" or self.staleness_cost is not None or cost == _core.STALENESS_COST:
            return self
        return Auto(cost)

    def __str__(self):
        return self._text

    def __repr__(self):
        return f"Policy({self._text!r})"

    def __eq__(self, other):
        return isinstance(other, Policy) and str(self) == str(other)

    def __hash__(self):
        return hash(self._text)


def table():
    """The policies for people, a line each."""
    return "\n".join([
        "policies, from the least waiting to the most, and one that finds its own:",
        "  solo       the first rank that is ready starts the round",
        "  majority   a rank drawn anew for each round starts it; half take part on average",
        "  quorum:K   all of K ranks drawn anew for each round have to be ready",
        "  first:K    any K ranks have to be ready",
        "  full       all ranks have to be ready: synchronous training",
        "  auto       first:K with the K that suits the ranks' steps, found and followed by itself;",
        "             it begins with all ranks",
    ])


def _with_k(kind, k):
    try:
        number = operator.index(k)
    except TypeError:
        number = k
    return f"{kind}:{number}"


class Solo(Policy):
    """The first ready rank starts the round (eager-SGD, section 4.1)."""

    def __init__(self):
        super().__init__("solo")


class Majority(Policy):
    """A rank drawn at random starts the round, so that half take part on average
    (eager-SGD, section 4.2)."""

    def __init__(self):
        super().__init__("majority")


class Quorum(Policy):
    """All members of a random committee of ``k`` ranks have to be ready."""

    def __init__(self, k):
        super().__init__(_with_k("quorum", k))


class First(Policy):
    """The first ``k`` ready ranks start the round, whoever they are."""

    def __init__(self, k):
        super().__init__(_with_k("first", k))


class Full(Policy):
    """All ranks have to be ready: synchronous training, as in Horovod."""

    def __init__(self):
        super().__init__("full")


class Auto(Policy):
    """``First(k)`` with a ``k`` that follows the ranks' steps: it begins with all ranks, and changes
    at the same round on all of them when another is predicted to be worth more.

    Args:
        staleness_cost: a number from 0: how much one round of staleness, on average, costs in
            gradient efficiency. A ``k`` is worth the gradients that are submitted per second, divided
            by 1 + ``staleness_cost`` x mean staleness. A low cost makes ranks wait less, a high one
            keeps gradients fresher: take a higher one where training is sensitive to stale
            gradients (a high learning rate, say). None: ``HOROVOD_PARTIAL_STALENESS_COST``, else
            0.7.
    """

    def __init__(self, staleness_cost=None):
        if staleness_cost is None:
            super().__init__("auto")
        else:
            super().__init__(f"auto:{staleness_cost_of(staleness_cost)!r}")


def staleness_cost_of(value):
    """``value`` as a float; ValueError unless it is a finite number from 0."""
    try:
        cost = None if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError):
        cost = None
    if cost is None or not 0 <= cost < float("inf"):
        raise ValueError(f"staleness_cost={value!r} must be a number from 0")
    return cost
