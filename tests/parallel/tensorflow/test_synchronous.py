"""Stock Horovod on Keras 3: what we re-export reduces, and works."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import (BATCH, assert_close, batch, batches, build, fit, gradients, identical, joined,
                    replica, stepper, tape_step)

import horovod.keras as keras_hvd
import horovod.tensorflow as tf_hvd
import horovod.tensorflow.keras as stock

OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(0.01),
}


@functools.cache
def alone(size, kind, steps, epochs=1):
    """The replica of one process that trains with the data of all ranks."""
    model, optimizer = build(), OPTIMIZERS[kind]()
    for _ in range(epochs):
        for number in range(steps):
            optimizer.apply_gradients(zip(gradients(model, *joined(size, number)),
                                          model.trainable_variables))
    return replica(model, optimizer)


@pytest.mark.parametrize("module, kind", [(stock, "momentum"), (keras_hvd, "adam"),
                                          (tf_hvd, "adam")],
                         ids=["tensorflow.keras", "keras", "tensorflow"])
def test_fit_trains_as_one_process_with_all_data(hvd, ranks, module, kind):
    rank, size = ranks
    model = build()
    optimizer = module.DistributedOptimizer(OPTIMIZERS[kind]())
    model.compile(optimizer=optimizer, loss="mse")
    fit(model, batches(rank, 3), epochs=2, build_before=module is not stock)
    assert isinstance(optimizer, type(OPTIMIZERS[kind]()))
    assert optimizer.iterations == 6
    assert_close(replica(model, optimizer), alone(size, kind, 3, epochs=2))
    assert identical(hvd, *replica(model, optimizer))


@pytest.mark.parametrize("compiled", [True, False], ids=["function", "eager"])
def test_a_custom_loop(hvd, ranks, compiled):
    rank, size = ranks
    model = build()
    optimizer = stock.DistributedOptimizer(OPTIMIZERS["momentum"]())
    step = stepper(model, optimizer, compiled)
    for number in range(3):
        step(rank, number)
    assert_close(replica(model, optimizer), alone(size, "momentum", 3))
    assert identical(hvd, *replica(model, optimizer))


@pytest.mark.parametrize("how, average", [("fit", False), ("eager", True)])
def test_backward_passes_per_step(hvd, ranks, average, how):
    rank, size = ranks
    model, reference = build(), build()
    optimizer = stock.DistributedOptimizer(OPTIMIZERS["momentum"](), backward_passes_per_step=2,
                                           average_aggregated_gradients=average)
    if how == "fit":
        model.compile(optimizer=optimizer, loss="mse")
        fit(model, batches(rank, 6))
    else:
        step = stepper(model, optimizer, compiled=False)
        for number in range(6):
            step(rank, number)
    plain = OPTIMIZERS["momentum"]()
    for number in range(0, 6, 2):
        both = zip(*[gradients(reference, *joined(size, number + i)) for i in range(2)])
        plain.apply_gradients(zip([(a + b) / (2 if average else 1) for a, b in both],
                                  reference.trainable_variables))
    assert_close(model.get_weights(), reference.get_weights())
    assert identical(hvd, *replica(model, optimizer))
    assert optimizer.iterations == 6  # counts local steps, as Horovod's does


@pytest.mark.parametrize("groups", [2, "lists"])
def test_groups(hvd, ranks, groups):
    rank, size = ranks
    model = build()
    if groups == "lists":
        groups = [model.layers[1].trainable_variables, model.layers[0].trainable_variables[:1]]
    optimizer = stock.DistributedOptimizer(OPTIMIZERS["momentum"](), groups=groups)
    model.compile(optimizer=optimizer, loss="mse")
    fit(model, batches(rank, 3))
    assert_close(replica(model, optimizer), alone(size, "momentum", 3))
    assert identical(hvd, *replica(model, optimizer))


@pytest.mark.parametrize("settings", [{"op": "Sum"}, {"gradient_predivide_factor": 2.0}],
                         ids=["sum", "predivide"])
def test_sum_and_predivide(hvd, ranks, settings):
    rank, size = ranks
    weight = keras.Variable([0.0])
    if "op" in settings:
        settings = {"op": stock.Sum}
    optimizer = stock.DistributedOptimizer(keras.optimizers.SGD(1.0), **settings)
    optimizer.apply([tf.constant([2.0**rank])], [weight])
    assert weight.numpy() == -(2**size - 1) / (1 if "op" in settings else size)


@pytest.mark.parametrize("sparse_as_dense", [False, True])
@pytest.mark.parametrize("passes", [1, 2])
def test_sparse_gradients(hvd, ranks, sparse_as_dense, passes):
    rank, size = ranks

    def table():
        keras.utils.set_random_seed(0)
        layer = keras.layers.Embedding(6, 2)
        layer.build()
        return layer

    def gradient(layer, words):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(layer(words)))
        return tape.gradient(loss, layer.trainable_variables)

    layer, reference = table(), table()
    optimizer = stock.DistributedOptimizer(keras.optimizers.SGD(0.5),
                                           sparse_as_dense=sparse_as_dense,
                                           backward_passes_per_step=passes)
    step = tf.function(lambda words: optimizer.apply(gradient(layer, words),
                                                     layer.trainable_variables))
    words = tf.constant([[rank, rank + 1], [0, 0]])
    assert isinstance(gradient(layer, words)[0], tf.IndexedSlices)
    if passes > 1 and not sparse_as_dense:  # as in Horovod
        with pytest.raises((ValueError, NotImplementedError), match="sparse_as_dense"):
            step(words)
        return
    for _ in range(2):
        step(words)
    plain = keras.optimizers.SGD(0.5)
    everybody = tf.constant([[[r, r + 1], [0, 0]] for r in range(size)])
    for _ in range(2 // passes):
        plain.apply([passes * tf.convert_to_tensor(g) for g in gradient(reference, everybody)],
                    reference.trainable_variables)
    assert_close(layer.get_weights(), reference.get_weights())
    assert identical(hvd, *layer.get_weights())


def test_loss_scale_optimizer(hvd, ranks):
    """An overflow on one rank skips the step on all, and lowers all scales alike."""
    rank, size = ranks

    model = build()
    optimizer = stock.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(
        OPTIMIZERS["adam"](), initial_scale=64.0, dynamic_growth_steps=2))
    model.compile(optimizer=optimizer, loss="mse")
    fit(model, batches(rank, 3))
    assert_close(replica(model, optimizer.inner_optimizer), alone(size, "adam", 3))
    assert optimizer.dynamic_scale == 128.0
    before = model.get_weights()
    x, y = batch(rank, 3)
    fit(model, (x, y * (np.inf if rank == 0 else 1.0)))
    assert optimizer.dynamic_scale == 64.0
    assert_close(model.get_weights(), before, rtol=0, atol=0)
    assert identical(hvd, *replica(model, optimizer))


@pytest.mark.parametrize("scale", [True, False])
def test_variables_of_this_worker_alone(hvd, ranks, scale):
    rank, size = ranks
    shared, own = keras.Variable([0.0]), keras.Variable([0.0])
    optimizer = stock.DistributedOptimizer(keras.optimizers.SGD(1.0), scale_local_gradients=scale)
    optimizer.register_local_var(own)
    step = tf.function(lambda g: optimizer.apply([g, g], [shared, own]))
    step(tf.constant([2.0**rank]))
    assert shared.numpy() == -(2**size - 1) / size
    assert own.numpy() == -(2.0**rank) / (size if scale else 1)


def test_local_layers_of_the_standalone_module(hvd, ranks):
    rank, size = ranks
    model = build(seed=1 + rank)
    hvd.broadcast_variables(model.layers[0].variables, root_rank=0)
    model.compile(optimizer=keras_hvd.PartialDistributedOptimizer(
        OPTIMIZERS["momentum"](), local_layers=model.layers[1]), loss="mse")
    fit(model, batches(rank, 2))
    assert identical(hvd, *model.layers[0].get_weights())
    assert not identical(hvd, *model.layers[1].get_weights()) or size == 1


@pytest.mark.parametrize("module", [stock, keras_hvd], ids=["tensorflow.keras", "keras"])
def test_save_and_load(hvd, ranks, tmp_path, module):
    rank, size = ranks
    model = build()
    model.compile(optimizer=module.DistributedOptimizer(OPTIMIZERS["adam"]()), loss="mse")
    fit(model, batches(rank, 2))
    file = str(tmp_path / "model.keras")
    model.save(file)

    plain = keras.models.load_model(file)
    assert type(plain.optimizer) is keras.optimizers.Adam
    loaded = module.load_model(file)
    assert type(loaded.optimizer) is not keras.optimizers.Adam
    assert_close(replica(loaded, loaded.optimizer), replica(model, model.optimizer), 0, 0)
    # It goes on, and reduces.
    for some in (model, loaded):
        fit(some, batches(rank, 2))
    assert_close(loaded.get_weights(), model.get_weights(), 0, 0)
    assert identical(hvd, *replica(loaded, loaded.optimizer))


def test_load_model_with_an_optimizer_class_of_the_users(hvd, ranks, tmp_path):
    class Mine(keras.optimizers.SGD):
        pass

    model = build()
    model.compile(optimizer=stock.DistributedOptimizer(Mine(0.1)), loss="mse")
    fit(model, batches(ranks[0], 1))
    model.save(str(tmp_path / "model.keras"))
    loaded = stock.load_model(str(tmp_path / "model.keras"), custom_optimizers=[Mine])
    assert isinstance(loaded.optimizer, Mine) and type(loaded.optimizer) is not Mine
    assert loaded.optimizer.iterations == 1


def test_wrapping_twice(hvd, ranks, name):
    rank, size = ranks
    for module in (stock, hvd):
        for once in (stock.DistributedOptimizer(keras.optimizers.SGD(1.0)),
                     hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), name=name),
                     hvd.DistributedOptimizer(keras.optimizers.LossScaleOptimizer(
                         keras.optimizers.SGD(1.0)), name=name + ".scaled")):
            with pytest.raises(ValueError, match="already"):
                module.DistributedOptimizer(once)
            del once
    # The plain one can be wrapped for another model, with a state of its own.
    plain = keras.optimizers.SGD(1.0, momentum=0.5)
    weights = [keras.Variable([0.0]), keras.Variable([0.0, 0.0])]
    for weight in weights:
        optimizer = stock.DistributedOptimizer(plain, op=stock.Sum)
        optimizer.apply([tf.fill(weight.shape, 2.0**rank)], [weight])
        assert (weight.numpy() == -(2**size - 1)).all()


def test_wrapping_keeps_the_state(hvd, ranks):
    rank, size = ranks
    model = build()
    plain = OPTIMIZERS["adam"]()
    plain.apply(gradients(model, *batch(0, 0)), model.trainable_variables)
    reference = [v.numpy() for v in plain.variables]
    optimizer = stock.DistributedOptimizer(plain)
    assert_close(optimizer.variables, reference, 0, 0)
    assert_close(optimizer.variables(), reference, 0, 0)  # as scripts for Keras 2 ask


# ----------------------------------------------------------------------------------- callbacks


@pytest.mark.parametrize("module", [stock, keras_hvd], ids=["tensorflow.keras", "keras"])
def test_broadcast_callback(hvd, ranks, module):
    rank, size = ranks
    model = build(seed=rank)
    optimizer = module.DistributedOptimizer(keras.optimizers.Adam(0.01 * (1 + rank)))
    model.compile(optimizer=optimizer, loss="mse")
    fit(model, batches(rank, 2), callbacks=[module.callbacks.BroadcastGlobalVariablesCallback(0)])
    assert identical(hvd, *replica(model, optimizer))


def test_broadcast_callback_leaves_local_variables(hvd, ranks, needs_two):
    rank, size = ranks
    model = build(seed=rank)
    own = model.layers[1].kernel
    optimizer = stock.DistributedOptimizer(keras.optimizers.SGD(0.0))
    model.compile(optimizer=optimizer, loss="mse")
    before = own.numpy()
    fit(model, batches(rank, 1), callbacks=[stock.callbacks.BroadcastGlobalVariablesCallback(
        0, local_variables=[own])])
    assert_close([own], [before], 0, 0)
    assert identical(hvd, *model.layers[0].get_weights())


def test_metric_average_callback(hvd, ranks):
    rank, size = ranks
    model = build()
    model.compile(optimizer=stock.DistributedOptimizer(keras.optimizers.SGD(0.0)), loss="mse")
    history = fit(model, batches(rank, 2), validation_data=batches(rank + size, 2),
                  callbacks=[stock.callbacks.MetricAverageCallback()]).history
    losses = [np.mean(np.square(model(x) - y)) for x, y in
              [batches(r, 2) for r in range(2 * size)]]
    np.testing.assert_allclose(history["loss"], [np.mean(losses[:size])], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], [np.mean(losses[size:])], rtol=1e-5)


def by_hand(size, steps, epochs, rate, correct=True):
    """Training on all data with the learning rate ``rate(epoch, step)`` and SGD's momentum scaled
    with it."""
    model = build()
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(model.trainable_variables)
    last = 0.1
    for epoch in range(epochs):
        for step in range(steps):
            new = rate(epoch, step)
            optimizer.learning_rate = new
            if correct:
                for momentum in optimizer.momentums:
                    momentum.assign(momentum * new / last)
            last = new
            optimizer.apply(gradients(model, *joined(size, step)), model.trainable_variables)
    return model


SCHEDULES = {
    "staircase": (dict(multiplier=lambda epoch: 0.5**epoch), lambda e, s: 0.1 * 0.5**e),
    "constant": (dict(multiplier=0.5), lambda e, s: 0.1 * 0.5**e),
    "uncorrected": (dict(multiplier=0.5, momentum_correction=False), lambda e, s: 0.1 * 0.5**e),
    "smooth": (dict(multiplier=lambda epoch: 1 / (1 + epoch), staircase=False),
               lambda e, s: 0.1 / (1 + e + s / 3)),
    "from epoch 1": (dict(multiplier=lambda epoch: 0.1**epoch, start_epoch=1, end_epoch=2),
                     lambda e, s: 0.1 * 0.1**min(e, 1)),
}


@pytest.mark.parametrize("kind, ours", [*[(kind, False) for kind in SCHEDULES], ("smooth", True)])
def test_learning_rate_schedule_callback(hvd, ranks, kind, ours):
    """Ours is Horovod's where the optimizer is not partial."""
    rank, size = ranks
    arguments, rate = SCHEDULES[kind]
    callbacks = (hvd if ours else stock).callbacks
    model = build()
    model.compile(optimizer=stock.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)),
                  loss="mse", run_eagerly=not ours)
    history = fit(model, batches(rank, 3), epochs=3, callbacks=[
        callbacks.LearningRateScheduleCallback(0.1, **arguments)]).history
    np.testing.assert_allclose(history["lr"], [rate(epoch, 2) for epoch in range(3)], rtol=1e-6)
    assert_close(model.get_weights(),
                 by_hand(size, 3, 3, rate, arguments.get("momentum_correction", True))
                 .get_weights(), rtol=1e-4, atol=1e-5)
    assert identical(hvd, *replica(model, model.optimizer))


