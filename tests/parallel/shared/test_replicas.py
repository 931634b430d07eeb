"""DistributedOptimizer on real ranks, in every framework: replicas, heals, flushes, rounds."""

import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horovod.common.exceptions import HorovodInternalError
from horovod_partial import _native, groups

from frameworks import KINDS


def identical(fw, trainer):
    """Whether parameters and optimizer state are the same on all ranks, bit for bit."""
    mine = np.frombuffer(trainer.digest(), np.uint8).astype(np.float32)
    everybody = fw.numpy(fw.hvd.allgather(fw.tensor([mine.tolist()]), name="digest"))
    return all(np.array_equal(everybody[0], other) for other in everybody)


def lateness(fw, events, trainer, phases):
    trainer.optimizer.flush()  # registers the group
    events.late_phases(lambda step: trainer.step(fw.hvd.rank(), step), phases)


@pytest.mark.parametrize("kind", KINDS)
def test_replicas_are_identical_after_many_late_rounds(fw, hvd, events, name, ranks, kind):
    trainer = fw.trainer(kind, policy="solo", name=name, staleness_bound=100)
    before = trainer.weights()
    lateness(fw, events, trainer, phases=8)
    trainer.optimizer.flush()
    stats = trainer.optimizer.stats()
    assert identical(fw, trainer)
    assert trainer.optimizer.round == stats["rounds"]
    assert stats["merged"] == stats["heals"] == 0  # identical by replay, not by healing
    found = stats["staleness_histogram"]
    assert (sum(found), sum(found[1:])) == (stats["submissions"], stats["late"])
    assert sum(i * times for i, times in enumerate(found)) == pytest.approx(
        stats["mean_staleness"] * stats["submissions"])
    assert len(stats["step_seconds"]) == stats["submissions"] - 1
    if ranks[1] > 1:
        late = hvd.allreduce(fw.tensor([float(stats["late"])]), op=hvd.Sum, name=name)
        assert fw.values(late)[0] >= 4
    assert any(not np.array_equal(a, b) for a, b in zip(before, trainer.weights()))


@pytest.mark.parametrize("op", ["Average", "Sum"])
@pytest.mark.parametrize("kind", ["momentum", "adam"])
def test_full_trains_as_horovod_does(fw, hvd, name, ranks, kind, op):
    """Policy full and stock Horovod: the same model after the same steps."""
    op = getattr(hvd, op)
    stock = fw.trainer(kind, hvd=fw.stock(), op=op)
    ours = fw.trainer(kind, op=op, policy="full", name=name)
    for trainer in (stock, ours):
        for step in range(4):
            trainer.step(ranks[0], step)
    assert ours.optimizer.round == 4
    for a, b in zip(stock.weights(), ours.weights()):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_alone_every_policy_is_full(fw, hvd, name, ranks):
    if ranks[1] > 1:
        pytest.skip("is about one rank")
    results = []
    for policy in ("solo", "majority", "quorum:1", "first:1", "full"):
        trainer = fw.trainer("adam", policy=policy, name=name + policy)
        for step in range(5):
            trainer.step(0, step)
        assert trainer.optimizer.round == 5
        results.append(trainer.weights())
    for weights in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], weights))


def test_a_rank_that_merged_is_healed_by_itself(fw, hvd, events, name, ranks, needs_two):
    rank, size = ranks
    trainer = fw.trainer("adam", policy="solo", name=name, staleness_bound=2)
    trainer.step(rank, 0)
    events.barrier()
    events.run_ahead(hvd, lambda: [trainer.step(rank, step) for step in range(6)])
    # Nobody flushes: the next rounds in which all take part do it.
    for step in range(10, 14):
        trainer.step(rank, step)
    stats = trainer.optimizer.stats()
    assert stats["heals"] == 1
    assert (stats["merged"] > 0) == (rank > 0)
    trainer.optimizer.flush()
    assert identical(fw, trainer)
    assert trainer.optimizer.stats()["heals"] == 1  # the flush found nothing to heal


@pytest.mark.parametrize("catch_up", ["sum", "latest"])
def test_drift_is_healed_by_a_flush(fw, hvd, events, name, ranks, catch_up):
    trainer = fw.trainer("adam", policy="solo", name=name, catch_up=catch_up, staleness_bound=100)
    lateness(fw, events, trainer, phases=4)
    trainer.optimizer.flush()
    assert identical(fw, trainer)
    assert trainer.optimizer.stats()["heals"] == (1 if ranks[1] > 1 else 0)
    assert trainer.optimizer.round == trainer.optimizer.stats()["rounds"]


@st.composite
def damaged(draw, whole):
    """What may become of bytes: flipped, cut, longer, replaced by others."""
    at = draw(st.one_of(st.integers(0, 40), st.integers(0, len(whole) - 1)))
    end = draw(st.integers(at, len(whole)))
    found = draw(st.one_of(
        st.just(whole[:at] + bytes([whole[at] ^ draw(st.integers(1, 255))]) + whole[at + 1:]),
        st.sampled_from([whole[:at], whole[at:], whole[:at] + whole[end:], whole + whole[at:end]]),
        st.binary(max_size=64).map(lambda more: whole[:at] + more + whole[at:]),
        st.binary(max_size=64).map(lambda other: whole[:at] + other + whole[at + len(other):])))
    return None if found == whole else found


