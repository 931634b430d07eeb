"""Wrong calls in TensorFlow and Keras: one row each. What every framework has: tests/parallel/shared."""

import concurrent.futures

import keras
import pytest
import tensorflow as tf


def wrapped(hvd, **kwargs):
    return hvd.DistributedOptimizer(keras.optimizers.SGD(0.1), **kwargs)


def legacy(hvd, **kwargs):
    return hvd.DistributedOptimizer(tf.compat.v1.train.GradientDescentOptimizer(0.1), **kwargs)


def tape(hvd, **kwargs):
    with tf.GradientTape() as plain:
        pass
    return hvd.DistributedGradientTape(plain, **kwargs)


def slices():
    return tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0]), tf.constant([3, 2]))


def in_graph(call):
    return tf.function(call)()


def compiled(hvd):
    return tf.function(lambda: hvd.partial_allreduce([tf.zeros(1)], "xla"), jit_compile=True)()


def calls(hvd):
    return [
        ("resync_every 0", lambda: wrapped(hvd, resync_every=0), ValueError, "resync_every=0"),
        ("adasum", lambda: wrapped(hvd, op=hvd.Adasum), NotImplementedError, "op=Adasum"),
        ("adasum legacy", lambda: legacy(hvd, op=hvd.Adasum), NotImplementedError, "op=Adasum"),
        ("adasum tape", lambda: tape(hvd, op=hvd.Adasum), NotImplementedError, "op=Adasum"),
        ("max", lambda: wrapped(hvd, op=hvd.Max), ValueError, "op="),
        ("name empty", lambda: wrapped(hvd, name=""), ValueError, "name=''"),
        ("name no string", lambda: tape(hvd, name=3), ValueError, "name=3"),
        ("groups", lambda: wrapped(hvd, groups=-1), ValueError, "groups"),
        ("passes", lambda: wrapped(hvd, backward_passes_per_step=0), ValueError,
         "backward_passes_per_step=0"),
        ("predivide", lambda: wrapped(hvd, gradient_predivide_factor=0.0), ValueError,
         "gradient_predivide_factor=0.0"),
        ("predivide and Sum",
         lambda: wrapped(hvd, gradient_predivide_factor=2.0, op=hvd.Sum), ValueError,
         "gradient_predivide_factor"),
        ("no optimizer", lambda: hvd.DistributedOptimizer(3), ValueError, "optimizer=3"),
        ("wrapped twice", lambda: hvd.DistributedOptimizer(wrapped(hvd)), ValueError, "already"),
        ("legacy twice", lambda: hvd.DistributedOptimizer(legacy(hvd)), ValueError, "already"),
        ("legacy resync", lambda: legacy(hvd, resync_every=5), NotImplementedError,
         "resync_every=5"),
        ("local variable", lambda: wrapped(hvd).register_local_var(tf.Variable(1.0)),
         NotImplementedError, "own"),
        ("flush before build", lambda: wrapped(hvd).flush(), ValueError, "build"),
        ("rounds of a plain optimizer", lambda: hvd.rounds(keras.optimizers.SGD(), 5), ValueError,
         "opt="),
        ("flush of v1 before a step", lambda: legacy(hvd).flush(), ValueError, "compute_gradients"),
        ("rounds of v1 before a step", lambda: hvd.rounds(legacy(hvd), 5).__next__(), ValueError,
         "compute_gradients"),
        ("rounds n", lambda: hvd.rounds(wrapped(hvd), -1), ValueError, "n=-1"),
        ("rounds every", lambda: hvd.rounds(wrapped(hvd), 5, every=0), ValueError, "every=0"),
        ("rounds at_flush", lambda: hvd.rounds(wrapped(hvd), 5, at_flush=3), ValueError,
         "at_flush=3"),
        ("stop at", lambda: hvd.callbacks.StopAtRound(-1), ValueError, "n=-1"),
        ("stop every", lambda: hvd.callbacks.StopAtRound(5, every=0), ValueError, "every=0"),
        ("stop at_flush", lambda: hvd.callbacks.StopAtRound(5, at_flush=3), ValueError,
         "at_flush=3"),
        ("schedule", lambda: hvd.callbacks.RoundSchedule(0.1), ValueError, "schedule=0.1"),
        ("no tensors", lambda: hvd.partial_allreduce([], "e"), ValueError, "tensors must be"),
        ("a tensor for a list", lambda: hvd.partial_allreduce(tf.zeros(2), "e"), ValueError,
         "tensors must be"),
        ("integers", lambda: hvd.partial_allreduce([tf.zeros(2, tf.int32)], "e"), ValueError,
         r"tensors\[0\] is of int32"),
        ("integers in a graph",
         lambda: in_graph(lambda: hvd.partial_allreduce([tf.zeros(2, tf.int32)], "e")),
         ValueError, r"tensors\[0\] is of int32"),
        ("sparse", lambda: hvd.partial_allreduce([slices()], "e"), NotImplementedError, "sparse"),
        ("min", lambda: hvd.partial_allreduce([tf.zeros(2)], "e", op=hvd.Min), ValueError, "op="),
        ("no name", lambda: hvd.partial_allreduce([tf.zeros(2)], ""), ValueError, "name=''"),
        ("xla", lambda: compiled(hvd), NotImplementedError, "XLA"),
        ("flush no name", lambda: hvd.partial_flush(None), ValueError, "name=None"),
        ("flush in a graph first", lambda: in_graph(lambda: hvd.partial_flush("nothing")),
         ValueError, "comes after partial_allreduce"),
        ("stats of nothing", lambda: hvd.partial_stats("nothing"), ValueError,
         "name='nothing': there is no such group"),
        ("tape never used",
         lambda: hvd.flush_gradients(keras.optimizers.SGD(), [tf.Variable(1.0)]), ValueError,
         "take a step first"),
    ]


