"""What all bodies share, given `hvd` of the framework at hand: events between the ranks, names."""

import contextlib
import gc
import os
import sys

import pytest

IN_A_RANK = "HOROVOD_PARTIAL_TEST_EVENTS" in os.environ
if not IN_A_RANK:
    collect_ignore = ["shared", "torch", "tensorflow"]  # run by test_parallel.py


@pytest.fixture(scope="session")
def _events(hvd):
    from events import Events

    return Events(hvd.rank(), hvd.size())


@pytest.fixture
def events(_events, request):
    _events.begin(request.node.nodeid)
    return _events


@pytest.fixture
def name(request):
    """A group's name of its own for each test."""
    return request.node.nodeid


@pytest.fixture
def ranks(hvd):
    """(rank, size)"""
    return hvd.rank(), hvd.size()


@pytest.fixture(scope="session", autouse=IN_A_RANK)
def _fast_collections(hvd):
    """What imports have made is no garbage, and a lot."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def keeps_state(hvd):
    """``with keeps_state(*names)`` fails when names, definitions, what has been submitted and
    training groups, or the core's groups of these names, are not afterwards what they were
    before."""
    def state(names):
        gc.collect()
        found = []
        for framework in ("torch", "tensorflow"):
            if ops := sys.modules.get(f"horovod_partial.{framework}.ops"):
                groups = ops.partial_groups
                found.append((dict(groups.names._users), dict(groups._definitions),
                              dict(groups._submitted), set(groups.training),
                              dict(getattr(ops, "_forms", {})),
                              [groups.library.stats(0, name) for name in names]))
        return found

    @contextlib.contextmanager
    def kept(*names):
        before = state(names)
        yield
        assert state(names) == before

    return kept


@pytest.fixture
def unchanged(keeps_state, name):
    """``keeps_state`` for a whole test."""
    with keeps_state(name):
        yield


@pytest.fixture
def needs_two(hvd):
    if hvd.size() < 2:
        pytest.skip("needs two ranks")
