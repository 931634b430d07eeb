"""Where one gradient only can be returned: DistributedGradientTape and tf.compat.v1.train."""

import gc

import keras
import numpy as np
import pytest
import tensorflow as tf

from models import assert_close, build, identical, replica, tape_step

import horovod.tensorflow as stock

both = pytest.mark.parametrize("compiled", [True, False], ids=["function", "eager"])


def late_for_one_phase(events, rank, size, step):
    """All but the last rank take three steps before that one takes its own."""
    if rank == size - 1:
        for other in range(size - 1):
            events.wait(f"done by {other}")
        step(rank, 0)
    else:
        for number in range(3):
            step(rank, number)
        events.set(f"done by {rank}")


@both
def test_a_late_rank_gets_the_sum_of_its_pending_rounds(hvd, events, name, ranks, needs_two,
                                                        compiled):
    rank, size = ranks
    weight = keras.Variable([0.0])

    def gradient(factor):
        with tf.GradientTape() as tape:
            loss = factor * tf.reduce_sum(weight)
        tape = hvd.DistributedGradientTape(tape, policy="solo", op=hvd.Sum, name=name,
                                           staleness_bound=100)
        return tape.gradient(loss, [weight])[0]

    run = tf.function(gradient) if compiled else gradient
    assert run(tf.constant(2.0**rank)) == 2**size - 1  # round 0 has all
    events.barrier()
    if rank == 0:
        for number in (1.0, 2.0, 4.0):
            assert run(tf.constant(number)) == number
        events.set("three rounds")
        for other in range(1, size):
            events.wait(f"took {other}")
    else:
        events.wait("three rounds")
        assert run(tf.constant(8.0 * rank)) == 7.0
        events.set(f"took {rank}")
    # What is in the send buffers comes with the flush.
    hvd.flush_gradients(keras.optimizers.SGD(1.0), [weight])
    assert weight.numpy() == -8.0 * sum(range(size))


@both
def test_flush_gradients_heals(hvd, events, name, ranks, compiled):
    rank, size = ranks
    model = build()
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    step = tape_step(hvd, model, optimizer, compiled, policy="solo", name=name,
                     staleness_bound=100)
    step(rank, 9)
    late_for_one_phase(events, rank, size, step)
    hvd.flush_gradients(optimizer, model.trainable_variables)
    assert identical(hvd, *replica(model, optimizer))
    step(rank, 10)
    hvd.flush_gradients(optimizer, model.trainable_variables)
    assert identical(hvd, *replica(model, optimizer))


def test_variables_that_come_and_go(hvd, name, ranks):
    """A tape's group ends with any of its variables: a trunk gets a new head, a flush finds no
    group that has lost its own."""
    _, size = ranks
    trunk = tf.Variable([0.0])
    optimizer = keras.optimizers.SGD(1.0)
    for fold in range(2):
        head = tf.Variable([1.0])
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(trunk + head)
        tape = hvd.DistributedGradientTape(tape, policy="full", op=hvd.Sum)
        assert [float(g[0]) for g in tape.gradient(loss, [trunk, head])] == [size, size]
        hvd.flush_gradients(optimizer, [trunk, head])
        del head, tape
        gc.collect()


def test_resync_every_of_the_environment_is_not_passed_over_in_silence(hvd, name, monkeypatch):
    monkeypatch.setenv("HOROVOD_PARTIAL_RESYNC_EVERY", "5")
    with pytest.warns(UserWarning, match="RESYNC_EVERY=5 has no effect"):
        hvd.DistributedOptimizer(LEGACY["momentum"](), name=name)


@both
@pytest.mark.parametrize("settings", [{}, {"gradient_predivide_factor": 2.0}, {"op": "Sum"}],
                         ids=["average", "predivide", "sum"])
def test_full_is_horovods_tape(hvd, name, ranks, settings, compiled):
    rank, size = ranks
    if "op" in settings:
        settings = {"op": hvd.Sum}
    models = []
    for module, more in ((stock, {}), (hvd, dict(policy="full", name=name))):
        models.append(build())
        step = tape_step(module, models[-1], keras.optimizers.SGD(0.05), compiled, **settings,
                         **more)
        for number in range(2):
            step(rank, number)
    assert_close(*[model.get_weights() for model in models])
    assert identical(hvd, *models[1].get_weights())


