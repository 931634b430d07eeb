"""Four rounds and a flush of one group, scripted: who is active, stale, null, waited for."""

import os
import sys

import torch

import horovod_partial.torch as hvd

os.environ["HOROVOD_PARTIAL_TEST_EVENTS"] = sys.argv[1]
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../parallel"))
from events import Events  # noqa: E402

hvd.init()
rank = hvd.rank()
events = Events(rank, hvd.size())


one = [torch.ones(2)]
settings = {"policy": "solo", "staleness_bound": 1}


def submit():
    return hvd.partial_allreduce(one, "recorded", **settings)


submit()
hvd.partial_allreduce(one, "other", policy="solo")
if rank == 0:
    submit()  # alone: the other has nothing
    events.set("round 1 done")
    events.wait("late submission")
    submit()  # the other's late submission travels along
    # Waits for the other, which has a round pending.
    handle = hvd.partial_allreduce_async(one, "recorded", **settings)
    # In this round's exchange, all learn that rank 0 is ready in the first group.
    hvd.partial_allreduce(one, "other", policy="solo")
    events.set("rank 0 waits")
    hvd.synchronize(handle)
else:
    events.wait("round 1 done")
    assert [round_.index for round_ in submit()] == [1]
    events.set("late submission")
    events.wait("rank 0 waits")
    assert [round_.index for round_ in submit()] == [2]
hvd.partial_flush("recorded")
