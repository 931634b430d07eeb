"""Horovod shut down and initialized again in one process, partial groups and all."""

import torch

import horovod_partial.torch as hvd

for life in range(3):
    hvd.init()
    for step in range(4):
        rounds = hvd.partial_allreduce([torch.full((2 + life,), 1.0)], "again", policy="full",
                                       op=hvd.Sum)
        assert rounds[0].index == step, (life, step, rounds)
        assert rounds[0].tensors[0].tolist() == [hvd.size()] * (2 + life)
    rank = hvd.rank()
    hvd.shutdown()
    try:
        hvd.partial_allreduce([torch.zeros(1)], "again")
    except (hvd.HorovodInternalError, ValueError) as error:
        assert "init" in str(error), error
    else:
        raise AssertionError("no error without Horovod")
print(f"rank {rank} had three lives", flush=True)
