"""`again.py torch|tensorflow [MPI]`: several lives of Horovod in one process, each with an end of its
own. Ranks contribute 2**rank. MPI: mpi4py owns MPI, or it would end with the first life."""

import contextlib
import gc
import importlib
import itertools
import sys

if sys.argv[2:]:
    from mpi4py import MPI  # noqa: F401

framework = sys.argv[1]
module = f"horovod_partial.{framework}"
hvd = importlib.import_module(module)
groups = importlib.import_module(module + ".ops").partial_groups

from trainer import Trainer  # noqa: E402

from horovod.common.exceptions import HorovodInternalError  # noqa: E402

if framework == "torch":
    import torch

    def array(values):
        return torch.tensor(values)

    def values(tensor):
        return tensor.tolist()
else:
    import tensorflow as tf

    import horovod_partial.tensorflow.keras as hvd_keras

    def array(values):
        return tf.constant(values)

    def values(tensor):
        return tensor.numpy().tolist()


def raises(kind, text, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no error from {function}")


gone = (HorovodInternalError,) if framework == "torch" else (HorovodInternalError, tf.errors.OpError)


class Model:
    """What Keras's callbacks need of one."""

    def __init__(self, optimizer):
        self.optimizer = optimizer


def state():
    """Of this process: what no wrong call may change."""
    gc.collect()
    trained = [(some.drifted, some.round, some._journal.stats()["staleness_histogram"])
               for some in groups.training]
    return (dict(groups.names._users), dict(groups._definitions), dict(groups._submitted), trained,
            repr(groups._numbers))


def without_horovod(survivor):
    """Before hvd.init() and after hvd.shutdown(), also of an optimizer of an earlier life: the
    error is always Horovod's own, and nothing stays behind."""
    calls = [lambda: hvd.partial_allreduce([array([1.0])], "group"),
             lambda: hvd.partial_flush("group"),
             lambda: hvd.partial_stats("group"),
             lambda: Trainer(module),
             lambda: Trainer(module, name="early")]
    if survivor is not None:
        calls += [survivor.optimizer.step if framework == "torch" else survivor.step,
                  survivor.optimizer.flush, survivor.optimizer.stats,
                  lambda: hvd.rounds(survivor.optimizer, 5)]
    if framework == "torch":
        calls += [lambda: hvd.partial_allreduce_async([array([1.0])], "group")]
    else:
        weight = tf.Variable(1.0)

        def legacy():
            optimizer = hvd.DistributedOptimizer(
                tf.compat.v1.train.GradientDescentOptimizer(1.0))
            optimizer.compute_gradients(lambda: weight * weight, [weight])

        def taped():
            with tf.GradientTape() as tape:
                loss = weight * weight
            hvd.DistributedGradientTape(tape).gradient(loss, [weight])

        calls += [lambda: Trainer(module + ".keras"), legacy, taped,
                  tf.function(lambda: hvd.partial_allreduce([array([1.0])], "group"))]
        if survivor is not None:
            for callback in (hvd_keras.callbacks.StopAtRound(5),
                             hvd_keras.callbacks.ParticipationCallback()):
                callback.set_model(Model(survivor.optimizer))
                calls.append(callback.on_train_begin)
    before = state()
    for call in calls:
        raises((ValueError, *gone), "Horovod has not been initialized", call)
    with hvd.excused():  # nobody waits for this rank anyway
        pass
    assert state() == before, (before, state())
    if survivor is not None:
        checkpoint(survivor.optimizer)


def checkpoint(optimizer):
    """Horovod need not be there any more."""
    if framework == "torch":
        assert optimizer.state_dict()["horovod_partial"] == {"round": optimizer.round}
    else:
        optimizer.save_own_variables({})


without_horovod(None)
survivor = None  # an optimizer of several lives
stale = []  # handles of an earlier life
for life in range(5):
    hvd.init()
    rank, size = hvd.rank(), hvd.size()
    everybody = 2.0**size - 1

    # Names are free again, whoever had them, and numbers start anew.
    for step in range(3):
        round, = hvd.partial_allreduce([array([2.0**rank] * (2 + life))], "group", policy="full",
                                       op=hvd.Sum)
        assert round.index == step and values(round.tensors[0]) == [everybody] * (2 + life), round
    newcomer = Trainer(module, name="plain" if life % 2 else "newcomer")
    if life % 2 == 0:
        hvd.partial_allreduce([array([1.0])], "plain", policy="full")
    survivor = survivor or Trainer(module, name="survivor")
    if life == 0:
        # Calls without Horovod have taken no number.
        assert Trainer(module).optimizer.stats()["name"] == "optimizer.0"
    for trainer in (newcomer, survivor):
        before = -trainer.weight()
        for step in range(5):
            trainer.step()
        trainer.optimizer.flush()
        assert trainer.weight() == -(before + 5 * size), (life, trainer.weight())
        stats = trainer.optimizer.stats()
        assert stats["submissions"] == sum(stats["staleness_histogram"]) == 5, stats
    assert survivor.weight() == -5 * size * (life + 1)
    del newcomer, trainer

    if size > 1 and life == 1:
        # Operations that fail, and do no harm.
        raises(gone, "Mismatched ALLREDUCE tensor shapes", hvd.allreduce,
               array([1.0] * (2 + rank)), name="uneven")
        raises(ValueError, "must be the same on every rank", hvd.partial_allreduce,
               [array([1.0] * (2 + rank))], "uneven")
        assert values(hvd.allreduce(array([2.0**rank]), op=hvd.Sum)) == [everybody]
    if framework == "torch":
        mine = hvd.grouped_allreduce_async([array([2.0**rank])] * 2, name="grouped", op=hvd.Sum)
        for handle in stale:
            raises(HorovodInternalError, "shut down", hvd.synchronize, handle)
        assert [values(tensor) for tensor in hvd.synchronize(mine)] == [[everybody]] * 2
        stale = []
        if rank == 0 and size > 1:
            # Operations that other ranks never submit.
            stale = [hvd.allreduce_async(array([1.0]), name="alone"),
                     hvd.grouped_allreduce_async([array([1.0])] * 2, name="grouped")]
    # Nobody looks any more at what the failure below takes away.
    hvd.allreduce(array([1.0]), name="all are here")
    if size > 1 and life == 3 and rank == size - 1:
        # A failure, which ends this life for all.
        try:
            raise RuntimeError
        except RuntimeError:
            hvd.shutdown()
    elif size > 1 and life == 3:
        if framework == "torch":
            # Horovod ends while this rank submits.
            with contextlib.suppress(HorovodInternalError):
                stale += [hvd.partial_allreduce_async([array([1.0])], "late", policy="full")]
                for number in itertools.count():
                    stale += [hvd.allreduce_async(array([1.0]), name=f"late.{number}")]
        else:
            raises(gone, "shut down", hvd.partial_allreduce, [array([1.0])], "late", policy="full")
        raises(gone, "shut down", hvd.allreduce, array([1.0]))
    if size > 1 and life == 3 and rank < size - 1:
        before = state()
        raises((ValueError, *gone), "Horovod has", hvd.partial_allreduce, [array([1.0])], "late",
               policy="full")
        assert state() == before, (before, state())
        checkpoint(survivor.optimizer)
    hvd.shutdown()
    hvd.shutdown()  # once more: no harm
    survivor.save()

    without_horovod(survivor)
    raises((ValueError, *gone), "init", hvd.allreduce, array([1.0]))
print(f"rank {rank} had {life + 1} lives", flush=True)
