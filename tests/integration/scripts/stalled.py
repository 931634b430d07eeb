"""Rank 1 computes, for as long as the file of the first argument is not there, whenever rank 0 waits
for it: in registration, as initiator or in a committee, at its staleness bound, under `full`, in a
flush. Rank 0 says when it begins to wait, by the clock of the machine."""

import os
import sys
import time

import torch

import horovod_partial.torch as hvd
from horovod_partial import _core

hvd.init()
rank = hvd.rank()
one = [torch.ones(2)]


def initiators(seed):
    return [_core.draw_committee(seed, "initiator", round_, 1, 2) for round_ in (1, 2)]


def compute(what):
    print(f"{what} next", flush=True)
    while not os.path.exists(f"{sys.argv[1]} {what}"):
        time.sleep(0.02)


def case(what, policy, bound=8, prepare=True):
    def submit():
        return hvd.partial_allreduce(one, what, policy=policy, staleness_bound=bound, seed=seed)

    if prepare:
        submit()  # round 0
    if rank == 1:
        compute(what)
    elif what == "bound":
        submit()
    if rank == 0:
        print(f"{what} waits from {time.monotonic()} on", flush=True)
    if what != "flush":
        submit()
    hvd.partial_flush(what)


seed = next(seed for seed in range(100) if initiators(seed)[0] == [1])
case("registration", "solo", prepare=False)
case("initiator", "majority")
case("committee", "quorum:2")
case("bound", "solo", bound=1)
case("full", "full")
case("flush", "solo")
try:
    # This one stays stalled until the shutdown time is over.
    case("end", "full")
except hvd.HorovodInternalError:
    print(f"rank {rank} was shut down", flush=True)
