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

    def late_phases(self, step, phases):
        """Phases, each with one slow rank: the others take three steps before it takes one,
        `step(number)`. For policy solo with a high staleness bound, after a flush."""
        number = 0
        for phase in range(phases):
            slow = phase % self._size
            if self._rank == slow and self._size > 1:
                for other in range(self._size):
                    if other != slow:
                        self.wait(f"{phase} done by {other}")
                step(number)
            else:
                for _ in range(3):
                    step(number)
                    number += 1
                self.set(f"{phase} done by {self._rank}")
            number += 1

    def run_ahead(self, hvd, work):
        """Rank 0 does `work()` while all others are excused; all go on when none is any more."""
        if self._rank == 0:
            for other in range(1, self._size):
                self.wait(f"excused {other}")
            work()
            self.set("far ahead")
        else:
            with hvd.excused():
                self.set(f"excused {self._rank}")
                self.wait("far ahead")
        self.barrier()

    def barrier(self):
        """All ranks meet, without Horovod's knowledge."""
        number = next(self._barriers)
        self.set(f"barrier{number}/{self._rank}")
        for rank in range(self._size):
            self.wait(f"barrier{number}/{rank}")