def test_compression_of_the_tape(hvd, name, ranks):
    rank, size = ranks
    weight = keras.Variable([0.0])
    with tf.GradientTape() as tape:
        loss = (1 + 2.0**-12) * 2.0**rank * tf.reduce_sum(weight)  # which float16 rounds
    tape = hvd.DistributedGradientTape(tape, policy="full", name=name,
                                       compression=hvd.Compression.fp16)
    reduced, = tape.gradient(loss, [weight])
    assert reduced.dtype == tf.float32 and reduced.numpy() == (2**size - 1) / size


@pytest.mark.parametrize("sparse_as_dense", [True, False])
def test_sparse_gradients_of_the_tape(hvd, name, ranks, sparse_as_dense):
    rank, size = ranks
    table = tf.Variable(tf.zeros([5, 2]))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.gather(table, [rank]))
    tape = hvd.DistributedGradientTape(tape, policy="full", name=name,
                                       sparse_as_dense=sparse_as_dense)
    if not sparse_as_dense:
        with pytest.raises(NotImplementedError, match="sparse_as_dense=True"):
            tape.gradient(loss, [table])
        return
    reduced, = tape.gradient(loss, [table])
    assert reduced[:, 0].numpy().tolist() == [1 / size if i < size else 0.0 for i in range(5)]


def test_wrong_calls(hvd, name):
    def tape(**settings):
        return hvd.DistributedGradientTape(tf.GradientTape(), **settings)

    plain = tf.compat.v1.train.GradientDescentOptimizer(0.1)
    for call, error, message in [
            (lambda: tape(policy="most"), ValueError, "policy='most'"),
            (lambda: tape(catch_up="skip"), ValueError, "catch_up='skip'"),
            (lambda: tape(op=hvd.Adasum), NotImplementedError, "Adasum"),
            (lambda: tape(name=""), ValueError, "name=''"),
            (lambda: hvd.flush_gradients(keras.optimizers.SGD(), [tf.Variable(0.0)]), ValueError,
             "take a step first"),
            (lambda: hvd.DistributedOptimizer(hvd.DistributedOptimizer(plain)), ValueError,
             "already"),
            (lambda: hvd.DistributedOptimizer(plain, resync_every=5), NotImplementedError,
             "resync_every=5"),
            (lambda: hvd.DistributedOptimizer(plain, op=hvd.Adasum), NotImplementedError,
             "Adasum"),
            (lambda: hvd.DistributedOptimizer(plain).register_local_var(tf.Variable(0.0)),
             NotImplementedError, "rank's own")]:
        with pytest.raises(error, match=message):
            call()
            pytest.fail(f"no error: {message}")


# ------------------------------------------------------------------------- tf.compat.v1.train

LEGACY = {
    "sgd": lambda: tf.compat.v1.train.GradientDescentOptimizer(0.5),
    "momentum": lambda: tf.compat.v1.train.MomentumOptimizer(0.05, 0.9),
    "adam": lambda: tf.compat.v1.train.AdamOptimizer(0.05),
}


def target(rank, number):
    return np.array([2.0**rank, -float(number)], np.float32)


def eager_step(optimizer, weight):
    def step(rank, number):
        optimizer.minimize(
            lambda: tf.reduce_sum(tf.square(weight - target(rank, number))), var_list=[weight])

    return step


