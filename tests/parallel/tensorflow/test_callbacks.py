"""Our Keras callbacks, and Horovod's on a partial optimizer."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models import LateInFit, assert_close, batches, build, fit, identical, replica

import horovod.tensorflow.keras as stock


def compiled(hvd, name, policy="solo", lr=0.05, seed=0, **settings):
    model = build(seed)
    settings.setdefault("staleness_bound", 100)
    model.compile(optimizer=hvd.DistributedOptimizer(keras.optimizers.SGD(lr, momentum=0.9),
                                                     policy=policy, name=name, **settings),
                  loss="mse")
    model.optimizer.build(model.trainable_variables)
    return model


class Seen(keras.callbacks.Callback):
    """What the optimizer's numbers were at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.stats = []

    def on_epoch_end(self, epoch, logs=None):
        self.stats.append(self.model.optimizer.stats())


def test_flush_callback_flushes_once_per_epoch(hvd, events, name, ranks, tmp_path):
    """Before the validation, which only rank 0 has, and before the model is saved."""
    rank, size = ranks
    model = compiled(hvd, name)
    seen = Seen()
    model.optimizer.flush()  # registers the group
    file = str(tmp_path / "model.keras")
    fit(model, batches(rank, 3), epochs=3,
        validation_data=batches(9, 1) if rank == 0 else None,
        callbacks=[LateInFit(hvd, events), hvd.callbacks.FlushCallback(),
                   keras.callbacks.ModelCheckpoint(file), seen])
    assert [stats["flushes"] for stats in seen.stats] == [2, 3, 4]
    rounds = [stats["round"] for stats in seen.stats]
    everybody = hvd.allgather(tf.constant([rounds])).numpy()
    assert (everybody == everybody[0]).all()
    assert identical(hvd, *replica(model, model.optimizer))
    assert seen.stats[-1]["heals"] == 0 and not seen.stats[-1]["holds"]
    assert_close(keras.models.load_model(file).get_weights(), model.get_weights(), 0, 0)
    model.evaluate(*batches(rank, 1), verbose=0)  # outside of fit: the user's own affair
    assert model.optimizer.stats()["flushes"] == 4


def test_stop_at_round(hvd, events, name, ranks):
    rank, size = ranks
    model = compiled(hvd, name)
    flushed = []

    def at_flush(number):
        assert number == model.optimizer.round
        assert identical(hvd, *replica(model, model.optimizer))
        flushed.append(number)

    stop = hvd.callbacks.StopAtRound(20, every=8, at_flush=at_flush)
    history = fit(model, batches(rank, 3), epochs=10_000, callbacks=[
        stop, hvd.callbacks.FlushCallback()])
    assert model.optimizer.round >= 20 and len(history.epoch) < 10_000
    assert len(flushed) >= 2 and flushed[-1] == model.optimizer.round
    # FlushCallback left it to StopAtRound: one at the beginning, then those of at_flush.
    assert model.optimizer.stats()["flushes"] == 1 + len(flushed)
    everybody = hvd.allgather(tf.constant([flushed])).numpy()
    assert (everybody == everybody[0]).all()
    # A later training is FlushCallback's again.
    before = model.optimizer.stats()["flushes"]
    fit(model, batches(rank, 3), callbacks=[hvd.callbacks.FlushCallback()])
    assert model.optimizer.stats()["flushes"] == before + 1
    # A continued training counts on: it is there already.
    reached = model.optimizer.round
    fit(model, batches(rank, 3), epochs=1,
        callbacks=[hvd.callbacks.StopAtRound(reached + 1)])
    assert model.optimizer.round <= reached + 3


@pytest.mark.parametrize("settings, message", [
    (dict(n=-1), "n=-1"), (dict(n=1.5), "n=1.5"), (dict(n=5, every=0), "every=0"),
    (dict(n=5, at_flush=3), "at_flush=3")])
