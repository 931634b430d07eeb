"""partial_allreduce on real ranks, in every framework. Each rank contributes 2^rank, so that a sum
names who took part; events script who is late."""

import numpy as np
import pytest

POLICIES = ["solo", "majority", "quorum:2", "first:1", "first:2", "full", "auto"]
DTYPES = ["float16", "bfloat16", "float32", "float64"]


def register(fw, hvd, events, name, ranks, **settings):
    """Registers the group with one round in which all ranks are active."""
    # All announce before anybody goes on, and round 0 has all announced ranks active.
    first, = hvd.partial_allreduce([fw.tensor([0.0] * 3)], name, op=hvd.Sum, **settings)
    assert first.index == 0 and first.active == tuple(range(ranks[1]))
    # Not excused: who were, would not be waited for in the next round.
    events.barrier()


@pytest.mark.parametrize("op", ["Sum", "Average"])
def test_full_equals_horovod_bit_for_bit(fw, hvd, name, ranks, op):
    random = np.random.default_rng(ranks[0])
    tensors = [fw.tensor(random.normal(size=shape))
               for shape in ((5,), (3, 4), (), (2, 0), (257,))]
    stock = hvd.grouped_allreduce([fw.tensor(fw.numpy(t)) for t in tensors], name=name,
                                  op=getattr(hvd, op))
    for step in range(3):
        ours, = hvd.partial_allreduce(tensors, name, policy="full", op=getattr(hvd, op))
        assert ours.index == step and ours.count == 1
        assert ours.active == tuple(range(ranks[1]))
        for a, b, given in zip(ours.tensors, stock, tensors):
            assert a.shape == given.shape and np.array_equal(fw.numpy(a), fw.numpy(b))


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_dtype(fw, hvd, name, ranks, dtype):
    rank, size = ranks
    ours, = hvd.partial_allreduce([fw.code(rank, dtype=dtype)], name, policy="full", op=hvd.Sum)
    assert fw.dtype(ours.tensors[0]) == dtype
    assert fw.values(ours.tensors[0]) == [2**size - 1] * 3
    if dtype != "bfloat16":  # which Horovod does not take
        mine = fw.tensor(np.random.default_rng(rank).normal(size=100), dtype)
        stock = hvd.allreduce(mine, op=hvd.Average, name=name + ".stock")
        ours, = hvd.partial_allreduce([mine], name + ".average", policy="full")
        assert fw.values(ours.tensors[0]) == fw.values(stock)


def test_several_dtypes_in_one_group(fw, hvd, name, ranks):
    rank, size = ranks
    tensors = [fw.code(rank, 1 + i % 4, DTYPES[i % 4]) for i in range(9)]
    ours, = hvd.partial_allreduce(tensors, name, policy="full", op=hvd.Sum)
    for i, got in enumerate(ours.tensors):
        assert fw.dtype(got) == DTYPES[i % 4]
        assert fw.values(got) == [2**size - 1] * (1 + i % 4)


@pytest.mark.parametrize("policy", POLICIES)
def test_nothing_is_lost_under_any_policy(fw, hvd, name, ranks, policy):
    """Conservation, agreement and once (invariants 1 to 3) in an unscripted run."""
    rank, size = ranks
    steps = 25
    rounds = []
    for step in range(steps):
        rounds += hvd.partial_allreduce([fw.code(rank), fw.code(rank, dtype="float64")], name,
                                        policy=policy, op=hvd.Sum)
    rounds += hvd.partial_flush(name)
    assert sum(fw.values(r.tensors[0])[0] for r in rounds) == steps * (2**size - 1)
    assert [r.index for r in rounds] == list(range(len(rounds)))
    assert all(r.count == 1 for r in rounds)
    stats = hvd.partial_stats(name)
    assert stats["rounds"] == len(rounds) and stats["flushes"] == 1 and not stats["holds"]
    assert stats["fresh"] + stats["stale"] + stats["null"] == len(rounds)
    assert stats["pending"] == 0 and 1 <= stats["mean_active"] <= size
    if policy == "full":
        assert stats["mean_active"] == size
    # All ranks saw the same rounds, in the same order, bit for bit.
    seen = [[r.index, len(r.active), *fw.values(r.tensors[0])] for r in rounds]
    everybody = fw.numpy(hvd.allgather(fw.tensor([seen]), name=name))
    assert all(np.array_equal(everybody[0], other) for other in everybody)


