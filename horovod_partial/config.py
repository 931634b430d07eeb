"""The settings of a partial group: arguments, environment variables, defaults."""

import dataclasses
import operator
import os

from horovod_partial import _core
from horovod_partial.policy import Policy, staleness_cost_of

POLICY = "HOROVOD_PARTIAL_POLICY"
STALENESS_BOUND = "HOROVOD_PARTIAL_STALENESS_BOUND"
CATCH_UP = "HOROVOD_PARTIAL_CATCH_UP"
RESYNC_EVERY = "HOROVOD_PARTIAL_RESYNC_EVERY"
SEED = "HOROVOD_PARTIAL_SEED"
STALENESS_COST = "HOROVOD_PARTIAL_STALENESS_COST"
SUMMARY = "HOROVOD_PARTIAL_SUMMARY"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a group's rounds start and what late ranks do. The same on every rank.

    Attributes:
        policy: when a round may start.
        staleness_bound: pending rounds at which a rank is waited for, at least 1.
        catch_up: ``'replay'``, ``'sum'`` or ``'latest'``.
        resync_every: rounds after which replicas heal, 0 for never.
        seed: of the draw of initiators and committees, from 0.
    """

    policy: Policy
    staleness_bound: int
    catch_up: str
    resync_every: int
    seed: int

    def limited_to(self, size):
        """These settings in a process set of ``size`` ranks, where K counts as ``size`` at most."""
        return dataclasses.replace(self, policy=self.policy.limited_to(size))


def resolve(policy=None, staleness_bound=None, catch_up=None, resync_every=None, seed=None,
            summary=None, staleness_cost=None, *, environment=os.environ):
    """The settings that a call's arguments give; ``None`` means the environment variable, else
    the default: majority, 8, replay, never, 0. ``staleness_cost`` (0.7) is for policy ``auto``
    that does not say one of its own. ``summary`` is no setting of a group, and only checked.

    Raises:
        ValueError: names the argument or variable, its value and what is allowed.
    """
    def pick(value, variable, default, check, convert=number_or_text):
        if value is not None:
            return check(value)
        text = environment.get(variable, "")
        if not text:
            return default if default is None else check(default)
        try:
            return check(convert(text))
        except ValueError as error:
            raise ValueError(f"environment variable {variable}: {error}") from None

    cost = pick(staleness_cost, STALENESS_COST, _core.STALENESS_COST, staleness_cost_of,
                decimal_or_text)
    settings = Settings(
        policy=pick(policy, POLICY, "majority", Policy.of).with_staleness_cost(cost),
        staleness_bound=pick(staleness_bound, STALENESS_BOUND, 8,
                             lambda value: whole_number("staleness_bound", value, 1)),
        catch_up=pick(catch_up, CATCH_UP, "replay", _catch_up),
        resync_every=pick(resync_every, RESYNC_EVERY, None,
                          lambda value: whole_number("resync_every", value, 1)) or 0,
        seed=pick(seed, SEED, 0, lambda value: whole_number("seed", value, 0)),
    )
    pick(summary, SUMMARY, 1, _yes_or_no)
    return settings


def summary_wanted(environment=os.environ):
    """Whether ranks say at the end how the rounds went; ``resolve`` has checked the variable."""
    return environment.get(SUMMARY, "") != "0"


def number_or_text(text):
    """What a setting in an environment variable or on a command line stands for."""
    try:
        return int(text)
    except ValueError:
        return text


def decimal_or_text(text):
    """Likewise, where it may be any number."""
    try:
        return float(text)
    except ValueError:
        return text


def whole_number(name, value, least):
    """``value`` as an int from ``least`` to 2**62; ValueError that names the argument otherwise."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number <= 2**62:
        raise ValueError(f"{name}={value!r} must be a whole number from {least} to 2**62")
    return number


def _yes_or_no(value):
    if value not in (0, 1) or isinstance(value, bool):
        raise ValueError(f"summary={value!r} must be 1 (the default) or 0")
    return value


def _catch_up(value):
    if not isinstance(value, str):
        raise ValueError(f"catch_up={value!r} is not known: use 'replay', 'sum' or 'latest'")
    _core.check_catch_up(value)
    return value