def test_stop_at_round_with_wrong_numbers(hvd, settings, message):
    with pytest.raises(ValueError, match=message):
        hvd.callbacks.StopAtRound(**settings)


def test_round_schedule(hvd, events, name, ranks):
    rank, size = ranks
    model = compiled(hvd, name)
    asked = []

    def schedule(index):
        asked.append(index)
        return 0.1 / (1 + index)

    model.optimizer.flush()  # round 0, empty
    callback = hvd.callbacks.RoundSchedule(schedule)
    for _ in range(2):  # set up anew, not twice
        history = fit(model, batches(rank, 3), epochs=size, callbacks=[
            LateInFit(hvd, events), hvd.callbacks.FlushCallback(), callback]).history
        events.begin(name + "again")
    assert asked == sorted(set(asked))
    assert model.optimizer.stats()["heals"] == 0
    assert identical(hvd, asked, *replica(model, model.optimizer))
    np.testing.assert_allclose(history["learning_rate"][-1], 0.1 / (1 + asked[-1]), rtol=1e-6)
    with pytest.raises(ValueError, match="schedule=0.1"):
        hvd.callbacks.RoundSchedule(0.1)


def test_participation_is_in_the_logs_and_in_tensorboard(hvd, events, name, ranks, tmp_path):
    rank, size = ranks
    model = compiled(hvd, name)
    model.optimizer.flush()
    history = fit(model, batches(rank, 3), epochs=2, callbacks=[
        LateInFit(hvd, events), hvd.callbacks.FlushCallback(),
        hvd.callbacks.ParticipationCallback(),
        keras.callbacks.TensorBoard(str(tmp_path), write_graph=False)]).history
    stats = model.optimizer.stats()
    assert history["partial_round"][-1] == stats["round"]
    assert sum(history["partial_late"]) == stats["late"]
    assert 1 <= history["partial_mean_active"][0] <= size
    np.testing.assert_allclose(np.mean(history["partial_staleness"]), stats["mean_staleness"])
    np.testing.assert_allclose(sum(history["partial_wait_seconds"]), stats["wait_seconds"])
    if size > 1:
        late = hvd.allreduce(tf.constant(sum(history["partial_late"])), op=hvd.Sum)
        assert late >= 1
    events_of_training = EventAccumulator(str(tmp_path / "train"), {"tensors": 0})
    events_of_training.Reload()
    for tag in ("round", "mean_active", "staleness", "late", "wait_seconds"):
        shown = [tf.make_ndarray(event.tensor_proto).item()
                 for event in events_of_training.Tensors(f"epoch_partial_{tag}")]
        np.testing.assert_allclose(shown, history[f"partial_{tag}"], rtol=1e-6)


@pytest.mark.parametrize("kind", ["warmup", "smooth", "staircase"])
def test_horovods_schedules_follow_rounds(hvd, events, name, ranks, kind):
    rank, size = ranks
    model = compiled(hvd, name, lr=0.1)
    callback = {
        "warmup": lambda: hvd.callbacks.LearningRateWarmupCallback(
            0.1, warmup_epochs=2, steps_per_epoch=3),
        "smooth": lambda: hvd.callbacks.LearningRateScheduleCallback(
            0.1, lambda epoch: 1 / (1 + epoch), staircase=False),
        "staircase": lambda: hvd.callbacks.LearningRateScheduleCallback(0.1, 0.5),
    }[kind]()
    rates = {}
    # Registered after the callback's own function, so that it sees what that has set.
    model.optimizer.flush()

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.model.optimizer.register_before_round(
                lambda index: rates.update({index: float(self.model.optimizer.learning_rate)}))

    fit(model, batches(rank, 3), epochs=size + 1, callbacks=[
        LateInFit(hvd, events), callback, Watch(), hvd.callbacks.FlushCallback()])
    assert model.optimizer.stats()["heals"] == 0  # identical without it
    assert identical(hvd, list(rates.values()), *replica(model, model.optimizer))
    last = 0.1
    for index, rate in rates.items():
        epoch = index / 3
        if kind == "warmup":
            last = 0.1 / size * ((epoch + 1 / 3) * (size - 1) / 2 + 1) if epoch < 2 else last
        elif kind == "smooth":
            last = 0.1 / (1 + epoch)
        else:
            last = 0.1 * 0.5**int(epoch)
        np.testing.assert_allclose(rate, last, rtol=1e-5)


