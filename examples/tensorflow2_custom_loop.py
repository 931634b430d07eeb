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


def train(args, policy, seed, data):
    train_x, train_y, test_x, test_y = data
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(64, activation="relu"),
                              keras.layers.Dense(10)])
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.SGD(args.learning_rate, momentum=args.momentum),
        **digits.partial_settings(args, policy, seed))
    optimizer.build(model.trainable_variables)
    hvd.broadcast_variables(model.variables, root_rank=0)
    # The schedule follows rounds, so that replicas stay identical.
    optimizer.register_before_round(lambda index: setattr(
        optimizer, "learning_rate", digits.learning_rate(args, index)))

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

    compute = digits.EmulatedCompute(args, seed, hvd.rank(), hvd.size())
    share = digits.batches(train_x, train_y, args.batch_size, seed, hvd.rank(), hvd.size())
    hvd.allreduce(tf.zeros(1), name="start")
    curve = digits.Curve(args, policy, seed, hvd.rank())
    steps = 0
    for round_index in hvd.rounds(optimizer, args.rounds):
        gradients = gradients_of(*next(share))
        compute.step()
        update(gradients)
        steps += 1
        curve.add(round_index + 1, accuracy)
    seconds = curve.seconds()

    stats = optimizer.stats()
    mine = tf.concat([tf.reshape(v, [-1]) for v in model.trainable_variables], 0)
    same = np.array_equal(mine, hvd.broadcast(mine, 0, name="replica"))
    summary = hvd.allgather(tf.constant([[steps, stats["mean_staleness"], stats["max_staleness"],
                                          same]], tf.float64), name="summary").numpy()
    return digits.result(args, policy, seed, hvd.size(), curve, seconds, accuracy(),
                         summary[:, 0].sum() * args.batch_size, stats, summary[:, 1].mean(),
                         summary[:, 2].max(), bool(summary[:, 3].all()))


def main():
    args = digits.parse_args(__doc__.split("\n\n")[0], "results/tensorflow2_custom_loop")
    hvd.init()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    digits.run(args, train, hvd.rank(), hvd.size())


if __name__ == "__main__":
    main()
