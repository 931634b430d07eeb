"""Partial collectives on PyTorch tensors."""

import torch

from horovod.torch import mpi_ops
from horovod.torch.mpi_ops import Average, global_process_set

from horovod_partial import _native, config, lifecycle
from horovod_partial.groups import Groups, Round, check_name, ranks_of

lifecycle.mark_partial_job()

partial_groups = Groups("torch", mpi_ops._basics)

# Handles whose arrays the background thread may still read.
_outstanding = set()


def dtype_code(what, dtype):
    return _native.dtype_code(what, dtype, str(dtype).removeprefix("torch."))


def on_host(tensor):
    """The tensor's values in one contiguous array of host memory, copied only where needed."""
    return tensor.detach().to("cpu").contiguous()


def addresses(tensors):
    return [tensor.data_ptr() for tensor in tensors]


class PartialHandle:
    """A submission under way, for ``hvd.poll`` and ``hvd.synchronize``."""

    def __init__(self, ticket, name, process_set, arrays, devices):
        self._ticket = ticket
        self._name = name
        self._process_set = process_set
        self._arrays = arrays  # read by the background thread until the answer
        self._devices = devices
        self._rounds = None
        self._error = None
        _outstanding.add(self)

    def poll(self):
        return self._ticket is None or self._ticket.poll()

    def synchronize(self):
        if self._ticket is not None:
            try:
                answer = partial_groups.answer(self._ticket, self._name, self._process_set)
                self._rounds = [self._read(raw) for raw in answer.rounds]
                self._ticket.close()
            except Exception as error:
                self._error = error
            # An interrupt leaves the ticket, to wait for once more.
            self._ticket = None
            self._arrays = None
            _outstanding.discard(self)
        if self._error is not None:
            raise self._error
        return self._rounds

    def _read(self, raw):
        results = [torch.empty_like(array) for array in self._arrays]
        raw.copy(addresses(results))
        return Round(raw.index, [result.to(device) for result, device
                                 in zip(results, self._devices)],
                     ranks_of(self._process_set, raw.active), raw.count)


def partial_allreduce_async(tensors, name, policy=None, op=Average, staleness_bound=None,
                            catch_up=None, seed=None, process_set=global_process_set):
    """The asynchronous form of :func:`partial_allreduce`: returns a handle for ``hvd.poll`` and
    ``hvd.synchronize``, which gives the rounds. The tensors must not change until then."""
    check_name(name)
    if isinstance(tensors, torch.Tensor) or not tensors:
        raise ValueError("tensors must be a list of at least one tensor")
    for i, tensor in enumerate(tensors):
        if not isinstance(tensor, torch.Tensor):
            raise ValueError(f"tensors[{i}]={tensor!r} is not a tensor")
        if tensor.is_sparse:
            raise NotImplementedError(f"tensors[{i}] is sparse: give tensors[{i}].to_dense()")
    partial_groups.check_op(op)
    settings = config.resolve(policy, staleness_bound, catch_up, None, seed)
    specs = tuple(
        _native.TensorSpec(str(i), dtype_code(f"tensors[{i}]", tensor.dtype), tuple(tensor.shape))
        for i, tensor in enumerate(tensors))
    definition = partial_groups.define(name, specs, settings, op, process_set)
    arrays = [on_host(tensor) for tensor in tensors]
    ticket = partial_groups.submit(name, definition, process_set, addresses(arrays))
    return PartialHandle(ticket, name, process_set, arrays, [tensor.device for tensor in tensors])


def partial_allreduce(tensors, name, policy=None, op=Average, staleness_bound=None, catch_up=None,
                      seed=None, process_set=global_process_set):
    """Reduces a group of tensors with the ranks that are there when a round starts.

    Every rank of the process set calls it with the same settings and shapes, each as often as it
    likes. What a rank contributes after a round has started is not lost: it is part of a later
    round. So, summed over all rounds (and :func:`partial_flush` at the end), each tensor counts
    exactly once. Tensors on a GPU go through host memory.

    Args:
        tensors: a list of dense tensors of float16, bfloat16, float32 or float64, reduced as one.
        name: the group's name, the same on every rank.
        policy: when a round may start: ``'solo'``, ``'majority'``, ``'quorum:K'``, ``'first:K'``,
            ``'full'``, ``'auto'`` or an object such as ``hvd.First(3)``.
        op: ``hvd.Average`` (the sum divided by the size of the process set) or ``hvd.Sum``.
        staleness_bound: pending rounds at which a rank is waited for, at least 1.
        catch_up: what a late rank gets: ``'replay'``: each pending round, ``'sum'``: their sum,
            ``'latest'``: the newest.
        seed: of the draw of initiators.
        process_set: the process set that takes part.

    ``None`` stands for the environment variable (``HOROVOD_PARTIAL_POLICY``,
    ``_STALENESS_BOUND``, ``_CATCH_UP``, ``_SEED``), else ``'majority'``, 8, ``'replay'``, 0.

    Returns:
        A list of :class:`Round`, oldest first, never empty: one for an active rank, one or more
        for a late one.

    Raises:
        ValueError: a wrong argument, or settings or shapes that differ between ranks: then on
            every rank that takes part.
        NotImplementedError: sparse tensors, ``op=hvd.Adasum``.
        HorovodInternalError: Horovod has shut down, or another rank failed.
    """
    return partial_allreduce_async(tensors, name, policy, op, staleness_bound, catch_up, seed,
                                   process_set).synchronize()


def partial_flush(name, process_set=global_process_set):
    """Carries what the send buffers of a group hold. Every rank calls it.

    Args:
        name: of a group that some rank has submitted to with :func:`partial_allreduce`. An
            optimizer's group is flushed by ``optimizer.flush()``.
        process_set: the group's process set.

    Returns:
        A list of :class:`Round`: those that this rank had pending, and the flush's own, which is
        all zeros when no rank had anything to contribute. Afterwards every rank has had every
        round, and nothing is in flight.

    Raises:
        ValueError: the group is an optimizer's, or no rank knows it.
        HorovodInternalError: Horovod has shut down, or another rank failed.
    """
    def read(raw, specs):
        results = [torch.empty(spec.shape, dtype=getattr(torch, spec.dtype.name.lower()))
                   for spec in specs]
        raw.copy(addresses(results))
        return Round(raw.index, results, ranks_of(process_set, raw.active), raw.count)

    return partial_groups.flush(name, process_set, read)


def partial_stats(name, process_set=global_process_set):
    return partial_groups.partial_stats(name, process_set)


partial_stats.__doc__ = partial_groups.partial_stats.__doc__
excused = partial_groups.excused


def poll(handle):
    """``horovod.torch.poll``, for handles of :func:`partial_allreduce_async` as well."""
    _check_handle(handle)
    return handle.poll() if isinstance(handle, PartialHandle) else mpi_ops.poll(handle)


def synchronize(handle):
    """``horovod.torch.synchronize``, for handles of :func:`partial_allreduce_async` as well, for
    which it returns a list of :class:`Round`."""
    _check_handle(handle)
    return (handle.synchronize() if isinstance(handle, PartialHandle)
            else mpi_ops.synchronize(handle))


def _check_handle(handle):
    # Horovod's are ints, for whom it knows what to do with a wrong one.
    if not isinstance(handle, (int, PartialHandle)):
        raise ValueError(f"handle={handle!r} is no handle: give what a function such as "
                         "hvd.partial_allreduce_async returned")