def test_broadcast_and_metric_average_on_a_partial_optimizer(hvd, name, ranks):
    """Nobody applies a round that the root had applied before the broadcast."""
    rank, size = ranks
    model = compiled(hvd, name, lr=0.05 * (1 + rank), seed=rank)
    history = fit(model, batches(rank, 3), epochs=2, callbacks=[
        hvd.callbacks.BroadcastGlobalVariablesCallback(0),
        hvd.callbacks.MetricAverageCallback(), hvd.callbacks.FlushCallback()]).history
    assert identical(hvd, history["loss"], *replica(model, model.optimizer))
    assert_close([model.optimizer.learning_rate], [0.05])


def test_callbacks_find_the_optimizer_in_a_loss_scale(hvd, name, ranks):
    model = build()
    partial = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), policy="first:1", name=name)
    model.compile(optimizer=keras.optimizers.LossScaleOptimizer(partial, initial_scale=2.0),
                  loss="mse")
    fit(model, batches(ranks[0], 2), callbacks=[hvd.callbacks.FlushCallback(),
                                                hvd.callbacks.ParticipationCallback()])
    assert partial.stats()["flushes"] == 1


def test_a_plain_optimizer_is_an_error(hvd):
    for optimizer in (keras.optimizers.SGD(0.1),
                      stock.DistributedOptimizer(keras.optimizers.SGD(0.1))):
        model = build()
        model.compile(optimizer=optimizer, loss="mse", run_eagerly=True)
        for callback in (hvd.callbacks.FlushCallback(), hvd.callbacks.StopAtRound(5),
                         hvd.callbacks.RoundSchedule(lambda index: 0.1),
                         hvd.callbacks.ParticipationCallback()):
            with pytest.raises(ValueError, match=f"{type(callback).__name__} needs.*partial"):
                fit(model, batches(0, 1), callbacks=[callback])


def test_best_model_checkpoint(hvd, name, ranks, tmp_path):
    model = compiled(hvd, name, policy="full")
    checkpoint = hvd.callbacks.BestModelCheckpoint(monitor="loss")
    checkpoint.filepath = str(tmp_path / "best.keras")
    fit(model, batches(ranks[0], 2), callbacks=[hvd.callbacks.FlushCallback(), checkpoint])
    assert_close(keras.models.load_model(checkpoint.filepath).get_weights(), model.get_weights(),
                 0, 0)


def test_a_schedule_of_epochs_of_unknown_length_is_refused(hvd, name, ranks):
    model = compiled(hvd, name)
    batch = tuple(batches(ranks[0], 1))
    with pytest.raises(ValueError, match="LearningRateScheduleCallback .* give it steps_per_epoch"):
        model.fit((batch for _ in range(3)), shuffle=False, verbose=0,
                  callbacks=[hvd.callbacks.LearningRateScheduleCallback(0.1, 0.5)])


def test_a_schedule_that_begins_at_zero_ends_with_its_training(hvd, name, ranks):
    rank, _ = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9), policy="full",
                                         name=name)
    model.compile(optimizer, "mse")
    fit(model, batches(rank, 3), epochs=2, callbacks=[
        hvd.callbacks.LearningRateScheduleCallback(0.1, lambda epoch: epoch, staircase=False)])
    assert float(optimizer.learning_rate) == pytest.approx(0.1 * 5 / 3)
    optimizer.flush()
    optimizer.learning_rate = 0.01
    fit(model, batches(rank, 3))
    assert float(optimizer.learning_rate) == pytest.approx(0.01)
