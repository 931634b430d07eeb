"""Partial rounds where one gradient only can be returned: ``DistributedGradientTape`` and the
optimizers of ``tf.compat.v1.train``. A late rank gets the sum of its pending rounds."""

import dataclasses
import itertools
import warnings
import weakref

import tensorflow as tf
from tensorflow.python.framework import func_graph

import horovod.tensorflow as horovod
from horovod.tensorflow.util import tf_variable

from horovod_partial import config, keras_optimizers
from horovod_partial._native import Healing
from horovod_partial.groups import PartialOptimizer, check_name
from horovod_partial.tensorflow.ops import partial_groups
from horovod_partial.tensorflow.training import Training

_numbers = itertools.count()
_live = weakref.WeakSet()  # of Reducers
# By what identifies a group: a tape is made anew in every eager step.
_reducers = {}


class Reducer:
    """Reduces gradients in partial rounds: what Horovod's ``_make_allreduce_grads_fn`` makes.
    There is a group for each list of variables that it is called with."""

    def __init__(self, name, compression, sparse_as_dense, op, predivide, process_set, settings):
        self._name = name
        self._settings = dict(compression=compression, sparse_as_dense=sparse_as_dense, op=op,
                              predivide=predivide, process_set=process_set, settings=settings)
        self._process_set = process_set
        self._trainings = {}  # by the variables' ids, for as long as they live
        _live.add(self)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, gradients, variables, use_generic_names=False):
        """The sums of the rounds that came back, as many as there are gradients that are not
        None; Horovod calls it."""
        if not self._process_set.included():
            return gradients
        trained = [(g, v) for g, v in zip(gradients, variables) if g is not None]
        if not trained:
            return gradients
        training = self._training([v for _, v in trained])
        rounds = training.submit([g for g, _ in trained])

        def add(index, *sums):
            reduced = training.fetch(index)
            with tf.control_dependencies(reduced):
                return [index + 1, *[a + b for a, b in zip(sums, reduced)]]

        _, *sums = tf.while_loop(lambda index, *_: index < rounds, add,
                                 [tf.constant(0), *[tf.zeros(v.shape, v.dtype)
                                                    for _, v in trained]],
                                 parallel_iterations=1)
        with tf.control_dependencies(sums):
            over, _ = training.finish()
        with tf.control_dependencies([over]):
            sums = iter([tf.identity(value) for value in sums])
        return [None if g is None else next(sums) for g in gradients]

    def _training(self, variables):
        for variable in variables:
            if not isinstance(variable, tf.Variable):
                raise NotImplementedError(f"{variable!r} is no variable: partial rounds reduce "
                                          "the gradients of variables")
        key = tuple(id(variable) for variable in variables)
        if key not in self._trainings:
            name = self._name
            if name is None:
                name = f"gradients.{next(_numbers)}"
            training = Training(name, Healing.AT_FLUSHES, **self._settings)
            training.build(variables)
            self._trainings[key] = training
            for variable in variables:
                weakref.finalize(variable, self._trainings.pop, key, None).atexit = False
        return self._trainings[key]

    def trainings(self):
        """What it has reduced so far."""
        return list(self._trainings.values())


def make_reducer(name, compression, sparse_as_dense, op, gradient_predivide_factor, process_set,
                 policy=None, staleness_bound=None, catch_up=None, seed=None):
    """A new Reducer; checks what the user gave."""
    partial_groups.check_scaling(op, gradient_predivide_factor)
    if name is not None:
        check_name(name)
    # Replicas are healed by flushes only, so there is nothing to do every N rounds.
    settings = config.resolve(policy, staleness_bound, catch_up, None, seed)
    if settings.resync_every:
        warnings.warn(f"{config.RESYNC_EVERY}={settings.resync_every} has no effect here: replicas of "
                      "a DistributedGradientTape or an optimizer of tf.compat.v1 heal at flushes")
    settings = dataclasses.replace(settings, resync_every=0)
    return Reducer(name, compression, sparse_as_dense, op, gradient_predivide_factor, process_set,
                   settings)


def tape_reducer(*args):
    """The one Reducer for these arguments of ``make_reducer``."""
    if args not in _reducers:
        _reducers[args] = make_reducer(*args)
    return _reducers[args]


def flush_gradients(optimizer, variables, session=None):
    """Carries the gradients of a ``DistributedGradientTape`` that no round has carried, and heals.

    Every rank of the process set calls it, after a first step, between two steps and outside of
    ``tf.function``. ``optimizer`` applies each round that comes back. Afterwards ``variables`` and
    the optimizer's own are bit-identical on all ranks: the moment to validate and to save a
    checkpoint.

    Args:
        optimizer: what applies the gradients: of Keras, or of ``tf.compat.v1.train``.
        variables: those that the tape's gradients are of, all of them.
        session: the ``tf.compat.v1.Session`` of a graph of TensorFlow 1.

    Raises:
        ValueError: no gradients of these variables have been reduced in partial rounds.
    """
    wanted = {tf_variable(v).ref() for v in variables}
    trainings = [training for reducer in _live for training in reducer.trainings()
                 if wanted.issuperset(v.ref() for v in training.variables)]
    if not trainings:
        raise ValueError("variables: no gradients of these variables have been reduced in "
                         "partial rounds: take a step first")
    for training in sorted(trainings, key=lambda training: training.group.name):
        _flush(training, optimizer, session)


def _flush(training, optimizer, session):
    update = _update(training, optimizer)
    training.give_up()
    training.set_model(update, lambda: keras_optimizers.optimizer_variables(optimizer), session)
    if session is not None and not session.graph.finalized:
        with session.graph.as_default():
            training.prepare_session(update)
    try:
        training.group.flush()
    finally:
        training.set_model(None, list)


def _update(training, optimizer):
    return lambda gradients: optimizer.apply_gradients(list(zip(gradients, training.variables)))


class LegacyOptimizer(PartialOptimizer, horovod._DistributedOptimizer):
    """The partial form of an optimizer of ``tf.compat.v1.train``."""

    def __init__(self, optimizer, reducer, **arguments):
        super().__init__(optimizer, **arguments)
        self._reducer = self._allreduce_grads = reducer
        if self._agg_helper:
            self._agg_helper._allreduce_grads = reducer

    def register_local_var(self, var):
        raise NotImplementedError("a variable that is this rank's own has no partial form: let "
                                  "another optimizer train it")

    def apply_gradients(self, grads_and_vars, global_step=None, name=None):
        """Applies what ``compute_gradients`` has reduced."""
        applied = super().apply_gradients(grads_and_vars, global_step=global_step, name=name)
        if not tf.executing_eagerly() and not isinstance(tf.compat.v1.get_default_graph(),
                                                         func_graph.FuncGraph):
            for training in self._reducer.trainings():
                training.prepare_session(_update(training, self._optimizer))
        return applied

    @property
    def _partial(self):
        trainings = self._reducer.trainings()
        if not trainings:
            raise ValueError("the optimizer does not know its variables before its first "
                             "compute_gradients()")
        return trainings[0].group

    def flush(self, session=None):
        """Carries all send buffers, applies each round that comes back, and heals: see
        :func:`hvd.flush_gradients`. In a graph of TensorFlow 1, give the ``session``."""
        self._partial  # raises
        for training in self._reducer.trainings():
            _flush(training, self._optimizer, session)
