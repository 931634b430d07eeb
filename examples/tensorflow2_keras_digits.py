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

from horovod.tensorflow import allgather_object
import horovod_partial.tensorflow.keras as hvd

import digits

PARTIAL = hasattr(hvd, "rounds")


class Measure(keras.callbacks.Callback):
    """Emulates the compute time, and follows the accuracy."""

    def __init__(self, training, rounds, test_x, test_y):
        super().__init__()
        self.training, self.rounds = training, rounds
        self.test_x, self.test_y = test_x, test_y
        self.compute = training.emulated_compute()

    def on_train_begin(self, logs=None):
        self.training.start()

    def on_train_batch_begin(self, batch, logs=None):
        self.compute.step()

    def on_train_batch_end(self, batch, logs=None):
        self.training.after_step(self.rounds(batch), self.accuracy)

    def accuracy(self):
        guesses = np.argmax(self.model(self.test_x, training=False), axis=1)
        return float(np.mean(guesses == self.test_y))


def train(training):
    args = training.args
    train_x, train_y, test_x, test_y = digits.load_data()
    keras.utils.set_random_seed(training.seed)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"),
                              keras.layers.Dense(10)])
    partial = training.partial if PARTIAL else {}
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(args.learning_rate, momentum=args.momentum), **partial)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    batches = tf.data.Dataset.from_generator(
        lambda: digits.batches(train_x, train_y, args.batch_size, training.seed, hvd.rank()),
        output_signature=(tf.TensorSpec((args.batch_size, 64)),
                          tf.TensorSpec((args.batch_size,), tf.int64)))
    # TensorFlow's tuning thread can hold up the end of an iterator, here in the next training.
    options = tf.data.Options()
    options.autotune.enabled = False
    batches = batches.with_options(options)
    measure = Measure(training, lambda step: optimizer.round if PARTIAL else step + 1,
                      test_x, test_y)
    if PARTIAL:
        length = [
            hvd.callbacks.StopAtRound(args.rounds),
            # The schedule follows rounds, so that replicas stay identical.
            hvd.callbacks.RoundSchedule(training.learning_rate),
        ]
    else:
        length = [keras.callbacks.LambdaCallback(on_train_batch_begin=lambda step, logs: (
            setattr(optimizer, "learning_rate", training.learning_rate(step))))]
    model.fit(batches, steps_per_epoch=10**9 if PARTIAL else args.rounds, verbose=0,
              callbacks=[hvd.callbacks.BroadcastGlobalVariablesCallback(0), measure, *length])
    return training.result(measure.accuracy, model.get_weights(),
                           optimizer.stats() if PARTIAL else {}, allgather_object)


def main():
    comparison = digits.comparison(__doc__.split("\n\n")[0], "results/tensorflow2_keras_digits")
    args = comparison.parse_args()
    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    if not PARTIAL:
        args.policies = ["full"]
    comparison.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
