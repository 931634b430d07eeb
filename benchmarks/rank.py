"""One rank of a job of benchmarks/jobs.py: `python -m benchmarks.rank KIND`. Does what it is asked
until it is told to end."""

import importlib
import os
import sys
import time
import traceback
from multiprocessing.connection import Client


class World:
    """What a function that runs on a rank has: `hvd` (None without Horovod), `comm` (mpi4py's,
    only without Horovod), `rank`, `size`, `partial` (whether hvd has partial collectives), and
    `state`, a dict that lasts from one call to the next."""

    def __init__(self, kind):
        self.hvd = self.comm = None
        self.partial = kind == "ours"
        self.state = {}
        if kind == "mpi4py":
            from mpi4py import MPI
            self.comm = MPI.COMM_WORLD
            self.rank, self.size = self.comm.Get_rank(), self.comm.Get_size()
            return
        import torch
        torch.set_num_threads(1)
        self.hvd = importlib.import_module(
            "horovod_partial.torch" if self.partial else "horovod.torch")
        self.hvd.init()
        self.rank, self.size = self.hvd.rank(), self.hvd.size()


def sleep_until(when):
    """Until time.monotonic() is `when`: the same on all ranks of a machine."""
    time.sleep(max(when - time.monotonic(), 0))


def main():
    world = World(sys.argv[1])
    with Client(os.environ["BENCHMARKS_SOCKET"], family="AF_UNIX",
                authkey=bytes.fromhex(os.environ["BENCHMARKS_KEY"])) as parent:
        parent.send((world.rank, os.getpid()))
        while (request := parent.recv()) is not None:
            module, name, arguments = request
            try:
                function = getattr(importlib.import_module(module), name)
                answer = True, function(world, **arguments)
            except Exception:
                answer = False, traceback.format_exc()
            parent.send(answer)
    if world.hvd is not None:
        world.hvd.shutdown()


if __name__ == "__main__":
    main()
