"""Trains a small network on scikit-learn's images of digits with a training loop of its own under
tf.function, once per policy, on ranks of uneven speed, and shows what partial rounds gain.

    horovodrun -np 4 python examples/tensorflow2_custom_loop.py
    horovodrun -np 4 python examples/tensorflow2_custom_loop.py --policies full first:3 --seeds 1

The images are real. The compute time is EMULATED: each step sleeps in place of a GPU's work, for
the base time and what the pattern of imbalance adds. It also runs with one process.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import horovod_partial.tensorflow as hvd

import digits


def train(training):
    args = training.args
    train_x, train_y, test_x, test_y = digits.load_data()
    keras.utils.set_random_seed(training.seed)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"),
                              keras.layers.Dense(10)])
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(args.learning_rate, momentum=args.momentum),
        **training.partial)
    optimizer.build(model.trainable_variables)
    hvd.broadcast_variables(model.variables, root_rank=0)
    # The schedule follows rounds, so that replicas stay identical.
    optimizer.register_before_round(lambda index: setattr(
        optimizer, "learning_rate", training.learning_rate(index)))

    @tf.function
    def gradients_of(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)))
        return tape.gradient(loss, model.trainable_variables)

    @tf.function
    def update(gradients):
        optimizer.apply_gradients(zip(gradients, model.trainable_variables))

    def accuracy():
        return float(np.mean(np.argmax(model(test_x), axis=1) == test_y))

    compute = training.emulated_compute()
    batches = digits.batches(train_x, train_y, args.batch_size, training.seed, hvd.rank())
    hvd.allreduce(tf.zeros(1), name="start")
    training.start()
    for round_index in hvd.rounds(optimizer, args.rounds):
        gradients = gradients_of(*next(batches))
        compute.step()
        update(gradients)
        training.after_step(round_index + 1, accuracy)
    return training.result(accuracy, [v.numpy() for v in model.trainable_variables],
                           optimizer.stats(), hvd.allgather_object)


def main():
    comparison = digits.comparison(__doc__.split("\n\n")[0], "results/tensorflow2_custom_loop")
    args = comparison.parse_args()
    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    comparison.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