def test_calls(hvd, unchanged):
    for what, call, error, message in calls(hvd):
        with pytest.raises(error, match=message):
            call()
            pytest.fail(f"no error: {what}")


def test_settings_that_differ_in_a_graph(hvd, name, ranks, needs_two):
    """On every rank, with the message, as TensorFlow's kind of error."""
    @tf.function
    def reduce():
        return hvd.partial_allreduce([tf.zeros(1)], name, staleness_bound=5 + min(ranks[0], 1))

    with pytest.raises(tf.errors.InvalidArgumentError, match="staleness_bound.*5 on rank 0"):
        reduce()


MODELS = [
    ("shape", lambda r: [[2 + r]], r"tensor 0.*float32 \(2\) on rank 0 and .*\(3\) on rank"),
    ("number", lambda r: [[2]] * (1 + r), "the number of tensors.*1 on rank 0 and 2 on rank"),
]


@pytest.mark.parametrize("what, shapes, message", MODELS, ids=[row[0] for row in MODELS])
def test_models_that_differ_are_an_error_on_every_rank(hvd, unchanged, name, ranks, needs_two, what,
                                                       shapes, message):
    variables = [keras.Variable(tf.zeros(shape)) for shape in shapes(min(ranks[0], 1))]
    made = wrapped(hvd, name=name)
    made.build(variables)
    with pytest.raises(ValueError, match=message):
        made.apply([tf.ones(v.shape) for v in variables], variables)
    with pytest.raises(ValueError, match=message):
        made.flush()
    assert made.round == 0 and not variables[0].numpy().any()


def test_a_second_submission_is_refused_and_the_first_one_goes_on(hvd, events, name, ranks):
    """Of another thread: a call waits."""
    rank, size = ranks

    def submit():
        return hvd.partial_allreduce([tf.ones(1)], name, policy="full", op=hvd.Sum)

    submit()
    if rank == 0 and size > 1:  # full waits for the others, who come when one of the two is over
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            both = [pool.submit(submit) for _ in range(2)]
            over, waiting = concurrent.futures.wait(
                both, return_when=concurrent.futures.FIRST_COMPLETED)
            events.set("refused")
            (refused,), (first,) = over, waiting
            with pytest.raises(ValueError, match="outstanding"):
                refused.result()
            done, = first.result()
    else:
        if size > 1:
            events.wait("refused")
        done, = submit()
    assert done.index == 1 and done.tensors[0].numpy().tolist() == [size]
