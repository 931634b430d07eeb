"""Partial collectives on TensorFlow tensors."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from horovod.tensorflow import mpi_ops
from horovod.tensorflow.mpi_ops import Average, global_process_set

from horovod_partial import config, lifecycle
from horovod_partial.groups import Groups, Round, check_name, number_of, ranks_of
from horovod_partial.tensorflow import host

lifecycle.mark_partial_job()

partial_groups = Groups("tensorflow", mpi_ops._basics)

# (process set, name) -> the dtypes and shapes of the tensors that a graph or an eager call gave.
_forms = {}


class StackedRounds(NamedTuple):
    """What :func:`partial_allreduce` and :func:`partial_flush` return in a graph: the rounds are
    the first dimension of everything, oldest first.

    Attributes:
        index: int64 of shape ``[rounds]``: the number of each (newest) round.
        tensors: a list: each of shape ``[rounds, *shape]``, in the order and dtypes given.
        active: bool of shape ``[rounds, members of the process set]``: who was active; nobody in a
            flush.
        count: int64 of shape ``[rounds]``: how many rounds each one stands for.
    """

    index: tf.Tensor
    tensors: list
    active: tf.Tensor
    count: tf.Tensor


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
        Eager: a list of :class:`Round`, oldest first, never empty: one for an active rank, one or
        more for a late one. In a graph: :class:`StackedRounds`. No gradient flows through it.

    Raises:
        ValueError: a wrong argument, or settings or shapes that differ between ranks: then on
            every rank that takes part.
        NotImplementedError: ``tf.IndexedSlices``, ``op=hvd.Adasum``, a step that XLA compiles.
        HorovodInternalError: Horovod has shut down, or another rank failed.
        tf.errors.OpError: any of the last three found out while a graph runs.
    """
    check_name(name)
    if isinstance(tensors, (tf.Tensor, tf.Variable, tf.IndexedSlices)) or not tensors:
        raise ValueError("tensors must be a list of at least one tensor")
    for i, tensor in enumerate(tensors):
        if isinstance(tensor, tf.IndexedSlices):
            raise NotImplementedError(f"tensors[{i}] is sparse (IndexedSlices): give "
                                      f"tf.convert_to_tensor(tensors[{i}])")
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    for i, tensor in enumerate(tensors):
        host.spec(str(i), tensor.dtype, (), f"tensors[{i}]")
    partial_groups.check_op(op)
    host.refuse_xla()
    settings = config.resolve(policy, staleness_bound, catch_up, None, seed)
    key = number_of(process_set), name
    form = [(t.dtype, t.shape) for t in tensors]

    def submit(*values):
        specs = tuple(host.spec(str(i), tensor.dtype, np.shape(value), f"tensors[{i}]")
                      for i, (tensor, value) in enumerate(zip(tensors, values)))
        values = host.arrays(values)
        definition = partial_groups.define(name, specs, settings, op, process_set)
        ticket = partial_groups.submit(name, definition, process_set, host.addresses(values))
        answer = partial_groups.answer(ticket, name, process_set)
        rounds = [_read(raw, specs) for raw in answer.rounds]
        ticket.close()
        return rounds

    rounds = _rounds(submit, tensors, process_set, form)
    _forms[key] = form  # now that it is known to be right, or that a graph has it
    return rounds


def partial_flush(name, process_set=global_process_set):
    """Carries what the send buffers of a group hold. Every rank calls it.

    Args:
        name: of a group that some rank has submitted to with :func:`partial_allreduce`; in a
            graph, one that this process has a call of :func:`partial_allreduce` for. An
            optimizer's group is flushed by ``optimizer.flush()``.
        process_set: the group's process set.

    Returns:
        Eager: a list of :class:`Round`: those that this rank had pending, and the flush's own,
        which is all zeros when no rank had anything to contribute. In a graph:
        :class:`StackedRounds`. Afterwards every rank has had every round, and nothing is in flight.

    Raises:
        ValueError: the group is an optimizer's, or no rank knows it.
        HorovodInternalError: Horovod has shut down, or another rank failed.
        tf.errors.OpError: either of them found out while a graph runs.
    """
    check_name(name)
    form = _forms.get((number_of(process_set), name), [])
    if not form and not tf.executing_eagerly():
        raise ValueError(f"name={name!r}: in a graph, a flush comes after partial_allreduce of "
                         "the same name, which tells the tensors' dtypes")
    return _rounds(lambda: partial_groups.flush(name, process_set, _read), [], process_set, form)


def partial_stats(name, process_set=global_process_set):
    return partial_groups.partial_stats(name, process_set)


partial_stats.__doc__ = partial_groups.partial_stats.__doc__
excused = partial_groups.excused


def _read(raw, specs):
    results = host.read(raw, [tf.as_dtype(spec.dtype.name.lower()) for spec in specs],
                        [spec.shape for spec in specs])
    return Round(raw.index, results, raw.active, raw.count)


def _rounds(function, inputs, process_set, form):
    """``function(*arrays)``, which returns Rounds of arrays, as either form of result."""
    if tf.executing_eagerly():
        rounds = function(*[tensor.numpy() for tensor in inputs])
        return [round._replace(tensors=[tf.convert_to_tensor(t) for t in round.tensors],
                               active=ranks_of(process_set, round.active)) for round in rounds]

    def stacked(*values):
        rounds = function(*values)
        # Asked anew each time: an elastic job changes its size.
        active = np.zeros((len(rounds), process_set.size()), bool)
        for row, round in zip(active, rounds):
            row[list(round.active)] = True
        return [np.array([round.index for round in rounds], np.int64),
                active,
                np.array([round.count for round in rounds], np.int64),
                *[np.stack(results) for results in zip(*[round.tensors for round in rounds])]]

    index, active, count, *tensors = host.call(
        stacked, inputs,
        [tf.int64, tf.bool, tf.int64, *[dtype for dtype, _ in form]],
        [[None], [None, None], [None], *[[None, *shape] if shape.rank is not None else None
                                          for _, shape in form]])
    return StackedRounds(index, tensors, active, count)