def test_average_counts_each_gradient_once_with_weight_one_over_size(fw, hvd, name, ranks):
    rank, size = ranks
    total = 0.0
    for step in range(8):
        for r in hvd.partial_allreduce([fw.code(rank)], name, policy="solo"):
            total += fw.values(r.tensors[0])[0]
    total += sum(fw.values(r.tensors[0])[0] for r in hvd.partial_flush(name))
    assert total == 8 * (2**size - 1) / size


@pytest.mark.parametrize("dtype", DTYPES)
def test_who_contributes_alone_gives_what_a_sum_with_zeros_does(fw, hvd, events, name, ranks,
                                                                needs_two, dtype):
    rank, size = ranks
    values = np.random.default_rng(0).normal(size=100)
    stock = None
    if dtype != "bfloat16":  # which Horovod does not take
        stock = hvd.allreduce(fw.tensor(values * (rank == 0), dtype), op=hvd.Average,
                              name=name + ".stock")
    hvd.partial_allreduce([fw.tensor(np.zeros(100), dtype)], name, policy="solo")
    events.barrier()
    if rank == 0:
        alone, = hvd.partial_allreduce([fw.tensor(values, dtype)], name, policy="solo")
        events.set("alone")
    else:
        events.wait("alone")
    flushed = hvd.partial_flush(name)
    if rank > 0:
        alone = flushed[0]
    assert alone.active == (0,)
    got = fw.numpy(alone.tensors[0])
    if stock is None:
        assert np.allclose(got, values / size, rtol=2**-7)
    else:
        assert np.array_equal(got, fw.numpy(stock))


@pytest.mark.parametrize("late_by", [1, 5])
def test_a_late_rank_returns_at_once_and_its_tensors_travel_on(fw, hvd, events, name, ranks,
                                                               needs_two, late_by):
    rank, size = ranks
    settings = dict(policy="solo", op=hvd.Sum)
    register(fw, hvd, events, name, ranks, policy="solo")
    if rank == 0:
        for step in range(late_by):
            alone, = hvd.partial_allreduce([fw.code(0)], name, **settings)
            assert alone.active == (0,) and alone.tensors[0][0] == 1
        assert hvd.partial_stats(name)["fresh"] == late_by + 1
        events.set("rank 0 went ahead")
        for other in range(1, size):
            events.wait(f"late {other}")
        rounds = hvd.partial_allreduce([fw.code(0)], name, **settings)
        assert rounds[-1].active == (0,)  # the others are stale, not active
        assert rounds[-1].tensors[0][0] == 2**size - 1
        assert rounds[-1].index == late_by + 1
    else:
        events.wait("rank 0 went ahead")
        rounds = hvd.partial_allreduce([fw.code(rank)], name, **settings)
        assert [(r.index, r.active, fw.values(r.tensors[0])[0]) for r in rounds] == [
            (1 + i, (0,), 1.0) for i in range(late_by)]
        stats = hvd.partial_stats(name)
        assert (stats["late"], stats["null"], stats["max_staleness"]) == (1, late_by, late_by)
        assert stats["holds"]
        events.set(f"late {rank}")
    flushed = hvd.partial_flush(name)
    assert flushed[-1].tensors[0][0] == 0 and flushed[-1].active == ()
    if rank > 0:
        assert flushed[0].tensors[0][0] == 2**size - 1
        assert hvd.partial_stats(name)["stale"] == 1


@pytest.mark.parametrize("catch_up, expected", [
    ("replay", [(1, 1, 1.0), (2, 1, 2.0), (3, 1, 4.0)]), ("sum", [(3, 3, 7.0)]),
    ("latest", [(3, 3, 4.0)])])
def test_catch_up(fw, hvd, events, name, ranks, needs_two, catch_up, expected):
    rank, _ = ranks
    settings = dict(policy="solo", op=hvd.Sum, catch_up=catch_up)
    register(fw, hvd, events, name, ranks, policy="solo", catch_up=catch_up)
    if rank == 0:
        for step in range(3):
            hvd.partial_allreduce([fw.tensor([2.0**step] * 3)], name, **settings)
        events.set("ahead")
    else:
        events.wait("ahead")
        rounds = hvd.partial_allreduce([fw.tensor([0.0] * 3)], name, **settings)
        assert [(r.index, r.count, fw.values(r.tensors[0])[0]) for r in rounds] == expected
    hvd.partial_flush(name)


