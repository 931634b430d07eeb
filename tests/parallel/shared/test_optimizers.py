"""Several optimizers at once, and what else a training does: metrics, evaluations, join()."""

import gc

import numpy as np
import pytest

from test_replicas import identical


def compute(times):
    for _ in range(times):
        np.linalg.svd(np.ones((40, 40)))


def submissions(fw, trainer):
    """Of all ranks."""
    mine = float(trainer.optimizer.stats()["submissions"])
    return fw.values(fw.hvd.allreduce(fw.tensor([mine]), op=fw.hvd.Sum, name="submissions"))[0]


@pytest.mark.parametrize("policies", [("majority", "first:2"), ("quorum:2", "solo")])
def test_the_two_optimizers_of_a_gan(fw, hvd, name, ranks, policies):
    """In opposite order on different ranks, from their first steps on, and one of them more
    often."""
    rank, size = ranks
    one, other = (fw.trainer("momentum", policy=policy, name=name + policy, staleness_bound=1)
                  for policy in policies)
    for step in range(6):
        if rank % 2:
            turns = one, one, other
        else:
            turns = other, one
        for trainer in turns:
            trainer.step(rank, step)
    for trainer in (one, other):
        trainer.optimizer.flush()
        assert identical(fw, trainer)
    assert submissions(fw, one) == 6 * sum(1 + r % 2 for r in range(size))
    assert submissions(fw, other) == 6 * size


def test_evaluations_of_different_length_and_averaged_metrics(fw, hvd, name, ranks):
    """Each rank has its own number of batches to train and to evaluate in an epoch; whoever waits
    in a metric average holds nobody up."""
    rank, size = ranks
    trainer = fw.trainer("adam", policy=f"quorum:{size}", name=name, staleness_bound=1)
    for epoch in range(3):
        for step in range(2 + (rank + epoch) % 3):
            trainer.step(rank, step)
        compute(10 * ((rank + epoch) % 4))
        metric = hvd.allreduce(fw.tensor([float(rank + epoch)]), name="metric")
        assert fw.values(metric) == [epoch + (size - 1) / 2]
        assert hvd.broadcast_object(epoch - rank, root_rank=0) == epoch
        trainer.optimizer.flush()
        assert identical(fw, trainer)
        assert hvd.allgather_object(rank * epoch) == [r * epoch for r in range(size)]
    assert submissions(fw, trainer) == sum(2 + (r + e) % 3 for r in range(size) for e in range(3))


@pytest.mark.parametrize("policy", ["solo", "quorum:2"])
def test_join_per_epoch_with_two_optimizers(fw, hvd, name, ranks, policy):
    """Uneven numbers of batches, none at all, flushes while others have joined, and training
    again afterwards. A rank in join() keeps up with both."""
    rank, size = ranks
    pair = [fw.trainer(kind, policy=policy, name=name + kind, staleness_bound=2)
            for kind in ("adam", "momentum")]
    expected = 0
    for epoch in range(3):
        batches = [3 * ((r + epoch) % 3) for r in range(size)]
        expected += sum(batches)
        for step in range(batches[rank]):
            for trainer in pair if rank % 2 else reversed(pair):
                trainer.step(rank, step)
        if batches[rank] == max(batches):
            pair[epoch % 2].optimizer.flush()
        assert 0 <= hvd.join() < size
    for trainer in pair:
        trainer.optimizer.flush()
        assert identical(fw, trainer)
        assert submissions(fw, trainer) == expected
        assert trainer.optimizer.round == trainer.optimizer.stats()["rounds"]


def test_an_optimizer_that_is_garbage_stays_until_join_is_over(fw, hvd, name, ranks, needs_two):
    """Or the rank would take part in its group's rounds while it gives the group up."""
    rank, _ = ranks
    kept, dropped = (fw.trainer("sgd", policy="solo", name=name + which)
                     for which in ("kept", "dropped"))
    dropped.cycle = dropped
    del dropped
    kept.optimizer.register_before_round(lambda round_: gc.collect())
    if rank > 0:
        kept.step(rank, 0)
    hvd.join()
    kept.optimizer.flush()
    assert identical(fw, kept)