@pytest.mark.parametrize("kind", LEGACY)
def test_an_eager_optimizer_of_v1(hvd, events, name, ranks, kind):
    rank, size = ranks
    weights = []
    for module, more in ((stock, {}), (hvd, dict(policy="full", name=name))):
        weights.append(tf.Variable([1.0, 1.0]))
        step = eager_step(module.DistributedOptimizer(LEGACY[kind](), **more), weights[-1])
        for number in range(3):
            step(rank, number)
    assert_close(weights[:1], weights[1:])
    # And late.
    weight = tf.Variable([1.0, 1.0])
    optimizer = hvd.DistributedOptimizer(LEGACY[kind](), policy="solo", name=name + "late",
                                         staleness_bound=100)
    step = eager_step(optimizer, weight)
    step(rank, 9)
    late_for_one_phase(events, rank, size, step)
    optimizer.flush()
    assert identical(hvd, weight, *optimizer.variables())
    stats = optimizer.stats()
    assert optimizer.round == stats["rounds"] and stats["flushes"] == 1
    assert stats["submissions"] == (2 if rank == size - 1 else 4)


@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_an_optimizer_of_v1_in_a_session(hvd, events, name, ranks, kind):
    rank, size = ranks
    with tf.Graph().as_default():
        goal = tf.compat.v1.placeholder(tf.float32, [2])
        weight = tf.compat.v1.get_variable("weight", initializer=[1.0, 1.0])
        optimizer = hvd.DistributedOptimizer(LEGACY[kind](), policy="solo", name=name,
                                             staleness_bound=100)
        train = optimizer.minimize(tf.reduce_sum(tf.square(weight - goal)))
        with tf.compat.v1.Session() as session:
            session.run(tf.compat.v1.global_variables_initializer())
            tf.compat.v1.get_default_graph().finalize()  # as MonitoredTrainingSession does

            def step(rank, number):
                session.run(train, {goal: target(rank, number)})

            step(rank, 9)
            late_for_one_phase(events, rank, size, step)
            optimizer.flush(session)
            mine = session.run([weight, *optimizer.variables()])
            step(rank, 10)
            optimizer.flush(session)
            after = session.run([weight, *optimizer.variables()])
        stats = optimizer.stats()
    assert not np.array_equal(mine[0], [1, 1]) and not np.array_equal(mine[0], after[0])
    assert identical(hvd, *mine) and identical(hvd, *after)
    assert stats["flushes"] == 2 and optimizer.round == stats["rounds"]


def test_backward_passes_per_step_in_a_session(hvd, name, ranks):
    rank, size = ranks
    with tf.Graph().as_default():
        weight = tf.compat.v1.get_variable("weight", initializer=[0.0])
        optimizer = hvd.DistributedOptimizer(
            tf.compat.v1.train.GradientDescentOptimizer(1.0), policy="full", name="passes",
            backward_passes_per_step=2)
        train = optimizer.minimize(2.0**rank * tf.reduce_sum(weight))
        with tf.compat.v1.Session() as session:
            session.run([tf.compat.v1.global_variables_initializer(),
                         tf.compat.v1.local_variables_initializer()])  # Horovod's are local
            for number in range(1, 5):
                session.run(train)
                assert session.run(weight) == -(number // 2) * 2 * (2**size - 1) / size
        assert optimizer.round == 2


def test_the_environment_makes_stock_horovod_partial(hvd, name, ranks, monkeypatch):
    rank, size = ranks
    monkeypatch.setenv("HOROVOD_PARTIAL_POLICY", "full")
    weight = tf.Variable([1.0, 1.0])
    optimizer = stock.DistributedOptimizer(LEGACY["momentum"]())
    step = eager_step(optimizer, weight)
    model, plain = build(), keras.optimizers.SGD(0.05)
    tape = tape_step(stock, model, plain, compiled=False)
    for number in range(2):
        step(rank, number)
        tape(rank, number)
    hvd.flush_gradients(optimizer, [weight])
    hvd.flush_gradients(plain, model.trainable_variables)
    assert identical(hvd, weight, *optimizer.variables(), *replica(model, plain))
    monkeypatch.delenv("HOROVOD_PARTIAL_POLICY")
    other = tf.Variable([1.0, 1.0])
    step = eager_step(stock.DistributedOptimizer(LEGACY["momentum"]()), other)
    for number in range(2):
        step(rank, number)
    assert_close([weight], [other])
    with pytest.raises(ValueError, match="take a step first"):  # it was not partial
        hvd.flush_gradients(plain, [other])
