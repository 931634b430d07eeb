"""``DistributedOptimizer`` and ``DistributedGradientTape`` with partial rounds."""

import warnings

import tensorflow as tf

import horovod.tensorflow as horovod
from horovod.tensorflow.compression import Compression
from horovod.tensorflow.mpi_ops import Average, global_process_set

from horovod_partial.tensorflow.gradients import LegacyOptimizer, make_reducer, tape_reducer
from horovod_partial.tensorflow.optimizer import keras_optimizer


def DistributedOptimizer(optimizer, name=None, use_locking=False, device_dense='',
                         device_sparse='', compression=Compression.none, sparse_as_dense=False,
                         backward_passes_per_step=1, op=Average, gradient_predivide_factor=1.0,
                         average_aggregated_gradients=False, num_groups=0, groups=None,
                         process_set=global_process_set, scale_local_gradients=True, policy=None,
                         staleness_bound=None, catch_up=None, resync_every=None, seed=None):
    """Wraps an optimizer so that its steps are partial rounds: a drop-in for
    ``horovod.tensorflow.DistributedOptimizer``. Every rank of the process set constructs it alike.

    Each step submits this rank's gradients as one group. When the policy lets a round start, all
    ranks' send buffers are averaged, those of slow ranks included, and the step applies the
    result. A rank that comes late finds the rounds that it has missed and applies them at once;
    its gradients travel with the next round. No gradient is lost. It works in ``model.fit``, in
    ``tf.function`` and eagerly, but not in a step that XLA compiles.

    With an optimizer of Keras and ``catch_up='replay'`` replicas are bit-identical at equal round
    numbers; a ``keras.optimizers.schedules`` object follows rounds. An optimizer of
    ``tf.compat.v1.train`` returns one gradient per step, so a late rank gets the *sum* of the
    rounds that it has missed: for plain SGD the same update, else drift, which flushes heal.

    Args:
        optimizer: any optimizer of Keras 3, ``LossScaleOptimizer`` included, or of
            ``tf.compat.v1.train``.
        name: the group's name, by default ``optimizer.<n>`` in order of construction (of
            ``tf.compat.v1.train``: ``gradients.<n>`` in order of first use).
        compression: ``hvd.Compression.none`` or ``.fp16``.
        sparse_as_dense: reduce ``tf.IndexedSlices`` as dense tensors.
        backward_passes_per_step: local steps whose gradients are accumulated for one submission.
        op: ``hvd.Average`` or ``hvd.Sum``.
        gradient_predivide_factor: splits the averaging before and after the sum, as in Horovod.
        average_aggregated_gradients: average over ``backward_passes_per_step``.
        use_locking, device_dense, device_sparse, num_groups, groups, scale_local_gradients:
            accepted as in Horovod; a partial group is reduced as one, through host memory.
        process_set: the process set that trains. Other ranks step alone.
        policy: when a round may start: ``'solo'``, ``'majority'``, ``'quorum:K'``, ``'first:K'``,
            ``'full'``, ``'auto'``, or an object such as ``hvd.First(3)``.
        staleness_bound: rounds that a rank may be behind before it is waited for, at least 1.
            Results take up to this bound plus two times the variables' memory on ranks that
            fall behind.
        catch_up: what a late rank does: ``'replay'``: one update per missed round, ``'sum'``: one
            with their sum, ``'latest'``: one with the newest, as eager-SGD does.
        resync_every: rounds after which replicas heal from one of them; None for never. Keras
            only.
        seed: of the draw of initiators and committees.

    ``None`` means the environment variable (``HOROVOD_PARTIAL_POLICY`` and so on), else
    ``'majority'``, 8, ``'replay'``, never, 0.

    Returns:
        An instance of the wrapped optimizer's class (of ``tf.compat.v1.train.Optimizer``), with
        ``flush()``, ``round``, ``stats()`` and ``register_before_round(fn)``. It takes over the
        optimizer's state. Saved models load without Horovod.

    Raises:
        ValueError: a wrong argument, or a name in use. Settings, shapes or dtypes that differ
            between ranks: on every rank, by the first step or ``flush()``; while a graph runs, as
            a ``tf.errors.InvalidArgumentError``.
        NotImplementedError: ``op=hvd.Adasum``; in a step, ``tf.IndexedSlices`` without
            ``sparse_as_dense`` and XLA.

    Source: Li et al., "Taming Unbalanced Training Workloads in Deep Learning with Partial
    Collective Operations", PPoPP 2020, sections 4 and 5.
    """
    groups = _checked_groups(num_groups, groups)
    if not isinstance(optimizer, tf.compat.v1.train.Optimizer):
        return keras_optimizer(optimizer, name, compression, sparse_as_dense,
                               gradient_predivide_factor, op, backward_passes_per_step,
                               average_aggregated_gradients, process_set, policy,
                               staleness_bound, catch_up, resync_every, seed)
    if isinstance(optimizer, LegacyOptimizer):
        raise ValueError("optimizer is a hvd.DistributedOptimizer already")
    if resync_every is not None:
        raise NotImplementedError(f"resync_every={resync_every!r}: an optimizer of "
                                  "tf.compat.v1.train heals at flushes only")
    reducer = make_reducer(name, compression, sparse_as_dense, op, gradient_predivide_factor,
                           process_set, policy, staleness_bound, catch_up, seed)
    return LegacyOptimizer(
        optimizer, reducer, name=name, use_locking=use_locking, device_dense=device_dense,
        device_sparse=device_sparse, compression=compression, sparse_as_dense=sparse_as_dense,
        op=op, gradient_predivide_factor=gradient_predivide_factor,
        backward_passes_per_step=backward_passes_per_step,
        average_aggregated_gradients=average_aggregated_gradients, groups=groups,
        process_set=process_set, scale_local_gradients=scale_local_gradients)