def test_a_replica_that_comes_damaged_is_an_error(fw, name, ranks):
    if ranks[1] > 1:
        pytest.skip("is about one rank")
    trainer = fw.trainer("adam", name=name)
    trainer.step(0, 0)
    group = trainer.optimizer._partial
    theirs = trainer.digest()
    whole = groups.sealed(group._replica().dump())
    trainer.step(0, 1)
    mine = trainer.digest()

    @settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @given(damaged(whole).filter(lambda found: found is not None))
    def load(found):
        group.drifted = False
        with pytest.raises(HorovodInternalError, match="has come damaged"):
            group.take_over(found, 0)
        assert group.drifted and trainer.digest() == mine

    load()
    assert theirs != mine
    group.take_over(whole, 0)
    assert trainer.digest() == theirs


def test_a_heal_after_one_that_came_damaged(fw, hvd, name, ranks, needs_two, monkeypatch):
    rank, size = ranks
    trainer = fw.trainer("momentum", policy="full", name=name)
    trainer.step(rank, 0)
    if rank == size - 1:
        trainer.learning_rate = 0.5
        trainer.optimizer.mark_drifted()
        honest = _native.Ticket.replica

        def one_bit_off(ticket):
            replica = honest(ticket)
            return replica[:-1] + bytes([replica[-1] ^ 1])

        with monkeypatch.context() as wire:
            wire.setattr(_native.Ticket, "replica", one_bit_off)
            with pytest.raises(HorovodInternalError, match="has come damaged"):
                trainer.optimizer.flush()
        assert trainer.learning_rate == pytest.approx(0.5)
    else:
        trainer.optimizer.flush()
    trainer.optimizer.flush()
    assert identical(fw, trainer)
    assert trainer.optimizer.stats()["heals"] == 2
    assert trainer.learning_rate == pytest.approx(0.05)


def test_resync_every(fw, hvd, name, ranks, needs_two):
    rank, _ = ranks
    trainer = fw.trainer("sgd", policy="first:2", name=name, catch_up="latest", resync_every=5)
    for _ in hvd.rounds(trainer.optimizer, 25):
        trainer.step(rank, trainer.optimizer.round)
    assert trainer.optimizer.stats()["heals"] >= 2
    assert identical(fw, trainer)


def test_a_learning_rate_that_followed_local_steps_is_reported_and_healed(fw, hvd, name, ranks,
                                                                          needs_two):
    rank, _ = ranks
    trainer = fw.trainer("sgd", policy="full", name=name)
    trainer.step(rank, 0)
    trainer.learning_rate = 0.01 * (1 + rank)
    with pytest.warns(UserWarning, match="learning rate"):
        trainer.optimizer.flush()
    assert identical(fw, trainer)
    assert trainer.learning_rate == pytest.approx(0.01)


def test_rounds_stops_all_ranks_at_the_same_round(fw, hvd, name, ranks):
    rank, _ = ranks
    trainer = fw.trainer("sgd", policy="solo", name=name)
    optimizer = trainer.optimizer
    seen, flushed = [], []

    def at_flush(number):
        assert number == optimizer.round
        assert identical(fw, trainer)
        flushed.append(number)

    for index in hvd.rounds(optimizer, 40, every=15, at_flush=at_flush):
        assert index == optimizer.round
        seen.append(index)
        if rank == 0 or len(seen) % 3:  # uneven work between steps
            np.linalg.svd(np.ones((60, 60)))
        trainer.step(rank, index)
    assert seen == sorted(set(seen)) and optimizer.round >= 40
    assert identical(fw, trainer)
    assert len(flushed) >= 3 and flushed[-1] == optimizer.round
    assert optimizer.stats()["flushes"] == 1 + len(flushed)
    everybody = fw.values(hvd.allgather(fw.tensor([[float(f) for f in flushed]]), name=name))
    assert everybody == [everybody[0]] * len(everybody)
    list(hvd.rounds(optimizer, 40, at_flush=at_flush))  # already there: only its flush
    assert optimizer.round == everybody[0][-1] + 1 == flushed[-1] + 1


def test_before_round_sees_every_round_and_sets_its_learning_rate(fw, hvd, events, name, ranks):
    trainer = fw.trainer("momentum", policy="solo", name=name, staleness_bound=100)
    seen = []

    def before(index):
        seen.append(index)
        trainer.learning_rate = 0.1 / (1 + index)

    handle = trainer.optimizer.register_before_round(before)
    lateness(fw, events, trainer, phases=4)
    trainer.optimizer.flush()
    # Round 0 was an empty flush, and the last one may be.
    assert seen == list(range(1, 1 + len(seen))) and trainer.optimizer.round - len(seen) in (1, 2)
    assert identical(fw, trainer)
    assert trainer.optimizer.stats()["heals"] == 0
    handle.remove()
    before_removal = len(seen)
    trainer.step(ranks[0], 0)
    trainer.optimizer.flush()
    assert len(seen) == before_removal


def test_join_with_uneven_numbers_of_steps(fw, hvd, name, ranks):
    rank, size = ranks
    trainer = fw.trainer("momentum", policy="first:2", name=name)
    for step in range(3 + 2 * rank):
        trainer.step(rank, step)
    hvd.join()
    trainer.optimizer.flush()
    assert identical(fw, trainer)


def test_a_process_set_trains_alone(fw, hvd, name, ranks, needs_two):
    rank, size = ranks
    some = hvd.add_process_set(list(range(size - 1)))
    trainer = fw.trainer("sgd", policy="full", name=name, process_set=some)
    for step in range(3):
        trainer.step(rank, step)
    trainer.optimizer.flush()
    assert trainer.optimizer.round == (0 if rank == size - 1 else 4)
    del trainer
    gc.collect()
    hvd.allreduce(fw.tensor([0.0]), name=name + ".meet")
    assert hvd.remove_process_set(some)
