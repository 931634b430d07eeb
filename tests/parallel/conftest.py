"""What all bodies share, given `hvd` of the framework at hand: events between the ranks, names."""

import gc
import os
import sys

import pytest

if "HOROVOD_PARTIAL_TEST_EVENTS" not in os.environ:
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


@pytest.fixture
def unchanged(hvd):
    """Fails a test after which names, definitions or groups are not what they were before."""
    def state():
        gc.collect()
        found = []
        for framework in ("torch", "tensorflow"):
            if ops := sys.modules.get(f"horovod_partial.{framework}.ops"):
                groups = ops.partial_groups
                found.append((dict(groups.names._users), dict(groups._definitions),
                              set(groups.training), dict(getattr(ops, "_forms", {}))))
        return found

    before = state()
    yield
    assert state() == before


@pytest.fixture
def needs_two(hvd):
    if hvd.size() < 2:
        pytest.skip("needs two ranks")
