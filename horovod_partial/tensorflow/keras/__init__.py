"""All of ``horovod.tensorflow.keras``, plus partial collectives.

Change ``import horovod.tensorflow.keras as hvd`` to ``import horovod_partial.tensorflow.keras as
hvd``.
"""

from importlib import import_module

from horovod.tensorflow.keras import *  # noqa: F401,F403

from horovod_partial import keras3
from horovod_partial.tensorflow import (  # noqa: F401
    Auto, First, Full, Majority, Policy, Quorum, Round, Solo, StackedRounds, excused,
    partial_allreduce,
    partial_flush, partial_stats, rounds)
from horovod_partial.tensorflow import distributed as _distributed

# An import statement would find Horovod's modules of these names.
callbacks = import_module("horovod_partial.tensorflow.keras.callbacks")
elastic = import_module("horovod_partial.tensorflow.keras.elastic")


def DistributedOptimizer(optimizer, name=None, device_dense='', device_sparse='',
                         compression=Compression.none,  # noqa: F405
                         sparse_as_dense=False, gradient_predivide_factor=1.0,
                         op=Average,  # noqa: F405
                         backward_passes_per_step=1, average_aggregated_gradients=False,
                         num_groups=0, groups=None,
                         process_set=global_process_set,  # noqa: F405
                         scale_local_gradients=True, policy=None, staleness_bound=None,
                         catch_up=None, resync_every=None, seed=None):
    """:func:`horovod_partial.tensorflow.DistributedOptimizer`, with the order of arguments of
    ``horovod.tensorflow.keras``."""
    return _distributed.DistributedOptimizer(
        optimizer, name=name, device_dense=device_dense, device_sparse=device_sparse,
        compression=compression, sparse_as_dense=sparse_as_dense,
        gradient_predivide_factor=gradient_predivide_factor, op=op,
        backward_passes_per_step=backward_passes_per_step,
        average_aggregated_gradients=average_aggregated_gradients, num_groups=num_groups,
        groups=groups, process_set=process_set, scale_local_gradients=scale_local_gradients,
        policy=policy, staleness_bound=staleness_bound, catch_up=catch_up,
        resync_every=resync_every, seed=seed)


def load_model(filepath, custom_optimizers=None, custom_objects=None,
               compression=Compression.none,  # noqa: F405
               legacy_opts=False, policy=None, staleness_bound=None, catch_up=None,
               resync_every=None, seed=None):
    """Loads a saved Keras model, optimizer state included, with a partial
    :func:`DistributedOptimizer` around its optimizer: a drop-in for
    ``horovod.tensorflow.keras.load_model``.

    Args:
        filepath: of a ``.keras`` file, saved with or without Horovod.
        custom_optimizers: a list of optimizer classes that the model may have been saved with.
        custom_objects: a dict of names and what they stand for.
        compression: ``hvd.Compression.none`` or ``.fp16``.
        legacy_opts: without meaning on Keras 3.
        policy, staleness_bound, catch_up, resync_every, seed: of the optimizer.
    """
    def wrap(cls):
        return lambda **kwargs: DistributedOptimizer(
            cls(**kwargs), compression=compression, policy=policy,
            staleness_bound=staleness_bound, catch_up=catch_up, resync_every=resync_every,
            seed=seed)

    return keras3.load_model(wrap, filepath, custom_optimizers, custom_objects)