def test_the_staleness_bound_makes_the_others_wait(fw, hvd, events, name, ranks, needs_two):
    rank, size = ranks
    settings = dict(policy="solo", op=hvd.Sum, staleness_bound=2)
    register(fw, hvd, events, name, ranks, policy="solo", staleness_bound=2)
    if rank == 0:
        for step in range(2):
            hvd.partial_allreduce([fw.code(0)], name, **settings)
        handle = fw.start([fw.code(0)], name, **settings)
        # Rank 1 is at its bound and computes: no round starts, in whatever time.
        for _ in range(200):
            assert not handle.done()
        assert hvd.partial_stats(name)["rounds"] == 3
        events.set("at the bound")
        rounds = handle.result()
        assert len(rounds) == 1 and rounds[0].index == 3
        # The others were late with what they had, which this round carried.
        assert rounds[0].tensors[0][0] >= 1
    else:
        events.wait("at the bound")
        rounds = hvd.partial_allreduce([fw.code(rank)], name, **settings)
        assert [r.index for r in rounds] == [1, 2]
    hvd.partial_flush(name)


def test_an_excused_rank_is_not_waited_for_and_merges(fw, hvd, events, name, ranks, needs_two):
    rank, size = ranks
    settings = dict(policy="solo", op=hvd.Sum, staleness_bound=2)
    register(fw, hvd, events, name, ranks, policy="solo", staleness_bound=2)
    if rank == 0:
        events.wait("excused")
        for step in range(5):
            hvd.partial_allreduce([fw.tensor([2.0**step] * 3)], name, **settings)
        events.set("far ahead")
    elif rank == 1:
        with hvd.excused():
            events.set("excused")
            for other in range(2, size):
                events.wait(f"also excused {other}")
            events.wait("far ahead")
        rounds = hvd.partial_allreduce([fw.tensor([0.0] * 3)], name, **settings)
        assert [(r.index, r.count, fw.values(r.tensors[0])[0]) for r in rounds] == [
            (4, 4, 15.0), (5, 1, 16.0)]
        assert hvd.partial_stats(name)["merged"] == 3
    else:
        with hvd.excused():
            events.set(f"also excused {rank}")
            events.wait("far ahead")
    hvd.partial_flush(name)


def test_first_k_starts_with_k_ranks(fw, hvd, events, name, ranks, needs_two):
    rank, size = ranks
    settings = dict(policy=hvd.First(size - 1), op=hvd.Sum)
    register(fw, hvd, events, name, ranks, policy=hvd.First(size - 1))
    if rank < size - 1:
        done, = hvd.partial_allreduce([fw.code(rank)], name, **settings)
        assert done.active == tuple(range(size - 1))
        assert done.tensors[0][0] == 2**(size - 1) - 1
        events.set(f"done {rank}")
    else:
        for other in range(size - 1):
            events.wait(f"done {other}")
        missed, = hvd.partial_allreduce([fw.code(rank)], name, **settings)
        assert missed.active == tuple(range(size - 1))
    assert hvd.partial_flush(name)[-1].tensors[0][0] == 2**(size - 1)


def test_majority_waits_for_the_initiator(fw, hvd, events, name, ranks, needs_two):
    from horovod_partial import _core

    rank, size = ranks
    settings = dict(policy="majority", op=hvd.Sum, seed=5)
    register(fw, hvd, events, name, ranks, policy="majority", seed=5)
    initiator, = _core.draw_committee(5, name, 1, 1, size)
    if rank == initiator:
        for other in range(size):
            if other != rank:
                events.wait(f"waits {other}")
        done, = hvd.partial_allreduce([fw.code(rank)], name, **settings)
        assert done.active == tuple(range(size))
    else:
        handle = fw.start([fw.code(rank)], name, **settings)
        for _ in range(100):
            assert not handle.done()
        events.set(f"waits {rank}")
        assert handle.result()[0].active == tuple(range(size))
    hvd.partial_flush(name)