def test_learning_rate_warmup_callback(hvd, ranks):
    rank, size = ranks

    def rate(epoch, step):
        return 0.1 / size * (min(epoch + (step + 1) / 3, 2) * (size - 1) / 2 + 1)

    model = build()
    model.compile(optimizer=stock.DistributedOptimizer(keras.optimizers.SGD(0.1, momentum=0.9)),
                  loss="mse")
    history = fit(model, batches(rank, 3), epochs=3, callbacks=[
        stock.callbacks.LearningRateWarmupCallback(0.1, warmup_epochs=2, verbose=1)]).history
    np.testing.assert_allclose(history["lr"], [rate(e, 2) for e in range(3)], rtol=1e-6)
    assert_close(model.get_weights(), by_hand(size, 3, 3, rate).get_weights(), rtol=1e-4,
                 atol=1e-5)


@pytest.mark.parametrize("weights_only", [False, True])
def test_best_model_checkpoint(hvd, ranks, tmp_path, weights_only):
    rank, size = ranks
    model = build()
    model.compile(optimizer=stock.DistributedOptimizer(OPTIMIZERS["adam"]()), loss="mse")
    checkpoint = stock.callbacks.BestModelCheckpoint(monitor="loss",
                                                     save_weights_only=weights_only)
    # As Horovod's Spark estimators say where.
    checkpoint.filepath = str(tmp_path / ("best.weights.h5" if weights_only else "best.keras"))
    fit(model, batches(rank, 2), callbacks=[checkpoint])
    if weights_only:
        loaded = build(seed=9)
        loaded.load_weights(checkpoint.filepath)
    else:
        loaded = keras.models.load_model(checkpoint.filepath)
    assert_close(loaded.get_weights(), model.get_weights(), 0, 0)


