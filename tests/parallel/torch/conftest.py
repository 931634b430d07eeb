"""What the bodies share: Horovod, and events between ranks that Horovod does not see."""

import itertools
import os

import pytest
import torch

if "HOROVOD_PARTIAL_TEST_EVENTS" not in os.environ:
    collect_ignore_glob = ["test_*.py"]  # run by tests/parallel/test_parallel.py


class Events:
    """Events between the ranks, by which tests script who is late."""

    def __init__(self, rank, size):
        self._store = torch.distributed.FileStore(os.environ["HOROVOD_PARTIAL_TEST_EVENTS"], size)
        self._rank, self._size = rank, size
        self._test = ""
        self._barriers = itertools.count()

    def begin(self, test):
        self._test = test

    def set(self, name):
        self._store.set(f"{self._test}/{name}", "1")

    def wait(self, name):
        self._store.wait([f"{self._test}/{name}"])

    def barrier(self):
        """All ranks meet, without Horovod's knowledge."""
        number = next(self._barriers)
        self.set(f"barrier{number}/{self._rank}")
        for rank in range(self._size):
            self.wait(f"barrier{number}/{rank}")


@pytest.fixture(scope="session")
def hvd():
    import horovod_partial.torch as hvd

    torch.set_num_threads(1)
    hvd.init(process_sets="dynamic")
    return hvd


@pytest.fixture(scope="session")
def _events(hvd):
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
def needs_two(hvd):
    if hvd.size() < 2:
        pytest.skip("needs two ranks")
