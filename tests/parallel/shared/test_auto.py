"""Policy auto on real ranks, in every framework. How long steps take is told, not measured; what
follows from it is in tests/core/test_tuner.py."""

import pytest

from test_replicas import identical


@pytest.fixture
def pretend(fw):
    """Steps are taken to have lasted so many seconds on this rank."""
    library = fw.library()
    yield library.pretend_step
    library.pretend_step(0)


def steps_until(trainer, rank, k, most=5000):
    """Trains until so many ranks have to be ready, as this rank sees it."""
    for step in range(most):
        if trainer.optimizer.stats()["k"] == k:
            return
        trainer.step(rank, step)
    raise AssertionError(f"K is {trainer.optimizer.stats()['k']} after {most} steps, not {k}")


def test_all_ranks_change_k_at_the_same_round(fw, hvd, name, ranks, pretend):
    rank, size = ranks
    trainer = fw.trainer("momentum", policy="auto", name=name, staleness_bound=100)
    slow = size - 1
    pretend(4.0 if rank == slow else 1.0)
    trainer.step(rank, 0)
    assert trainer.optimizer.stats()["k"] == size
    steps_until(trainer, rank, max(slow, 1))
    trainer.optimizer.flush()
    assert identical(fw, trainer)
    # Ranks are even again. (If they were so to the last bit, fewer would be as good as all.)
    pretend(1.0 + 0.01 * rank)
    steps_until(trainer, rank, size)
    trainer.optimizer.flush()
    assert identical(fw, trainer)

    stats = trainer.optimizer.stats()
    assert stats["policy"] == "auto" and stats["heals"] == 0
    changes = stats["k_changes"]
    if size == 1:
        assert changes == []
        return
    assert changes[0]["before"] == size and changes[-1]["k"] == size
    assert all(change["why"].startswith("predicted score") for change in changes)
    mine = [[float(change[key]) for key in ("round", "before", "k")] for change in changes]
    everybody = fw.numpy(hvd.allgather(fw.tensor([mine]), name=name)).tolist()
    assert everybody == [mine] * size


def test_partial_allreduce_says_k(fw, hvd, name, ranks):
    hvd.partial_allreduce([fw.code(ranks[0])], name, policy="auto")
    stats = hvd.partial_stats(name)
    assert (stats["k"], stats["k_changes"]) == (ranks[1], [])
    hvd.partial_allreduce([fw.code(ranks[0])], name + ".solo", policy="solo")
    assert hvd.partial_stats(name + ".solo")["k"] is None
