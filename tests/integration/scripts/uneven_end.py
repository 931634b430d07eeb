"""Rank 0 takes its few steps and ends; the others train on, and then end in the way of the first
argument."""

import sys

import torch

import horovod_partial.torch as hvd

how = sys.argv[1]
hvd.init()
weight = torch.nn.Parameter(torch.zeros(2))
optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), policy="first:2",
                                     staleness_bound=2)
steps = 3 if hvd.rank() == 0 else 40
for step in range(steps):
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()
if hvd.rank() > 0 and how == "flush":
    optimizer.flush()  # rank 0 counts as having called it
if hvd.rank() > 0 and how == "join":
    hvd.join()
if hvd.rank() > 0 and how == "synchronous":
    # An ended rank cannot take part: an error at once, not a hang.
    try:
        hvd.allreduce(torch.zeros(1), name="alone")
    except hvd.HorovodInternalError:
        print(f"rank {hvd.rank()}: HorovodInternalError", flush=True)
print(f"rank {hvd.rank()} did {steps} steps and {optimizer.round} rounds", flush=True)
if how == "shutdown":
    hvd.shutdown()
if how == "exit0":
    sys.exit(0)
