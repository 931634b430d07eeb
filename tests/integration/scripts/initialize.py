"""hvd.init() that fails, and succeeds when its cause is gone."""

import os

import torch

import horovod_partial.torch as hvd

os.environ.update(HOROVOD_CONTROLLER="gloo", HOROVOD_CPU_OPERATIONS="gloo")
for attempt in range(2):
    os.environ["HOROVOD_GLOO_IFACE"] = "no-such-interface"
    try:
        hvd.init()
    except ValueError as error:
        assert "initialization failed" in str(error), error
    else:
        raise AssertionError("no error")
    assert not hvd.is_initialized()
    hvd.shutdown()  # no harm
    del os.environ["HOROVOD_GLOO_IFACE"]
    hvd.init()
    assert hvd.allreduce(torch.ones(1)).tolist() == [1.0]
    hvd.shutdown()
print("initialized twice", flush=True)
