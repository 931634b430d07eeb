"""Horovod's Keras callbacks, and those for partial training.

Length in epochs: add a :class:`FlushCallback` before callbacks that validate or save. Length in
rounds: one :class:`StopAtRound`, and nothing collective at the ends of epochs, which ranks reach at
different rounds. Horovod's learning-rate callbacks follow rounds where the optimizer is partial: an
epoch is ``steps_per_epoch`` rounds for them.
"""

import weakref

import keras

from horovod.tensorflow.keras.callbacks import (  # noqa: F401
    BestModelCheckpoint, BroadcastGlobalVariablesCallback, LearningRateScheduleCallback,
    LearningRateWarmupCallback, MetricAverageCallback)

from horovod_partial import keras_optimizers
from horovod_partial.groups import RoundCounter
from horovod_partial.participation import Participation


class _PartialCallback(keras.callbacks.Callback):
    """What callbacks about rounds share."""

    @property
    def _optimizer(self):
        keras_optimizers.refuse_uneven(self.model.optimizer)
        partial = keras_optimizers.partial_of(self.model.optimizer)
        if partial is None:
            raise ValueError(f"{self.__class__.__name__} needs a model that is compiled with a "
                             "partial hvd.DistributedOptimizer, but its optimizer is "
                             f"{self.model.optimizer!r}")
        return partial

    def _build(self):
        """Has the optimizer know its variables before the first step."""
        if self.model.optimizer.built:
            return
        if not self.model.trainable_variables:
            raise ValueError(f"{self.__class__.__name__} needs a model that is built before fit(): "
                             "begin it with keras.Input, or call model.build(input_shape)")
        self.model.optimizer.build(self.model.trainable_variables)


class FlushCallback(_PartialCallback):
    """Flushes once per epoch, before its validation or at its end: then all ranks stand at the
    same round with bit-identical replicas, and nothing is in flight. Every rank has it, trains
    the same number of epochs, and has it listed before callbacks that save the model.

    In a training that a :class:`StopAtRound` ends, it does nothing: that one flushes.
    """

    def on_train_begin(self, logs=None):
        self._flushed = False

    def on_train_batch_end(self, batch, logs=None):
        self._flushed = False

    def on_test_begin(self, logs=None):
        self._flush()

    def on_epoch_end(self, epoch, logs=None):
        self._flush()

    def _flush(self):
        # on_test_begin also comes from an evaluate() outside of fit, which is the user's.
        if not getattr(self, "_flushed", True) and not StopAtRound.ends(self):
            self._flushed = True
            self._optimizer.flush()

    def on_train_end(self, logs=None):
        self._flushed = True


class StopAtRound(_PartialCallback):
    """Ends ``fit`` at round ``n``, on all ranks at the same round: the length of a training
    counted in rounds. Give ``fit`` more data than it needs: a repeated dataset, or many epochs.

    It flushes at the beginning, about every ``every`` rounds, and at the end; a rank that reaches
    one of these points waits for the others. Ranks reach the end of an *epoch* at different rounds,
    so what all ranks have to do together, validation with averaged metrics say, belongs into
    ``at_flush``.

    Args:
        n: rounds, counted from the optimizer's first; a continued training counts on. (One that
            is there already takes a last step, because Keras stops after steps only.)
        every: rounds between two flushes; None: only at the beginning and at the end.
        at_flush: ``at_flush(round)`` is called after each flush but the first, on every rank, where
            all replicas are identical: to evaluate, to save on rank 0.

    Raises:
        ValueError: wrong numbers; when training begins, an optimizer that is not partial.
    """

    _trainings = weakref.WeakKeyDictionary()  # by model: the parameters of its last one

    def __init__(self, n, every=None, at_flush=None):
        super().__init__()
        RoundCounter(None, n, every, at_flush)  # raises
        self._length = n, every, at_flush

    @classmethod
    def ends(cls, callback):
        """Whether the training that ``callback`` is in ends by rounds."""
        return cls._trainings.get(callback.model) is callback.params

    def on_train_begin(self, logs=None):
        optimizer = self._optimizer
        self._build()
        self._trainings[self.model] = self.params
        if optimizer.round == 0:
            optimizer.mark_drifted()  # replicas need not be the same yet
        self._counter = RoundCounter(optimizer, *self._length)
        self._counter.begin()
        self.model.stop_training = self._counter.over

    def on_train_batch_end(self, batch, logs=None):
        self._counter.after_step()
        if self._counter.over:
            self.model.stop_training = True


class RoundSchedule(_PartialCallback):
    """Lets the learning rate follow rounds, so that replicas stay identical on ranks that apply a
    round at different local steps: ``schedule(round_index)`` is the learning rate of that round.
    (An object of ``keras.optimizers.schedules`` does so by itself.) It holds beyond ``fit``, for
    flushes, until another one takes its place."""

    _handles = weakref.WeakKeyDictionary()  # by optimizer

    def __init__(self, schedule):
        super().__init__()
        if not callable(schedule):
            raise ValueError(f"schedule={schedule!r} must be a function of the round's index")
        self._schedule = schedule

    def on_train_begin(self, logs=None):
        optimizer = self._optimizer
        if optimizer in self._handles:
            self._handles[optimizer].remove()
        weak = weakref.ref(optimizer)
        self._handles[optimizer] = optimizer.register_before_round(
            lambda index: keras_optimizers.set_learning_rate(weak(), self._schedule(index)))

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["learning_rate"] = keras_optimizers.get_learning_rate(self._optimizer)


class ParticipationCallback(_PartialCallback):
    """Adds how the rounds of an epoch went on this rank to the logs, for ``History``,
    ``TensorBoard`` and ``CSVLogger``, which are to be listed after it:

    ``partial_round``: rounds applied so far; ``partial_mean_active``: ranks per round;
    ``partial_staleness``: pending rounds that a submission found, on average;
    ``partial_late``: submissions that found any; ``partial_wait_seconds``: blocked on submissions.
    """

    def on_train_begin(self, logs=None):
        self._participation = Participation(self._optimizer)

    def on_epoch_end(self, epoch, logs=None):
        participation = self._participation.since()
        if logs is not None:
            logs.update(participation)
