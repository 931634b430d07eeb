"""The partial DistributedOptimizer of Keras on real ranks: in fit, in tf.function, eagerly."""

import gc
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import (LateInFit, assert_close, batch, batches, build, fit, gradients, identical,
                    lateness, replica, stepper)

import horovod.tensorflow.keras as stock

CLASSES = sorted(name for name, cls in vars(keras.optimizers).items()
                 if isinstance(cls, type) and issubclass(cls, keras.optimizers.Optimizer)
                 and cls is not keras.optimizers.Optimizer)


def make(kind):
    if kind == "momentum":
        return keras.optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01)
    if kind == "LossScaleOptimizer":
        return keras.optimizers.LossScaleOptimizer(make("momentum"), initial_scale=64.0)
    if kind == "MultiOptimizer":
        mapping = keras.optimizers.OptimizerMap(default_optimizer=make("momentum"))
        mapping["dense.*/bias"] = keras.optimizers.Adam(0.01)
        return keras.optimizers.MultiOptimizer(mapping)
    return getattr(keras.optimizers, kind)(learning_rate=0.01)


def state(model, optimizer):
    """What has to be identical: each rank has a loss scale of its own."""
    return replica(model, getattr(optimizer, "inner_optimizer", optimizer))


def check_replayed(hvd, model, optimizer, before):
    """After a flush: identical by replay, not by healing, and trained."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        optimizer.flush()
    stats = optimizer.stats()
    assert identical(hvd, *state(model, optimizer))
    assert stats["merged"] == stats["heals"] == 0
    assert optimizer.round == stats["rounds"]
    assert any(not np.array_equal(a, b) for a, b in zip(before, model.get_weights()))


def count_late(hvd, optimizer):
    return hvd.allreduce(tf.constant(float(optimizer.stats()["late"])), op=hvd.Sum).numpy()


def barrier(hvd):
    hvd.allreduce(tf.constant(0.0))


@pytest.mark.parametrize("kind, compiled", [
    *[(kind, False) for kind in CLASSES],
    *[(kind, True) for kind in ("Adam", "momentum", "LossScaleOptimizer", "MultiOptimizer")]])
def test_replicas_are_identical_after_late_rounds(hvd, events, name, ranks, kind, compiled):
    model = build()
    optimizer = hvd.DistributedOptimizer(make(kind), policy="solo", name=name,
                                         staleness_bound=100)
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    lateness(hvd, events, optimizer, stepper(model, optimizer, compiled), phases=ranks[1] + 1)
    check_replayed(hvd, model, optimizer, before)
    if ranks[1] > 1:
        assert count_late(hvd, optimizer) >= ranks[1] - 1


@pytest.mark.parametrize("kind", CLASSES)
def test_full_trains_as_horovod_does(hvd, name, ranks, kind):
    models = []
    for module, settings in ((stock, {}), (hvd, dict(policy="full", name=name))):
        model = build()
        optimizer = module.DistributedOptimizer(make(kind), **settings)
        step = stepper(model, optimizer, compiled=False)
        for number in range(3):
            step(ranks[0], number)
        models.append((model, optimizer))
    assert_close(*[state(*both) for both in models], rtol=1e-4, atol=1e-5)
    assert isinstance(optimizer, getattr(keras.optimizers, kind))
    assert optimizer.round == optimizer.stats()["fresh"] == 3
    check_replayed(hvd, *models[1], build().get_weights())


@pytest.mark.parametrize("policy, kind", [("solo", "Adam"), ("full", "momentum")])
def test_fit(hvd, events, name, ranks, policy, kind):
    rank, size = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(make(kind), policy=policy, name=name,
                                         staleness_bound=100)
    model.compile(optimizer=optimizer, loss="mse")
    before = model.get_weights()
    late = policy == "solo"
    if late:
        optimizer.build(model.trainable_variables)
        optimizer.flush()
    fit(model, batches(rank, 3), epochs=size + 1, build_before=False,
        callbacks=[LateInFit(hvd, events)] if late else [])
    optimizer.flush()
    check_replayed(hvd, model, optimizer, before)
    if late:
        assert size == 1 or count_late(hvd, optimizer) >= 1
        return
    reference = build()
    reference.compile(optimizer=stock.DistributedOptimizer(make(kind)), loss="mse",
                      run_eagerly=True)
    fit(reference, batches(rank, 3), epochs=size + 1)
    assert_close(state(model, optimizer), state(reference, reference.optimizer), rtol=1e-4)


def test_alone_it_is_the_plain_optimizer(hvd, name, ranks):
    if ranks[1] > 1:
        pytest.skip("is about one rank")
    models = []
    for policy in (None, "solo", "majority", "quorum:1", "first:1", "full"):
        models.append(build())
        optimizer = make("Adam") if policy is None else hvd.DistributedOptimizer(
            make("Adam"), policy=policy, name=name + policy)
        step = stepper(models[-1], optimizer, compiled=False)
        for number in range(4):
            step(0, number)
        assert policy is None or optimizer.round == 4
        assert_close(models[-1].get_weights(), models[0].get_weights())


# ------------------------------------------------------------------------------- late and healed


@pytest.mark.parametrize("compiled", [True, False], ids=["function", "eager"])
def test_a_rank_that_merged_is_healed_by_itself(hvd, events, name, ranks, needs_two, compiled):
    rank, size = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(make("Adam"), policy="solo", name=name,
                                         staleness_bound=2)
    step = stepper(model, optimizer, compiled)
    step(rank, 0)
    events.barrier()
    events.run_ahead(hvd, lambda: [step(rank, number) for number in range(6)])
    # Nobody flushes: the next rounds in which all take part do it.
    for number in range(10, 14):
        step(rank, number)
    stats = optimizer.stats()
    assert stats["heals"] == 1
    assert (stats["merged"] > 0) == (rank > 0)
    optimizer.flush()
    assert identical(hvd, *state(model, optimizer))
    assert optimizer.stats()["heals"] == 1  # the flush found nothing to heal


@pytest.mark.parametrize("catch_up", ["sum", "latest"])
def test_drift_is_healed_by_a_flush(hvd, events, name, ranks, catch_up):
    model = build()
    optimizer = hvd.DistributedOptimizer(make("Adam"), policy="solo", name=name,
                                         catch_up=catch_up, staleness_bound=100)
    optimizer.build(model.trainable_variables)
    lateness(hvd, events, optimizer, stepper(model, optimizer, compiled=catch_up == "sum"),
             phases=4)
    optimizer.flush()
    assert identical(hvd, *state(model, optimizer))
    assert optimizer.stats()["heals"] == (1 if ranks[1] > 1 else 0)
    assert optimizer.round == optimizer.stats()["rounds"]


def test_resync_every_and_rounds(hvd, name, ranks, needs_two):
    """In the compiled step."""
    rank, size = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="first:2", name=name,
                                         catch_up="latest", resync_every=5)
    optimizer.build(model.trainable_variables)
    step = stepper(model, optimizer)
    seen = []
    for index in hvd.rounds(optimizer, 25):
        assert index == optimizer.round
        seen.append(index)
        step(rank, index)
    assert seen == sorted(set(seen)) and optimizer.round >= 25
    assert optimizer.stats()["heals"] >= 2
    assert identical(hvd, optimizer.round, *state(model, optimizer))
    list(hvd.rounds(optimizer, 25))  # already there: only its flush
    assert optimizer.round == optimizer.stats()["rounds"]


def test_a_learning_rate_of_each_ranks_own_is_reported_and_healed(hvd, name, ranks, needs_two):
    rank, _ = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.05), policy="full", name=name)
    stepper(model, optimizer, compiled=False)(rank, 0)
    optimizer.learning_rate = 0.01 * (1 + rank)
    with pytest.warns(UserWarning, match="learning rate"):
        optimizer.flush()
    assert identical(hvd, *state(model, optimizer))
    assert_close([optimizer.learning_rate], [0.01])


def test_join_applies_rounds_and_takes_part_in_flushes(hvd, name, ranks):
    """A rank that joined early has the replica of the others in the end."""
    rank, size = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(make("Adam"), policy="first:2", name=name,
                                         staleness_bound=2)
    step = stepper(model, optimizer)
    for number in range(2 + 3 * rank):
        step(rank, number)
    if rank == size - 1:
        optimizer.flush()  # while the others are in join()
    hvd.join()
    optimizer.flush()
    assert identical(hvd, *state(model, optimizer))
    assert optimizer.stats()["merged"] == 0
    total = hvd.allreduce(tf.constant(optimizer.stats()["submissions"]), op=hvd.Sum)
    assert total == sum(2 + 3 * r for r in range(size))


def test_a_process_set_trains_alone(hvd, name, ranks, needs_two):
    rank, size = ranks
    some = hvd.add_process_set(list(range(size - 1)))
    model = build()
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="full", name=name,
                                         process_set=some)
    step = stepper(model, optimizer)
    for number in range(3):
        step(rank, number)
    optimizer.flush()
    assert optimizer.iterations == 3  # the others step by themselves
    assert optimizer.round == (0 if rank == size - 1 else 4)
    weights = [tf.constant(w) for w in model.get_weights()]
    first = [hvd.broadcast(w, 0, name=f"w{i}") for i, w in enumerate(weights)]
    assert (rank == size - 1) != all(np.array_equal(a, b) for a, b in zip(weights, first))
    del model, optimizer, step
    gc.collect()
    barrier(hvd)
    assert hvd.remove_process_set(some)


# --------------------------------------------------------------------- what follows the rounds


def test_before_round_sees_every_round_once(hvd, events, name, ranks):
    model = build()
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="solo", name=name,
                                         staleness_bound=100)
    optimizer.build(model.trainable_variables)
    seen = []

    def before_round(index):
        seen.append(index)
        optimizer.learning_rate = 0.1 / (1 + index)

    handle = optimizer.register_before_round(before_round)
    before = model.get_weights()
    lateness(hvd, events, optimizer, stepper(model, optimizer), phases=4)
    rounds = optimizer.round
    assert seen == list(range(1, rounds))  # round 0 was an empty flush
    check_replayed(hvd, model, optimizer, before)
    seen.clear()
    handle.remove()
    stepper(model, optimizer)(ranks[0], 99)
    optimizer.flush()
    assert not seen


@pytest.mark.parametrize("compiled", [True, False], ids=["function", "eager"])
def test_before_round_sets_the_learning_rate_of_that_round(hvd, name, ranks, compiled):
    weight = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.0), policy="full", name=name)
    optimizer.register_before_round(lambda index: setattr(optimizer, "learning_rate", 2.0**-index))

    def train(gradient):
        optimizer.apply([gradient], [weight])

    step = tf.function(train) if compiled else train
    for _ in range(4):
        step(tf.constant([1.0]))
    assert weight.numpy() == -(1 + 1 / 2 + 1 / 4 + 1 / 8)


def test_a_keras_schedule_follows_rounds(hvd, events, name, ranks):
    model = build()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.9)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(schedule, momentum=0.9),
                                         policy="solo", name=name, staleness_bound=100)
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    lateness(hvd, events, optimizer, stepper(model, optimizer), phases=3)
    assert optimizer.iterations == optimizer.round - 1  # not the empty flush
    check_replayed(hvd, model, optimizer, before)
    assert_close([optimizer.learning_rate], [0.1 * 0.9**int(optimizer.iterations)])


def test_clipping_is_of_the_averaged_gradients(hvd, name, ranks):
    rank, size = ranks
    weight = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0, clipnorm=0.5), policy="full",
                                         name=name)
    optimizer.apply([tf.constant([100.0 if rank == 0 else -100.0 / max(size - 1, 1)])], [weight])
    assert_close(weight.numpy(), [-0.5 if size == 1 else 0.0], atol=1e-4)


# ------------------------------------------------------------------------------ kinds of models


def test_mixed_precision_and_an_overflow_on_one_rank(hvd, name, ranks):
    """compile() wraps ours in a LossScaleOptimizer; an overflow is no submission."""
    rank, size = ranks
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy("float32")
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="solo", name=name,
                                         staleness_bound=100)
    model.compile(optimizer=optimizer, loss="mse")
    assert type(model.optimizer) is keras.optimizers.LossScaleOptimizer
    assert model.optimizer.inner_optimizer is optimizer
    # A scale that none overflows with, and each rank its own.
    model.optimizer.initial_scale = 2.0**(6 + rank)
    before = model.get_weights()
    fit(model, batches(rank, 3))
    assert optimizer.stats()["submissions"] == 3
    check_replayed(hvd, model, optimizer, before)
    x, y = batch(rank, 3)
    fit(model, (x, y * (np.inf if rank == 0 else 1.0)))
    assert optimizer.stats()["submissions"] == (3 if rank == 0 else 4)
    assert model.optimizer.dynamic_scale == 2.0**(6 + rank) * (0.5 if rank == 0 else 1.0)
    check_replayed(hvd, model, optimizer, before)
    assert np.isfinite(model.get_weights()[0]).all()


def test_an_overflow_under_full_keeps_the_ranks_in_step(hvd, name, ranks):
    """Our LossScaleOptimizer submits zeros for it, or the others would wait for ever."""
    rank, size = ranks
    weight = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0), initial_scale=4.0),
        policy="full", name=name)
    step = tf.function(lambda gradient: optimizer.apply([gradient], [weight]))
    for number in range(3):
        overflows = rank == 0 and number == 1
        step(tf.constant([np.inf if overflows else 4.0 * 2**rank], tf.float32))
    optimizer.flush()
    assert optimizer.stats()["submissions"] == 3
    # Rank 0: 1, nothing, and 2, with half the scale.
    assert weight.numpy() == -3 * (2**size - 1) / size
    assert optimizer.dynamic_scale == (2.0 if rank == 0 else 4.0)


def test_full_inside_a_loss_scale_of_keras_is_refused(hvd, name, ranks):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build()
    finally:
        keras.config.set_dtype_policy("float32")
    model.compile(hvd.DistributedOptimizer(make("momentum"), policy="full", name=name), "mse")
    with pytest.raises(ValueError, match="LossScaleOptimizer"):
        fit(model, batches(ranks[0], 1), callbacks=[hvd.callbacks.FlushCallback()])


@pytest.mark.parametrize("kind", ["partial", "synchronous"])
def test_passes_with_gradients_of_different_variables(hvd, name, ranks, kind):
    rank, size = ranks
    a, b = keras.Variable([0.0]), keras.Variable([0.0])
    if kind == "partial":
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), policy="full", name=name,
                                             backward_passes_per_step=2)
    else:
        optimizer = stock.DistributedOptimizer(keras.optimizers.SGD(1.0),
                                               backward_passes_per_step=2)
    optimizer.build([a, b])
    one = tf.constant([1.0])
    optimizer.apply([one, None], [a, b])
    optimizer.apply([None, 2 * one], [a, b])
    assert (a.numpy(), b.numpy()) == (-1, -2)
    optimizer.apply([one, 2 * one], [a, b])
    optimizer.apply([2 * one, one], [b, a])  # in another order
    assert (a.numpy(), b.numpy()) == (-3, -6)


def test_no_gradients_at_all(hvd, name, ranks):
    weight = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), policy="full", name=name)
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply([None], [weight])


def test_compression(hvd, name, ranks):
    rank, size = ranks
    weight = keras.Variable([0.0] * 3)
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), policy="full",
                                         compression=hvd.Compression.fp16, name=name)
    step = tf.function(lambda g: optimizer.apply([g], [weight]))
    step(tf.fill([3], (1 + 2.0**-12) * 2**rank))  # which float16 rounds
    assert weight.numpy().tolist() == [-(2**size - 1) / size] * 3
    optimizer.flush()


@pytest.mark.parametrize("settings, factor", [
    ({}, lambda size: 1 / size), ({"gradient_predivide_factor": 2.0}, lambda size: 1 / size),
    ({"op": "Sum"}, lambda size: 1)], ids=["average", "predivide", "sum"])
def test_op_and_predivide(hvd, name, ranks, settings, factor):
    rank, size = ranks
    if "op" in settings:
        settings = {"op": hvd.Sum}
    weight = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), policy="full", name=name,
                                         **settings)
    optimizer.apply([tf.constant([2.0**rank])], [weight])
    assert weight.numpy() == -(2**size - 1) * factor(size)


@pytest.mark.parametrize("sparse_as_dense", [True, False])
def test_sparse_gradients(hvd, name, ranks, sparse_as_dense):
    rank, size = ranks
    table = keras.layers.Embedding(5, 2, embeddings_initializer="zeros")
    table.build()
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), policy="full", name=name,
                                         sparse_as_dense=sparse_as_dense)

    @tf.function
    def step(words):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(table(words))
        optimizer.apply(tape.gradient(loss, table.trainable_variables),
                        table.trainable_variables)

    if not sparse_as_dense:
        with pytest.raises(NotImplementedError, match="embeddings.*sparse_as_dense=True"):
            step(tf.constant([rank]))
        return
    step(tf.constant([rank, rank]))
    assert table.get_weights()[0][:, 0].tolist() == [-2 / size if i < size else 0.0
                                                     for i in range(5)]


@pytest.mark.parametrize("average", [False, True])
def test_backward_passes_per_step(hvd, name, ranks, average):
    rank, size = ranks
    weight = keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), policy="full", name=name,
                                         backward_passes_per_step=2,
                                         average_aggregated_gradients=average)

    def train(gradient):
        optimizer.apply([gradient], [weight])

    step = train if average else tf.function(train)
    for number in range(1, 5):
        step(tf.constant([2.0**rank]))
        assert optimizer.round == number // 2
        assert weight.numpy() == -(number // 2) * (1 if average else 2) * (2**size - 1) / size
    assert optimizer.stats()["submissions"] == 2


def test_a_gradient_that_is_none_counts_as_zero(hvd, name, ranks):
    rank, size = ranks
    a, b = keras.Variable([0.0]), keras.Variable([0.0])
    optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), policy="full", name=name)
    optimizer.build([a, b])
    gradient = tf.constant([2.0**rank])
    # Another rank may have it, and in another order.
    optimizer.apply([gradient, None if rank == 0 else gradient][::(-1)**rank],
                    [a, b][::(-1)**rank])
    assert a.numpy() == -(2**size - 1) / size and b.numpy() == -(2**size - 2) / size


def test_steps_per_execution(hvd, name, ranks):
    rank, size = ranks
    results = []
    for module, settings, steps in ((hvd, dict(policy="full", name=name), 4), (stock, {}, 1)):
        model = build()
        model.compile(optimizer=module.DistributedOptimizer(make("momentum"), **settings),
                      loss="mse", steps_per_execution=steps, run_eagerly=module is stock)
        fit(model, batches(rank, 8))
        results.append(model)
    assert results[0].optimizer.round == 8
    assert_close(*[model.get_weights() for model in results], rtol=1e-4)


def test_it_takes_over_the_state_of_a_built_optimizer(hvd, name, ranks):
    model = build()
    plain = make("Adam")
    plain.apply(gradients(model, *batch(0, 0)), model.trainable_variables)
    values = [v.numpy() for v in plain.variables]
    optimizer = hvd.DistributedOptimizer(plain, policy="full", name=name)
    assert_close(optimizer.variables, values, 0, 0)
    optimizer.flush()  # it knows its variables
    stepper(model, optimizer)(ranks[0], 1)
    assert optimizer.iterations == 2
    assert identical(hvd, *state(model, optimizer))


# -------------------------------------------------------------------------------- saved models


def test_save_and_load(hvd, name, ranks, tmp_path):
    rank, size = ranks
    model = build()
    model.compile(optimizer=hvd.DistributedOptimizer(make("Adam"), policy="full", name=name),
                  loss="mse")
    fit(model, batches(rank, 2))
    model.optimizer.flush()
    file = str(tmp_path / "model.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.save(file)
    plain = keras.models.load_model(file)
    assert type(plain.optimizer) is keras.optimizers.Adam
    loaded = hvd.load_model(file, policy="full")
    assert loaded.optimizer.stats()["rounds"] == 0
    for other in (plain, loaded):
        assert_close(replica(other, other.optimizer), replica(model, model.optimizer), 0, 0)
    for some in (model, loaded):
        fit(some, batches(rank, 2))
    # The loaded one counts on from the two updates that were saved.
    assert loaded.optimizer.round == loaded.optimizer.iterations == 4
    assert_close(replica(loaded, loaded.optimizer), replica(model, model.optimizer), 0, 0)
    assert identical(hvd, *replica(loaded, loaded.optimizer))


def test_save_and_load_with_a_loss_scale(hvd, name, ranks, tmp_path):
    model = build()
    model.compile(optimizer=hvd.DistributedOptimizer(make("LossScaleOptimizer"), policy="full",
                                                     name=name), loss="mse")
    fit(model, batches(ranks[0], 2))
    file = str(tmp_path / "model.keras")
    model.save(file)
    plain = keras.models.load_model(file)
    assert type(plain.optimizer) is keras.optimizers.LossScaleOptimizer
    assert type(plain.optimizer.inner_optimizer) is keras.optimizers.SGD
    loaded = hvd.load_model(file, policy="full")
    assert_close(replica(loaded, loaded.optimizer), replica(model, model.optimizer), 0, 0)
    loaded.optimizer.flush()
    assert loaded.optimizer.round == 3  # it counts on


def test_saving_what_holds_gradients_warns(hvd, events, name, ranks, needs_two, tmp_path):
    rank, size = ranks
    model = build()
    model.compile(optimizer=hvd.DistributedOptimizer(make("Adam"), policy="solo", name=name,
                                                     staleness_bound=100), loss="mse")
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    step = stepper(model, optimizer, compiled=False)
    optimizer.flush()
    events.barrier()
    file = str(tmp_path / "model.keras")
    if rank == 0:
        step(rank, 0)
        events.set("ahead")
        for other in range(1, size):
            events.wait(f"saved {other}")
    else:
        events.wait("ahead")
        step(rank, 0)  # late, so its gradients wait
        assert optimizer.stats()["holds"]
        with pytest.warns(UserWarning, match="no round has carried"):
            model.save(file)
        events.set(f"saved {rank}")
    optimizer.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.save(file)


# ---------------------------------------------------------------------------- names and errors


def test_a_group_ends_with_its_model(hvd, name, ranks):
    rank, size = ranks
    for how in ("fit", "function", "eager"):
        model = build()
        optimizer = hvd.DistributedOptimizer(make("momentum"), policy="solo", name=name)
        with pytest.raises(ValueError, match="in use"):
            hvd.DistributedOptimizer(make("momentum"), name=name)
        with pytest.raises(ValueError, match="in use"):
            hvd.partial_allreduce([tf.zeros(1)], name)
        if how == "fit":
            model.compile(optimizer=optimizer, loss="mse")
            fit(model, batches(rank, 1))
        else:
            stepper(model, optimizer, how == "function")(rank, 0)
        optimizer.flush()
        assert optimizer.stats()["rounds"] == optimizer.round <= 1 + size
        del model, optimizer
        gc.collect()
    barrier(hvd)


def wrong_calls(hvd, name):
    def optimizer(**kwargs):
        return hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), **kwargs)

    return [
        ("policy", lambda: optimizer(policy="most"), ValueError, "policy='most'"),
        ("bound", lambda: optimizer(staleness_bound=0), ValueError, "staleness_bound=0"),
        ("resync_every 0", lambda: optimizer(resync_every=0), ValueError, "resync_every=0"),
        ("adasum", lambda: optimizer(op=hvd.Adasum), NotImplementedError, "op=Adasum"),
        ("min", lambda: optimizer(op=hvd.Min), ValueError, "op="),
        ("name empty", lambda: optimizer(name=""), ValueError, "name=''"),
        ("groups", lambda: optimizer(groups=-1), ValueError, "groups"),
        ("passes", lambda: optimizer(backward_passes_per_step=0), ValueError,
         "backward_passes_per_step=0"),
        ("predivide", lambda: optimizer(gradient_predivide_factor=0.0), ValueError,
         "gradient_predivide_factor=0.0"),
        ("predivide a sum", lambda: optimizer(gradient_predivide_factor=2.0, op=hvd.Sum),
         ValueError, "gradient_predivide_factor"),
        ("no optimizer", lambda: hvd.DistributedOptimizer("sgd"), ValueError, "optimizer='sgd'"),
        ("wrapped twice", lambda: hvd.DistributedOptimizer(optimizer()), ValueError, "already"),
        ("wrapped twice in a loss scale", lambda: hvd.DistributedOptimizer(
            keras.optimizers.LossScaleOptimizer(optimizer())), ValueError, "already"),
        ("flush before build", lambda: optimizer().flush(), ValueError, "optimizer.build"),
        ("local variables", lambda: optimizer().register_local_var(keras.Variable([0.0])),
         NotImplementedError, "rank's own"),
        ("rounds of a plain optimizer", lambda: hvd.rounds(keras.optimizers.SGD(), 5), ValueError,
         "opt="),
        ("rounds n", lambda: hvd.rounds(optimizer(), -1), ValueError, "n=-1"),
        ("rounds every", lambda: hvd.rounds(optimizer(), 5, every=0), ValueError, "every=0"),
    ]


def test_wrong_calls(hvd, name):
    for what, call, error, message in wrong_calls(hvd, name):
        with pytest.raises(error, match=message):
            call()
            pytest.fail(f"no error: {what}")


def test_xla_is_refused(hvd, name, ranks):
    model = build()
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="full", name=name)
    before = model.get_weights()
    model.compile(optimizer=optimizer, loss="mse", jit_compile=True)
    with pytest.raises(NotImplementedError, match="jit_compile"):
        fit(model, batches(ranks[0], 1))
    with pytest.raises(NotImplementedError, match="jit_compile"):
        tf.function(lambda: optimizer.apply([tf.zeros(v.shape) for v in model.trainable_variables]),
                    jit_compile=True)()
    assert_close(model.get_weights(), before, 0, 0)
    model.compile(optimizer=optimizer, loss="mse")  # 'auto' means no, without a GPU
    fit(model, batches(ranks[0], 1))
    assert optimizer.round == 1


def test_flush_inside_of_a_function_is_refused(hvd, name, ranks):
    model = build()
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="full", name=name)
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="between two steps"):
        tf.function(optimizer.flush)()
    optimizer.flush()


@pytest.mark.parametrize("compiled", [True, False], ids=["function", "eager"])
def test_settings_that_differ_are_an_error_on_every_rank(hvd, name, ranks, needs_two, compiled):
    rank, _ = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="solo" if rank else "full",
                                         name=name)
    before = model.get_weights()
    error = tf.errors.InvalidArgumentError if compiled else ValueError
    with pytest.raises(error, match="policy.*'full' on rank 0"):
        stepper(model, optimizer, compiled)(rank, 0)
    assert_close(model.get_weights(), before, 0, 0)


def test_models_that_differ_are_an_error_on_every_rank(hvd, name, ranks, needs_two):
    model = build(hidden=8 + min(ranks[0], 1))
    optimizer = hvd.DistributedOptimizer(make("momentum"), policy="full", name=name)
    optimizer.build(model.trainable_variables)
    with pytest.raises(ValueError, match="on rank 0 and"):
        optimizer.flush()


def test_the_environment_makes_stock_horovod_partial(hvd, name, ranks, monkeypatch):
    rank, size = ranks
    monkeypatch.setenv("HOROVOD_PARTIAL_POLICY", "full")
    monkeypatch.setenv("HOROVOD_PARTIAL_STALENESS_BOUND", "3")
    model = build()
    optimizer = stock.DistributedOptimizer(make("momentum"), name=name)
    model.compile(optimizer=optimizer, loss="mse")
    fit(model, batches(rank, 2))
    assert optimizer.round == optimizer.stats()["rounds"] == 2
    assert optimizer._training.group.settings.staleness_bound == 3
    assert identical(hvd, *state(model, optimizer))
