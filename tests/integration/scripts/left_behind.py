"""A job whose end has something to say: rank 1 falls behind its staleness bound while it is excused,
and later submits what no round carries, because rank 0's last round is over by then."""

import os
import sys

import torch
from trainer import Trainer

import horovod_partial.torch as hvd

os.environ["HOROVOD_PARTIAL_TEST_EVENTS"] = sys.argv[1]
sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../parallel"))
from events import Events  # noqa: E402

hvd.init()
rank = hvd.rank()
events = Events(rank, hvd.size())
settings = dict(policy="solo", staleness_bound=2)
trainer = Trainer("horovod_partial.torch", **settings)

trainer.step()
events.barrier()
events.run_ahead(hvd, lambda: [trainer.step() for _ in range(5)])
trainer.optimizer.flush()


def submit():
    for name in ("plain", "flushed"):
        hvd.partial_allreduce([torch.ones(1)], name, **settings)
    trainer.step()


submit()
events.barrier()
if rank == 0:
    submit()  # alone
    events.set("last round of rank 0")
else:
    events.wait("last round of rank 0")
    submit()
hvd.partial_flush("flushed")
