"""Rank 1 computes, for as long as the file of the first argument is not there, whenever rank 0 waits
for it: in registration, as initiator or in a committee, at its staleness bound, under `full`, in a
flush."""

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


def case(what, name, policy, bound=8, prepare=True, last=hvd.partial_allreduce):
    def submit():
        return hvd.partial_allreduce(one, name, policy=policy, staleness_bound=bound, seed=seed)

    if prepare:
        submit()  # round 0
    if rank == 1:
        compute(what)
    elif what == "bound":
        submit()
    last(name) if last is hvd.partial_flush else submit()
    hvd.partial_flush(name)


seed = next(seed for seed in range(100) if initiators(seed)[0] == [1])
case("registration", "registration", "solo", prepare=False)
case("initiator", "initiator", "majority")
case("committee", "committee", "quorum:2")
case("bound", "bound", "solo", bound=1)
case("full", "full", "full")
case("flush", "flush", "solo", last=hvd.partial_flush)
try:
    # This one stays stalled until the shutdown time is over.
    case("end", "end", "full")
except hvd.HorovodInternalError:
    print(f"rank {rank} was shut down", flush=True)
