"""Rounds with random lateness, and a rank that falls far behind while excused: memory stays flat.

    horovodrun -np 2 python tests/soak/memory.py                 # 10,000 rounds of each
    HOROVOD_PARTIAL_TEST_FRAMEWORK=tensorflow horovodrun -np 2 python tests/soak/memory.py

Both an optimizer and a `partial_allreduce` do the rounds. Resident memory alone would not show a
leak of a small object per round in a short run, so what is allocated is counted as well: by malloc
in bytes, by Python in blocks.
"""

import argparse
import ctypes
import gc
import os
import random
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "parallel/shared"))
os.environ.setdefault("HOROVOD_PARTIAL_TEST_FRAMEWORK", "torch")

import numpy as np  # noqa: E402

import frameworks  # noqa: E402

STEPS = 50  # in which ranks are late at random, and then as many in which one is excused
BOUND = 4
# How much memory may grow per round. The smallest object of malloc has 32 bytes, of Python one block.
MOST = {"bytes resident": 128, "bytes of malloc": 24, "blocks of Python": 0.5}


class Mallinfo(ctypes.Structure):
    """What glibc's mallinfo2() returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
        "fordblks", "keepcost")]


mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo


def memory():
    """(resident bytes, bytes that malloc has given away, blocks that Python has)"""
    gc.collect()
    heap = mallinfo()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return resident, heap.uordblks + heap.hblkhd, sys.getallocatedblocks()


class Turns:
    """Each call is a turn: some hundred rounds of each group, and a flush."""

    def __init__(self, fw):
        self._fw, self._hvd = fw, fw.hvd
        self._late = random.Random(fw.hvd.rank())
        self._trainer = fw.trainer("momentum", staleness_bound=BOUND, name="optimizer")
        self._given = self._got = 0.0
        self._steps = 0
        self.turns = 0

    @property
    def rounds(self):
        return self._trainer.optimizer.round

    @property
    def merged(self):
        return [stats["merged"] for stats in (self._trainer.optimizer.stats(),
                                              self._hvd.partial_stats("tensors"))]

    def _step(self):
        self._steps += 1
        self._trainer.step(self._hvd.rank(), self._steps)
        value = self._late.randrange(-8, 9)
        self._given += value
        self._keep(self._hvd.partial_allreduce([self._fw.tensor([value] * 5, "float64")], "tensors",
                                               op=self._hvd.Sum, staleness_bound=BOUND))

    def _keep(self, rounds):
        self._got += sum(self._fw.values(round.tensors[0])[0] for round in rounds)

    def _meet(self, value):
        # Each new name would be a new entry of Horovod's response cache.
        return self._fw.values(self._hvd.allreduce(self._fw.tensor([value], "float64"),
                                                   op=self._hvd.Sum, name="meet"))[0]

    def __call__(self):
        hvd = self._hvd
        for _ in range(STEPS):
            for _ in range(self._late.choice([0, 0, 0, 1, 10])):
                np.linalg.svd(np.ones((24, 24)))
            self._step()
        self._meet(0)
        if hvd.rank() == hvd.size() - 1:
            with hvd.excused():
                self._meet(0)
        else:
            for _ in range(STEPS):
                self._step()
            self._meet(0)
        self.turns += 1
        self._trainer.optimizer.flush()
        self._keep(hvd.partial_flush("tensors"))
        given = self._meet(self._given)
        if given != self._got:
            sys.exit(f"rank {hvd.rank()}: {given} was submitted, {self._got} returned")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=10_000,
                        help="rounds of each group, at least (default: %(default)s)")
    args = parser.parse_args()
    fw = frameworks.chosen()
    hvd = fw.hvd
    hvd.init()
    turns = Turns(fw)
    # Made before, so that it does not grow itself: rounds, and what memory() says.
    samples = np.zeros((args.rounds // STEPS + 2, 4))
    while turns.rounds < args.rounds:
        turns()
        samples[turns.turns - 1] = turns.rounds, *memory()
    # The first third warms up pools and caches; medians, because a sample may see a temporary.
    third = turns.turns // 3
    before, after = [np.median(samples[i * third:(i + 1) * third], axis=0) for i in (1, 2)]
    growth = dict(zip(MOST, (after - before)[1:] / (after - before)[0]))
    print(f"rank {hvd.rank()}: {turns.rounds} rounds of each group, merged {turns.merged}; "
          f"{after[1] / 2**20:.0f} MiB resident; growth per round: " + ", ".join(
              f"{grown:.2f} {what}" for what, grown in growth.items()), flush=True)
    # Of the steps while it is excused, one may have been late, and as many as its bound are kept.
    least = turns.turns * (STEPS - BOUND - 1) if hvd.rank() == hvd.size() - 1 else 0
    if min(turns.merged) < least:
        sys.exit(f"rank {hvd.rank()}: at least {least} rounds of each group should be merged")
    for what, grown in growth.items():
        if grown > MOST[what]:
            sys.exit(f"rank {hvd.rank()}: memory grows by {grown:.1f} {what} per round, which is "
                     f"more than {MOST[what]}")


if __name__ == "__main__":
    main()
