"""What only PyTorch's tensors and handles can do. The rounds themselves: tests/parallel/shared."""

import torch


def code(rank):
    return torch.full((3,), float(2**rank))


def test_results_are_the_callers_own(hvd, name, ranks):
    rank, size = ranks
    tensor = code(rank)
    first, = hvd.partial_allreduce([tensor], name, policy="full", op=hvd.Sum)
    first.tensors[0].zero_()
    second, = hvd.partial_allreduce([tensor], name, policy="full", op=hvd.Sum)
    assert tensor.tolist() == [2**rank] * 3
    assert second.tensors[0].tolist() == [2**size - 1] * 3


def test_tensors_need_not_be_contiguous(hvd, name, ranks):
    rank, size = ranks
    tensor = (torch.arange(6.0).reshape(2, 3) * 2**rank).t()
    ours, = hvd.partial_allreduce([tensor], name, policy="full", op=hvd.Sum)
    assert torch.equal(ours.tensors[0], torch.arange(6.0).reshape(2, 3).t() * (2**size - 1))


def test_handles(hvd, name, ranks):
    rank, size = ranks
    handle = hvd.partial_allreduce_async([code(rank)], name, policy="full", op=hvd.Sum)
    other = hvd.allreduce_async(code(rank), name=name, op=hvd.Sum)
    while not hvd.poll(handle):
        pass
    done, = hvd.synchronize(handle)
    assert done.tensors[0][0] == 2**size - 1
    assert hvd.synchronize(handle)[0] is done
    assert hvd.synchronize(other)[0] == 2**size - 1
