"""What the Keras examples that train a model on images share: the training itself."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from horovod.tensorflow import allgather_object
import horovod_partial.tensorflow.keras as hvd

import common


def set_up_devices():
    """This rank's GPU, or the CPU, whose cores the ranks share."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        tf.config.set_visible_devices(gpus[hvd.local_rank()], "GPU")
        tf.config.experimental.set_memory_growth(gpus[hvd.local_rank()], True)
    else:
        tf.config.threading.set_intra_op_parallelism_threads(
            max(os.cpu_count() // hvd.local_size(), 1))


def validate(model, batches):
    """The loss and the top-1 accuracy over the batches (x, y) of all ranks. Every rank calls it,
    after a flush, with its share."""
    sums = np.zeros(3)  # loss, right guesses, images
    for x, y in batches:
        logits, y = model(x, training=False), np.asarray(y)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)
        sums += [np.sum(losses), np.sum(np.argmax(logits, axis=1) == y), len(y)]
    loss, right, images = np.sum(allgather_object(sums, name="validate"), axis=0)
    return float(loss / images), float(right / images)


class Progress(keras.callbacks.Callback):
    """Lines of progress, and emulated delays where they are asked for."""

    def __init__(self, args, history):
        super().__init__()
        self.history = history
        self.compute = common.EmulatedCompute(args, args.seed, hvd.rank(), hvd.size())

    def on_train_batch_begin(self, batch, logs=None):
        self.compute.step()

    def on_train_batch_end(self, batch, logs=None):
        self.history.after_step(self.model.optimizer.round, lambda: logs["loss"])


def train(args, model, batches, test_batches, images, drops):
    """Trains a model, and shows how that goes. Every rank calls it.

    Args:
        args: of ``common.add_training_options``.
        model: gives logits; rank 0's counts, or that of its checkpoint, which all ranks load.
        batches: this rank's endless batches (x, y), for ``fit``.
        test_batches: a function that gives this rank's share of those to test with.
        images: to train with, of all ranks.
        drops: where the learning rate falls to a tenth, in parts of the training.
    """
    per_epoch = common.rounds_of(args, images, hvd.size())
    schedule = common.step_schedule(args, per_epoch, hvd.size(), drops)
    partial = common.partial_settings(args, args.policy)
    checkpoint = args.output / "checkpoint.keras"
    if any(allgather_object(checkpoint.exists(), name="checkpoint")):
        model = hvd.load_model(checkpoint, **partial)
        if hvd.rank() == 0:
            print(f"carries on from {checkpoint}, round {model.optimizer.round}", flush=True)
    else:
        optimizer = hvd.DistributedOptimizer(
            keras.optimizers.SGD(args.learning_rate, momentum=args.momentum,
                                 weight_decay=args.weight_decay), **partial)
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                      jit_compile=False)  # XLA cannot compile a partial step
    history = common.History(args, hvd.rank(), hvd.size(), model.optimizer.round)

    def at_flush(round_index):
        """On all ranks at the same round: the place for what all do together."""
        test_loss, accuracy = validate(model, test_batches())
        # What a checkpoint of Keras counts: a flush to which nobody contributed is no update.
        history.add(int(model.optimizer.iterations), learning_rate=schedule(round_index - 1),
                    test_loss=test_loss, accuracy=accuracy)
        if hvd.rank() == 0:
            beside = checkpoint.with_name("new.keras")
            model.save(beside)
            os.replace(beside, checkpoint)  # whole, or not at all

    callbacks = [
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.StopAtRound(args.rounds, every=per_epoch, at_flush=at_flush),
        # By rounds, not by this rank's own steps: the same on all ranks, so that replicas stay
        # identical.
        hvd.callbacks.RoundSchedule(schedule),
        Progress(args, history),
    ]
    if args.tensorboard:
        callbacks += [hvd.callbacks.ParticipationCallback(),
                      keras.callbacks.TensorBoard(f"{args.tensorboard}/rank-{hvd.rank()}")]
    if model.optimizer.round < args.rounds:
        # StopAtRound says when it is over; an epoch of `fit` is one of this rank's own steps.
        model.fit(batches, steps_per_epoch=per_epoch, epochs=10**9, verbose=0,
                  shuffle=False, callbacks=callbacks)
    history.finish([v.numpy() for v in model.trainable_variables], model.optimizer.stats(),
                   allgather_object)
