"""Events between the ranks of a test that Horovod does not see."""

import itertools
import os

import torch


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
