"""Ranks 0 and 1 of a process set train until rank 2, which is in none, kills itself."""

import os
import signal
import sys

import torch

import horovod_partial.torch as hvd

hvd.init(process_sets="dynamic")
pair = hvd.add_process_set([0, 1])
if hvd.rank() == 2:
    hvd.partial_allreduce([torch.ones(1)], "all", policy="full")
    os.kill(os.getpid(), signal.SIGKILL)
hvd.partial_allreduce([torch.ones(1)], "all", policy="full")
try:
    while True:
        hvd.partial_allreduce([torch.ones(1)], "pair", process_set=pair)
        hvd.allreduce(torch.ones(1), name="synchronous", process_set=pair)
except hvd.HorovodInternalError:
    print(f"rank {hvd.rank()} noticed", flush=True)
    sys.exit(7)
