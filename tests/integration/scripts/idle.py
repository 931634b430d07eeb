"""Two operations, and two seconds between them in which this job has nothing to say."""

import os
import time

import torch

import horovod_partial.torch as hvd

if os.environ.get("PARTIAL_TEST_CLOCKED_RANK", "none") == os.environ.get("HOROVOD_RANK"):
    os.environ["HOROVOD_EVENT_DRIVEN"] = "0"
hvd.init()
hvd.partial_allreduce([torch.ones(2)], "group")
hvd.allreduce(torch.ones(2), name="first")
time.sleep(2)  # not to order events: nothing happens
hvd.allreduce(torch.ones(2), name="last")