# ------------------------------------------------------------------- without Keras's optimizers


def test_broadcast_variables(hvd, ranks):
    rank, size = ranks
    model = build(seed=rank)
    tf_hvd.broadcast_variables(model.variables, root_rank=size - 1)
    assert_close(model.get_weights(), build(seed=size - 1).get_weights(), 0, 0)


@pytest.mark.parametrize("compiled, settings", [
    (True, {}), (False, {}), (False, {"groups": 2}),
    (True, {"compression": tf_hvd.Compression.fp16})],
    ids=["function", "eager", "groups", "fp16"])
def test_gradient_tape(hvd, ranks, compiled, settings):
    """Of variables of Keras."""
    rank, size = ranks
    model, reference = build(), build()
    optimizer, plain = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)

    step = tape_step(tf_hvd, model, optimizer, compiled, **settings)
    for number in range(2):
        step(rank, number)
        plain.apply_gradients(zip(gradients(reference, *joined(size, number)),
                                  reference.trainable_variables))
    coarse = 1e-3 if "compression" in settings else 1e-6
    assert_close(model.get_weights(), reference.get_weights(), rtol=1e-5, atol=coarse)
    assert identical(hvd, *model.get_weights())


def test_gradient_tape_with_local_sources(hvd, ranks):
    rank, size = ranks
    shared, own = keras.Variable([1.0]), keras.Variable([1.0])
    with tf.GradientTape() as tape:
        loss = 2.0**rank * tf.reduce_sum(shared * own)
    tape = tf_hvd.DistributedGradientTape(tape)
    tape.register_local_source(own)
    a, b = tape.gradient(loss, [shared, own])
    assert a.numpy() == (2**size - 1) / size and b.numpy() == 2.0**rank / size


