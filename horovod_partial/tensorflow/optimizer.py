"""``DistributedOptimizer`` with partial rounds, for Keras 3."""

import warnings

import keras
import tensorflow as tf

from horovod.tensorflow.util import tf_variable

from horovod_partial import config, keras3
from horovod_partial._native import Healing
from horovod_partial.groups import PartialOptimizer
from horovod_partial.tensorflow.ops import partial_groups
from horovod_partial.tensorflow.training import Training


class _PartialKerasOptimizer(keras3.CollectiveApply, PartialOptimizer):
    """What :func:`keras_optimizer` adds to the class of the optimizer that it wraps. ``apply()``
    submits this rank's gradients and updates with each round that comes back."""

    def _set_up(self, name, compression, sparse_as_dense, predivide, op, passes, average_passes,
                process_set, settings):
        self._set_up_accumulation(passes, average_passes, sparse_as_dense)
        self.process_set = process_set
        self._training = Training(name, Healing.IN_ROUNDS, compression, sparse_as_dense, op,
                                  predivide, process_set, settings)
        if self.built:
            self._begin()

    def build(self, variables):
        super().build(variables)
        self._begin()

    def _begin(self):
        """The variables are known now, and so is the group."""
        variables = list(self._trainable_variables)

        # One and the same graph wherever a round is applied: in a step or in a flush, eager or
        # compiled; else TensorFlow might round differently. Not inlined, because an inlined
        # function may read the learning rate before what comes before it has set it.
        @tf.function(autograph=False, experimental_attributes={"_noinline": True})
        def update(gradients):
            self._update(gradients, variables)
            return tf.constant(True)

        self._compiled_update = update
        self._training.build(variables)
        if self._partial.round == 0:
            # A training that a checkpoint continues counts on.
            with tf.init_scope():
                self._partial.round = int(tf_variable(self._iterations).numpy())
        partial_groups.serve_in_join(self._partial)
        self._training.set_model(update, lambda: [tf_variable(v) for v in self.variables])

    @property
    def _partial(self):
        return self._training.group

    def flush(self):
        """Carries all send buffers and applies the rounds that come back, until this rank has
        applied every round. Every rank of the process set calls it, eagerly (joined and ended
        ones count as having done so). Afterwards replicas are bit-identical on all ranks that
        called it: those that had drifted are healed. The moment to validate and to save a
        checkpoint."""
        if self.process_set.included():
            if not tf.executing_eagerly():
                raise ValueError("flush() is for between two steps, not for a tf.function")
            self._training.give_up()
            self._partial.flush()

    def register_local_var(self, var):
        raise NotImplementedError("a variable that is this rank's own has no partial form: let "
                                  "another optimizer train it")

    def save_own_variables(self, store):
        saved = self._partial.save()
        # Pending rounds are no loss: whoever loads the checkpoint begins before them.
        if saved is not None and saved.send_buffer:
            warnings.warn("gradients of this rank that no round has carried yet are not in the "
                          "checkpoint: call optimizer.flush() on all ranks before saving")
        super().save_own_variables(store)

    def _apply_collectively(self, gradients, variables):
        if not self.process_set.included():
            self._update(gradients, variables)
            return
        # Keras's error when there are none at all, and its warning when some are missing.
        self._filter_empty_gradients(gradients, variables)
        training = self._training
        rounds = training.submit(self._in_order(gradients, variables))

        def apply_round(index):
            gradients = training.fetch(index)
            # Whatever else changed with the round, such as a learning rate, is read after it.
            with tf.control_dependencies(gradients):
                updated = self._compiled_update(gradients)
            with tf.control_dependencies([updated]):
                return [index + 1]

        over, = tf.while_loop(lambda index: index < rounds, apply_round, [tf.constant(0)],
                              parallel_iterations=1)
        with tf.control_dependencies([over]):
            heals, root = training.finish()

        def heal():
            training.heal(root)
            return True

        tf.cond(heals, heal, lambda: False)


class _PartialLossScaleOptimizer(PartialOptimizer):
    """A LossScaleOptimizer around a partial optimizer: gradients are submitted unscaled, and zeros
    for a step that overflows on this rank, so that all ranks submit equally often."""

    @property
    def _partial(self):
        return self.inner_optimizer._partial

    @property
    def process_set(self):
        return self.inner_optimizer.process_set

    @property
    def variables(self):
        return keras3.CallableList(super().variables)

    def flush(self):
        self.inner_optimizer.flush()

    def _stateful_handle_non_finite_grads(self):
        super()._stateful_handle_non_finite_grads()
        variables = self.inner_optimizer._trainable_variables
        self.inner_optimizer.apply([tf.zeros(v.shape, v.dtype) for v in variables], variables)


def keras_optimizer(optimizer, name, compression, sparse_as_dense, gradient_predivide_factor, op,
                    backward_passes_per_step, average_aggregated_gradients, process_set,
                    policy=None, staleness_bound=None, catch_up=None, resync_every=None,
                    seed=None):
    """The partial form of an optimizer of Keras 3, which it takes over with its state: see
    :func:`horovod_partial.tensorflow.DistributedOptimizer`."""
    partial_groups.check_scaling(op, gradient_predivide_factor)
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(f"optimizer={optimizer!r} is no optimizer of Keras 3 or of "
                         "tf.compat.v1.train")
    settings = config.resolve(policy, staleness_bound, catch_up, resync_every, seed)

    def partial(plain):
        wrapped = keras3.wrap(plain, _PartialKerasOptimizer)
        wrapped._set_up(name, compression, sparse_as_dense, gradient_predivide_factor, op,
                        backward_passes_per_step, average_aggregated_gradients, process_set,
                        settings)
        return wrapped

    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        wrapped = keras3.wrap(optimizer, _PartialLossScaleOptimizer)
        wrapped.inner_optimizer = partial(optimizer.inner_optimizer)
        return wrapped
    return partial(optimizer)
