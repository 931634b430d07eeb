"""What Horovod's callbacks and elastic states need of a Keras optimizer, whatever its version:
``patches/compat/keras3-callbacks`` and ``keras3-elastic`` call it."""

import tensorflow as tf

from horovod.tensorflow.util import tf_variable

from horovod_partial.groups import PartialOptimizer


def partial_of(optimizer):
    """The partial optimizer that ``optimizer`` is or that a LossScaleOptimizer wraps, else None."""
    for candidate in (optimizer, getattr(optimizer, "inner_optimizer", None)):
        if isinstance(candidate, PartialOptimizer):
            return candidate
    return None


def refuse_uneven(optimizer):
    """ValueError for policy full inside a LossScaleOptimizer of Keras's own: an overflow on one
    rank is a step that it does not submit, for which the others would wait for ever."""
    partial = partial_of(optimizer)
    if (partial is not None and partial is not optimizer
            and not isinstance(optimizer, PartialOptimizer)
            and str(partial._partial.settings.policy) == "full"):
        raise ValueError("policy='full' with a loss scale: wrap it yourself, hvd."
                         "DistributedOptimizer(keras.optimizers.LossScaleOptimizer(optimizer))")


def before_broadcast(optimizer, is_root):
    """Has all ranks stand at the same round, so that none applies what the root has applied."""
    refuse_uneven(optimizer)
    partial = partial_of(optimizer)
    if partial is not None:
        if not is_root:
            partial.mark_drifted()  # replicas need not be the same yet
        partial.flush()


def optimizer_variables(optimizer, model=None):
    """The tf.Variables of an optimizer, which is built for ``model`` if it is not yet."""
    variables = optimizer.variables
    if callable(variables) and not isinstance(variables, list):
        variables = variables()
    elif model is not None and not optimizer.built:
        optimizer.build(model.trainable_variables)
        variables = optimizer.variables
    return [tf_variable(v) for v in variables]


def get_learning_rate(optimizer):
    return float(tf.convert_to_tensor(optimizer.learning_rate))


def set_learning_rate(optimizer, value):
    optimizer.learning_rate = value


def correct_momentum(optimizer, old_rate, new_rate):
    """Scales what the momentum has accumulated, with the learning rate of then, to a new one."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(optimizer, "momentum") or old_rate in (0, new_rate):
        return
    factor = new_rate / old_rate
    for name in ("momentums", "_momentums"):
        for variable in getattr(optimizer, name, None) or ():
            if variable is not None:
                variable.assign(variable * tf.cast(factor, variable.dtype))


def follow_rounds(callback):
    """Has one of Horovod's learning-rate callbacks follow rounds where the optimizer is partial,
    so that replicas stay identical: an epoch is ``steps_per_epoch`` rounds then. Returns whether
    it does."""
    partial = partial_of(callback.model.optimizer)
    if partial is None:
        return False
    if not callback.steps_per_epoch:
        try:
            callback.steps_per_epoch = callback._autodetect_steps_per_epoch()
        except ValueError:
            raise ValueError(
                f"{type(callback).__name__} follows rounds where training is partial, and how many "
                "there are in an epoch of this data is not known: give it steps_per_epoch") from None

    def before_round(index):
        epoch = index / callback.steps_per_epoch
        end = callback.end_epoch
        if epoch >= callback.start_epoch and (end is None or epoch < end):
            callback._adjust_learning_rate(int(epoch) if callback.staircase else epoch)

    if getattr(callback, "_before_round", None) is not None:
        callback._before_round.remove()
    callback._before_round = partial.register_before_round(before_round)
    return True


def follow_no_longer(callback):
    """At the end of the callback's training; the next flush ends it."""
    if getattr(callback, "_before_round", None) is not None:
        partial_of(callback.model.optimizer).expire(callback._before_round)
