"""A small model, data of each rank's own, and who is late: for the bodies in this directory."""

import hashlib

import keras
import numpy as np
import tensorflow as tf

BATCH = 8


def build(seed=0, hidden=8):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(hidden, activation="tanh"),
                             keras.layers.Dense(2)])


def batch(rank, step):
    """A batch of this rank's own."""
    random = np.random.default_rng([rank, step])
    return (random.normal(size=(BATCH, 4)).astype(np.float32),
            random.normal(size=(BATCH, 2)).astype(np.float32))


def joined(size, step):
    """The batches of all ranks, as one."""
    return [np.concatenate(parts) for parts in zip(*[batch(rank, step) for rank in range(size)])]


def batches(rank, steps):
    """``x, y`` for a ``fit`` without shuffling: the batches of one rank."""
    return [np.concatenate(parts) for parts in zip(*[batch(rank, step) for step in range(steps)])]


def fit(model, data, epochs=1, batch_size=BATCH, build_before=True, **kwargs):
    """``fit`` without shuffling. An optimizer that is built before is traced once, not twice."""
    if build_before and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return model.fit(*data, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0,
                     **kwargs)


def gradients(model, x, y):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(x) - y))
    return tape.gradient(loss, model.trainable_variables)


def stepper(model, optimizer, compiled=True):
    """``step(rank, number)`` of a custom loop."""
    def train(x, y):
        optimizer.apply_gradients(zip(gradients(model, x, y), model.trainable_variables))

    run = tf.function(train) if compiled else train
    return lambda rank, number: run(*map(tf.constant, batch(rank, number)))


def tape_step(hvd, model, optimizer, compiled, **settings):
    """``step(rank, number)`` of a loop with a tape that is made anew in each step."""
    def train(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x) - y))
        tape = hvd.DistributedGradientTape(tape, **settings)
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables),
                                      model.trainable_variables))

    run = tf.function(train) if compiled else train
    return lambda rank, number: run(*map(tf.constant, batch(rank, number)))


def replica(model, optimizer=None):
    """The values of what has to be the same on all ranks."""
    variables = [*model.trainable_variables, *(optimizer.variables if optimizer else ())]
    return [np.asarray(v) for v in variables]


def identical(hvd, *values):
    """Whether arrays or variables are the same on all ranks, bit for bit."""
    mine = hashlib.blake2b(b"".join(np.asarray(v).tobytes() for v in values), digest_size=16)
    everybody = hvd.allgather(tf.constant([list(mine.digest())])).numpy()
    return (everybody == everybody[0]).all()


def assert_close(ours, theirs, rtol=1e-5, atol=1e-6):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=atol)


def lateness(hvd, events, optimizer, step, phases):
    optimizer.flush()  # registers the group
    step(hvd.rank(), 1000)  # which traces, on all ranks at once
    events.late_phases(lambda number: step(hvd.rank(), number), phases)


class LateInFit(keras.callbacks.Callback):
    """In a ``fit`` of several epochs of 3 steps: in each epoch another rank does not start before
    the others are done with theirs. For policy solo with a high staleness bound."""

    def __init__(self, hvd, events):
        super().__init__()
        self._hvd, self._events = hvd, events

    def on_epoch_begin(self, epoch, logs=None):
        rank, size = self._hvd.rank(), self._hvd.size()
        self._epoch = epoch
        if size > 1 and epoch % size == rank:
            for other in range(size):
                if other != rank:
                    self._events.wait(f"epoch {epoch} done by {other}")

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.params["steps"] - 1:  # before a validation and its flush
            self._events.set(f"epoch {self._epoch} done by {self._hvd.rank()}")
