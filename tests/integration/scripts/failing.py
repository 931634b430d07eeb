"""The last rank fails in its third step, in the way of the argument; the others must not hang."""

import os
import signal
import sys

import torch

import horovod_partial.torch as hvd

how = sys.argv[1]
hvd.init()
weight = torch.nn.Parameter(torch.zeros(2))
optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), policy="first:2",
                                     staleness_bound=2)
try:
    for step in range(10_000):
        weight.sum().backward()
        if step == 3 and hvd.rank() == hvd.size() - 1:
            if how in ("raise", "raise-and-shut-down"):
                raise RuntimeError("a bug in step 3")
            if how == "exit":
                sys.exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.step()
finally:
    if how == "raise-and-shut-down":
        hvd.shutdown()
