"""Horovod's Keras layer on Keras 3, for synchronous training: ``patches/compat/keras3-*`` call
the functions here. The partial optimizers build on the same parts."""

import os

import keras
import tensorflow as tf

import horovod.tensorflow as hvd
from horovod._keras import CallableList
from horovod.tensorflow.mpi_ops import size_op
from horovod.tensorflow.util import tf_variable


def wrap(optimizer, mixin):
    """``optimizer`` as an instance of a class of the same name that has ``mixin`` before its own,
    so that a saved model loads without Horovod. It takes over the optimizer's state."""
    for candidate in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if isinstance(candidate, CollectiveApply):
            raise ValueError("optimizer is a hvd.DistributedOptimizer already")
    if getattr(optimizer, "_horovod_wrapped", False):
        optimizer = optimizer.__class__.from_config(optimizer.get_config())
    optimizer._horovod_wrapped = True
    inner = optimizer.__class__
    cls = type(inner.__name__, (mixin, inner), {"__module__": inner.__module__})
    wrapped = cls.__new__(cls)
    wrapped.__dict__.update(optimizer.__dict__)
    return wrapped


def dense(gradient, variable, sparse_as_dense):
    """A gradient as a dense tensor; NotImplementedError for a sparse one unless that is wanted."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    if not sparse_as_dense:
        raise NotImplementedError(f"the gradient of {variable.name!r} is sparse (IndexedSlices): "
                                  "pass sparse_as_dense=True")
    return tf.convert_to_tensor(gradient)


class Accumulator:
    """Sums the gradients of ``backward_passes_per_step`` local steps, in variables of its own that
    belong to no checkpoint."""

    def __init__(self, passes, average, variables):
        self._passes = passes
        self._average = average
        self._given = [False] * len(variables)  # whether there ever was a gradient
        with tf.init_scope():
            self._count = tf.Variable(0, trainable=False)
            self._sums = [tf.Variable(tf.zeros(v.shape, v.dtype), trainable=False)
                          for v in variables]

    def add(self, gradients):
        """Adds dense gradients, None for none; whether it was the last pass of a step."""
        for i, gradient in enumerate(gradients):
            if gradient is not None:
                self._given[i] = True
                self._sums[i].assign_add(tf.cast(gradient, self._sums[i].dtype))
        return tf.equal(self._count.assign_add(1), self._passes)

    def take(self):
        """The sums, or averages; None where there never was a gradient. Begins anew."""
        taken = [tf.identity(total) for total in self._sums]
        with tf.control_dependencies(taken):
            self._count.assign(0)
            for total in self._sums:
                total.assign(tf.zeros_like(total))
        if self._average:
            taken = [total / self._passes for total in taken]
        return [total if given else None for total, given in zip(taken, self._given)]


class CollectiveApply:
    """Turns Keras's ``apply()`` into: accumulate, communicate, update. What communicates is up to
    ``_apply_collectively(gradients, variables)``."""

    _accumulator = None

    @property
    def variables(self):
        # Horovod's scripts for Keras 2 call it.
        return CallableList(super().variables)

    def _set_up_accumulation(self, passes, average, sparse_as_dense):
        if passes <= 0:
            raise ValueError(f"backward_passes_per_step={passes!r} must be > 0")
        self._passes = passes
        self._average_passes = average
        self.sparse_as_dense = sparse_as_dense

    @tf.autograph.experimental.do_not_convert
    def apply(self, grads, trainable_variables=None):
        grads = list(grads)
        if not grads:
            return
        if trainable_variables is None:
            trainable_variables = self._trainable_variables
        variables = list(trainable_variables)
        if not self.built:
            with keras.name_scope(self.name):
                self.build(variables)
        if len(grads) != len(variables):
            raise ValueError(f"grads: there are {len(grads)}, for {len(variables)} variables")
        if self._passes == 1:
            self._apply_collectively(grads, variables)
            return
        trained = self._trainable_variables
        ordered = self._in_order([dense(g, v, self.sparse_as_dense)
                                  for g, v in zip(grads, variables)], variables)
        if self._accumulator is None:
            self._accumulator = Accumulator(self._passes, self._average_passes,
                                            [tf_variable(v) for v in trained])

        def last():
            self._apply_collectively(self._accumulator.take(), trained)
            return True

        tf.cond(self._accumulator.add(ordered), last, self._pass_over)

    def _in_order(self, gradients, variables):
        """The gradients in the order of the variables that the optimizer was built with."""
        ordered = [None] * len(self._trainable_variables)
        for gradient, variable in zip(gradients, variables):
            ordered[self._get_variable_index(variable)] = gradient
        return ordered

    def _update(self, gradients, variables):
        """A step of the wrapped optimizer, without any communication."""
        super().apply(gradients, variables)

    def _pass_over(self):
        """A local step that only accumulates."""
        return False


class Synchronous(CollectiveApply):
    """What Horovod's ``DistributedOptimizer`` adds to an optimizer of Keras 3."""

    def _set_up(self, name, device_dense, device_sparse, compression, sparse_as_dense,
                gradient_predivide_factor, op, backward_passes_per_step,
                average_aggregated_gradients, groups, process_set, scale_local_gradients):
        self._set_up_accumulation(backward_passes_per_step, average_aggregated_gradients,
                                  sparse_as_dense)
        self.process_set = process_set
        self.scale_local_gradients = scale_local_gradients
        self._local_vars = set()
        self._allreduce_grads = hvd._make_allreduce_grads_fn(
            name or f"Distributed{self.__class__.__name__}", device_dense, device_sparse,
            compression, sparse_as_dense, op, gradient_predivide_factor, groups,
            process_set=process_set)

    def register_local_var(self, var):
        """Makes a variable this worker's own: its gradient is not reduced."""
        self._local_vars.add(tf_variable(var).ref())

    def _pass_over(self):
        self.iterations.assign_add(1)
        return False

    def _apply_collectively(self, gradients, variables):
        refs = [tf_variable(v).ref() for v in variables]
        shared = [i for i, ref in enumerate(refs) if ref not in self._local_vars]
        reduced = list(gradients)
        for i, gradient in zip(shared, self._allreduce_grads(
                [gradients[i] for i in shared], [tf_variable(variables[i]) for i in shared])):
            reduced[i] = gradient
        if self.scale_local_gradients:
            # As for the others, whose average it is.
            for i in set(range(len(refs))) - set(shared):
                reduced[i] = self._divided_by_size(reduced[i])
        self._update(reduced, variables)

    def _divided_by_size(self, gradient):
        if gradient is None:
            return None
        size = (size_op(process_set_id=self.process_set.process_set_id)
                if int(os.environ.get("HOROVOD_ELASTIC", 0)) else self.process_set.size())
        if isinstance(gradient, tf.IndexedSlices):
            return tf.IndexedSlices(gradient.values / tf.cast(size, gradient.values.dtype),
                                    gradient.indices, gradient.dense_shape)
        return gradient / tf.cast(size, gradient.dtype)


def create_distributed_optimizer(optimizer, *args):
    """``horovod._keras.create_distributed_optimizer`` for Keras 3. (Under mixed precision, give it
    the ``LossScaleOptimizer``: gradients are to be reduced before they are looked at.)"""
    wrapped = wrap(optimizer, Synchronous)
    wrapped._set_up(*args)
    return wrapped


def load_model(wrap_optimizer, filepath, custom_optimizers, custom_objects):
    """``horovod._keras.load_model`` for Keras 3: loads the model with its plain optimizer, state
    included, and wraps that."""
    objects = {cls.__name__: cls for cls in custom_optimizers or ()}
    objects.update(custom_objects or {})
    model = keras.models.load_model(filepath, custom_objects=objects)
    if model.optimizer is not None:
        model.optimizer = wrap_optimizer(lambda: model.optimizer)()
    return model