def test_flush_carries_what_is_left(fw, hvd, events, name, ranks, needs_two):
    rank, size = ranks
    settings = dict(policy="solo", op=hvd.Sum)
    register(fw, hvd, events, name, ranks, policy="solo")
    if rank == 0:
        hvd.partial_allreduce([fw.code(0)], name, **settings)
        events.set("ahead")
    else:
        events.wait("ahead")
        hvd.partial_allreduce([fw.code(rank)], name, **settings)
    flushed = hvd.partial_flush(name)
    assert flushed[-1].tensors[0][0] == 2**size - 2  # all but rank 0
    assert flushed[-1].active == ()
    again, = hvd.partial_flush(name)
    assert again.tensors[0][0] == 0 and again.index == flushed[-1].index + 1


def test_a_rank_that_comes_later_learns_the_group(fw, hvd, events, name, ranks, needs_two):
    """It is excused while the others register, contributes null, and catches up."""
    rank, size = ranks
    settings = dict(policy="solo", op=hvd.Sum)
    if rank == size - 1:
        with hvd.excused():
            events.set("excused")
            for other in range(size - 1):
                events.wait(f"registered {other}")
        rounds = hvd.partial_allreduce([fw.code(rank)], name, **settings)
        assert rounds[0].index == 0 and rank not in rounds[0].active
    else:
        events.wait("excused")
        rounds = hvd.partial_allreduce([fw.code(rank)], name, **settings)
        events.set(f"registered {rank}")
    rounds += hvd.partial_flush(name)
    assert sum(fw.values(r.tensors[0])[0] for r in rounds) == 2**size - 1


def test_two_groups_first_used_in_opposite_order(fw, hvd, name, ranks):
    rank, _ = ranks
    order = ["a", "b"] if rank % 2 == 0 else ["b", "a"]
    for step in range(10):
        for which in order:
            hvd.partial_allreduce([fw.code(rank)], name + which, policy="majority")
    for which in ("a", "b"):
        hvd.partial_flush(name + which)


@pytest.mark.parametrize("policy", ["majority", "first:2", "quorum:2"])
def test_synchronous_operations_at_any_time(fw, hvd, name, ranks, policy):
    """`A,S | S,A` and the like: a rank that waits in Horovod's operations is excused."""
    rank, size = ranks
    total = 0.0
    for step in range(12):
        def partial():
            return sum(fw.values(r.tensors[0])[0] for r in hvd.partial_allreduce(
                [fw.code(rank)], name, policy=policy, op=hvd.Sum, staleness_bound=1))

        def synchronous():
            mean = hvd.allreduce(fw.tensor([float(rank)]), name=f"{name}.{step}", op=hvd.Sum)
            assert fw.values(mean) == [size * (size - 1) / 2]

        for act in ((partial, synchronous) if (rank + step) % 2 else (synchronous, partial)):
            total += act() or 0.0
    assert hvd.broadcast_object({"from": rank}, root_rank=size - 1) == {"from": size - 1}
    hvd.allreduce(fw.tensor([0.0]), name=name + ".meet")
    total += sum(fw.values(r.tensors[0])[0] for r in hvd.partial_flush(name))
    assert total == 12 * (2**size - 1)


def test_join_with_uneven_numbers_of_steps(fw, hvd, name, ranks):
    rank, size = ranks
    total = 0.0
    for step in range(3 + 2 * rank):
        for r in hvd.partial_allreduce([fw.code(rank)], name, policy="first:2", op=hvd.Sum):
            total += fw.values(r.tensors[0])[0]
    assert 0 <= hvd.join() < size
    total += sum(fw.values(r.tensors[0])[0] for r in hvd.partial_flush(name))
    assert total == sum((3 + 2 * r) * 2**r for r in range(size))


def test_a_process_set_has_groups_of_its_own(fw, hvd, name, ranks, needs_two):
    rank, size = ranks
    some = hvd.add_process_set(list(range(size - 1)))
    if rank < size - 1:
        done, = hvd.partial_allreduce([fw.code(rank)], name, policy="full", op=hvd.Sum,
                                      process_set=some)
        assert done.active == tuple(range(size - 1))
        assert done.tensors[0][0] == 2**(size - 1) - 1
        hvd.partial_flush(name, process_set=some)
    hvd.allreduce(fw.tensor([0.0]), name=name + ".meet")
    assert hvd.remove_process_set(some)