def DistributedGradientTape(gradtape, device_dense='', device_sparse='',
                            compression=Compression.none, sparse_as_dense=False, op=Average,
                            gradient_predivide_factor=1.0, num_groups=0, groups=None,
                            process_set=global_process_set, scale_local_gradients=True,
                            policy=None, staleness_bound=None, catch_up=None, seed=None,
                            name=None):
    """Wraps a ``tf.GradientTape`` whose ``gradient()`` then reduces in partial rounds: a drop-in
    for ``horovod.tensorflow.DistributedGradientTape``.

    A late rank gets the *sum* of the rounds that it has missed, to apply as one gradient: for
    plain SGD the same update, else drift. :func:`flush_gradients` carries what is left and heals.
    (``DistributedOptimizer`` applies each round by itself, in custom loops too.)

    Args:
        gradtape: the tape. It may be made and wrapped anew in each step.
        name: the group's name, by default ``gradients.<n>`` in order of first use. There is a
            group for each list of variables.
        policy, staleness_bound, catch_up, seed: as for :func:`DistributedOptimizer`. (There is no
            ``resync_every``: these replicas are healed at flushes only.)

    The others are Horovod's; ``device_dense``, ``device_sparse``, ``num_groups`` and ``groups``
    mean nothing here: a partial group is reduced as one, through host memory.

    Raises:
        As :func:`DistributedOptimizer`.
    """
    tape = horovod.DistributedGradientTape(
        gradtape, device_dense, device_sparse, compression, sparse_as_dense, op,
        gradient_predivide_factor, 0, _checked_groups(num_groups, groups), process_set,
        scale_local_gradients)
    tape._allreduce_grads = tape_reducer(
        name, compression, sparse_as_dense, op, gradient_predivide_factor, process_set, policy,
        staleness_bound, catch_up, seed)
    return tape


def _checked_groups(num_groups, groups):
    """Horovod's checks of what has no meaning here."""
    if num_groups != 0:
        warnings.warn("Parameter `num_groups` has been replaced by `groups` and will be removed "
                      "in v0.23.0.", DeprecationWarning)
        groups = num_groups if groups is None else groups
    if groups is not None and not (isinstance(groups, list) or groups > 0):
        raise ValueError("groups should be a non-negative integer or a list of list of "
                         "tf.Variable.")
    return groups
