"""Trains a small Keras model on scikit-learn's images of digits with model.fit, once per policy, on
ranks of uneven speed, and shows what partial rounds gain.

    horovodrun -np 4 python examples/tensorflow2_keras_digits.py
    horovodrun -np 4 python examples/tensorflow2_keras_digits.py --imbalance random

The images are real. The compute time is EMULATED: each step sleeps in place of a GPU's work, for
the base time and what the pattern of imbalance adds. It also runs with one process, and with stock
Horovod: change the import below to `import horovod.tensorflow.keras as hvd`.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import horovod_partial.tensorflow.keras as hvd

import digits

PARTIAL = hasattr(hvd, "rounds")


class Measure(keras.callbacks.Callback):
    """Emulates the compute time, counts steps, and follows the accuracy."""

    def __init__(self, compute, curve, test_x, test_y, rounds):
        super().__init__()
        self.compute, self.curve, self.rounds = compute, curve, rounds
        self.test_x, self.test_y = test_x, test_y
        self.steps = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.compute.step()

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        self.curve.add(self.rounds(self.steps), self.accuracy)

    def accuracy(self):
        guesses = np.argmax(self.model(self.test_x, training=False), axis=1)
        return float(np.mean(guesses == self.test_y))


def gathered(value, name):
    """A number of each rank."""
    return np.asarray(hvd.allgather(np.array([value], np.float32), name=name))


def replicas_identical(model):
    """Whether all ranks have the same weights, bit for bit."""
    mine = np.concatenate([weight.reshape(-1) for weight in model.get_weights()])
    root = np.asarray(hvd.broadcast(mine, 0, name="replica"))
    return bool(gathered(np.array_equal(mine, root), "same").all())


def train(args, policy, seed, data):
    train_x, train_y, test_x, test_y = data
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"),
                              keras.layers.Dense(10)])
    partial = digits.partial_settings(args, policy, seed) if PARTIAL else {}
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(args.learning_rate, momentum=args.momentum), **partial)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    share = digits.batches(train_x, train_y, args.batch_size, seed, hvd.rank(), hvd.size())
    compute = digits.EmulatedCompute(args, seed, hvd.rank(), hvd.size())
    gathered(0, "start")
    curve = digits.Curve(args, policy, seed, hvd.rank())
    measure = Measure(compute, curve, test_x, test_y,
                      lambda steps: optimizer.round if PARTIAL else steps)
    if PARTIAL:
        length = [
            hvd.callbacks.StopAtRound(args.rounds),
            # The schedule follows rounds, so that replicas stay identical.
            hvd.callbacks.RoundSchedule(lambda index: digits.learning_rate(args, index)),
        ]
    else:
        length = [keras.callbacks.LambdaCallback(on_train_batch_begin=lambda step, logs: (
            setattr(optimizer, "learning_rate", digits.learning_rate(args, step))))]
    model.fit(share, steps_per_epoch=10**9 if PARTIAL else args.rounds, verbose=0,
              callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), measure, *length])
    seconds = curve.seconds()

    stats = optimizer.stats() if PARTIAL else {}
    return digits.result(
        args, policy, seed, hvd.size(), curve, seconds, measure.accuracy(),
        float(gathered(measure.steps, "steps").sum()) * args.batch_size, stats,
        float(gathered(stats.get("mean_staleness", 0), "stale").mean()),
        float(gathered(stats.get("max_staleness", 0), "stalest").max()),
        replicas_identical(model))


def main():
    args = digits.parse_args(__doc__.split("\n\n")[0], "results/tensorflow2_keras_digits")
    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    if not PARTIAL:
        args.policies = ["full"]
    digits.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