@pytest.mark.parametrize("compiled", [True, False], ids=["function", "eager"])
def test_sync_batch_normalization(hvd, ranks, compiled):
    rank, size = ranks
    layer, reference = hvd.SyncBatchNormalization(), keras.layers.BatchNormalization()
    run = tf.function(lambda x: layer(x, training=True)) if compiled else (
        lambda x: layer(x, training=True))
    for number in range(2):
        mine = run(tf.constant(batch(rank, number)[0] + rank))
        everybody = reference(tf.concat([batch(r, number)[0] + r for r in range(size)], 0),
                              training=True)
        assert_close([mine], [everybody[rank * BATCH:(rank + 1) * BATCH]], rtol=1e-4, atol=1e-5)
    assert_close(layer.get_weights(), reference.get_weights(), rtol=1e-4, atol=1e-5)
    assert identical(hvd, *layer.get_weights())
    assert_close([layer(mine, training=False)], [reference(mine, training=False)], 1e-4, 1e-5)


# ------------------------------------------------------------------------------- elastic state


@pytest.mark.parametrize("partial", [False, True], ids=["synchronous", "partial"])
def test_elastic_state(hvd, ranks, name, partial):
    rank, size = ranks
    model = build(seed=rank)
    settings = dict(policy="full", name=name) if partial else {}
    optimizer = (hvd if partial else stock).DistributedOptimizer(OPTIMIZERS["adam"](), **settings)
    state = stock.elastic.KerasState(model, optimizer, epoch=rank, batch=7)
    state.sync()  # from rank 0, optimizer included
    assert state.epoch == 0
    assert identical(hvd, *replica(model, optimizer))
    assert_close(model.get_weights(), build(seed=0).get_weights(), 0, 0)

    step = stepper(model, optimizer)
    step(rank, 0)
    state.epoch = 3
    state.save()  # what commit() does before it asks the driver about other hosts
    saved = replica(model, optimizer)
    assert any(np.any(v) for v in saved[len(model.trainable_variables) + 2:])  # Adam's moments
    step(rank, 1)
    state.epoch = 4
    assert optimizer.iterations == 2
    state.restore()
    assert state.epoch == 3 and optimizer.iterations == 1
    assert_close(replica(model, optimizer), saved, 0, 0)
    if partial:
        assert optimizer.round == 1
        if rank == 0:
            optimizer.set_round(5)
        state.sync()
        assert optimizer.round == 5


def test_elastic_callbacks(hvd, ranks):
    rank, size = ranks
    model = build()
    model.compile(optimizer=stock.DistributedOptimizer(OPTIMIZERS["momentum"]()), loss="mse")
    model.optimizer.build(model.trainable_variables)
    state = stock.elastic.KerasState(model, epoch=0, batch=0)
    commits = []
    state.commit = lambda: (commits.append(state.batch), state.save())
    fit(model, batches(rank, 4), epochs=2, callbacks=[
        stock.elastic.UpdateBatchStateCallback(state), stock.elastic.UpdateEpochStateCallback(state),
        stock.elastic.CommitStateCallback(state, batches_per_commit=2)])
    assert state.epoch == 2 and state.batch == 0
    assert len(commits) == 6  # two per epoch, and at its end
