"""Partial groups in process sets: those of hvd.init(), or those added and removed meanwhile."""

import os

import pytest

from horovod.common.exceptions import HorovodInternalError
from test_programs import POLICIES, Runner

STATIC = os.environ.get("HOROVOD_PARTIAL_TEST_PROCESS_SETS")
dynamic_only = pytest.mark.skipif(STATIC is not None, reason="adds process sets")


@pytest.fixture
def sets(fw, hvd, ranks):
    """``sets(ranks)``: the process set of these ranks. Every rank calls it alike."""
    added = []

    def process_set(members):
        if STATIC is not None:
            return fw.process_sets[tuple(members)]
        added.append(hvd.add_process_set(list(members)))
        return added[-1]

    yield process_set
    for some in added:
        assert hvd.remove_process_set(some)


def members_of(size):
    """Two process sets that overlap, unless there are two ranks only."""
    return range(size - 1), range(1, size)


def flush(runner, which="A"):
    runner.flush(which)
    return sum(runner.fw.values(r.tensors[0])[0] for r in runner.rounds[which])


@pytest.mark.parametrize("policy", [*POLICIES, "full"])
def test_a_group_in_each_of_several_sets(fw, hvd, name, ranks, needs_two, sets, policy):
    """In an order of its own on each rank: a rank that waits in one set is excused in the others.
    Nobody takes part in what is not its own."""
    rank, size = ranks
    members = [range(size), *members_of(size)]
    process_sets = [hvd.global_process_set, *map(sets, members[1:])]
    runners = [Runner(fw, f"{name}.{i}", ranks, policy=policy, staleness_bound=1,
                      process_set=process_set) for i, process_set in enumerate(process_sets)]
    mine = [i for i in range(3) if rank in members[i]]
    for step in range(4):
        # Under full, as in Horovod, the order has to be the same on all ranks.
        turn = 0 if policy == "full" else rank + step
        for i in range(len(mine)):
            runners[mine[(i + turn) % len(mine)]].step("A")
    for i in mine:
        assert flush(runners[i]) == 4 * sum(2**r for r in members[i])
        # Ranks are those of the job, as in all of Horovod.
        assert set().union(*[r.active for r in runners[i].rounds["A"]]) <= set(members[i])
    for i in set(range(3)) - set(mine):
        with pytest.raises(ValueError, match="process_set"):
            hvd.partial_allreduce([fw.code(rank)], runners[i].group("A"),
                                  process_set=process_sets[i])
    hvd.allreduce(fw.tensor([0.0]), name=name + ".meet")


@pytest.mark.parametrize("policy", POLICIES)
def test_optimizers_in_sets_that_overlap(fw, hvd, events, name, ranks, needs_two, sets, policy):
    rank, size = ranks
    members = members_of(size)
    pair = [fw.trainer("momentum", policy=policy, name=f"{name}.{i}", staleness_bound=2,
                       process_set=sets(some)) for i, some in enumerate(members)]
    for step in range(5):
        for i in (0, 1) if rank % 2 else (1, 0):
            pair[i].step(rank, step)
    for some, trainer in zip(members, pair):
        trainer.optimizer.flush()
        digests = hvd.allgather_object(trainer.digest())
        assert len({digests[r] for r in some}) == 1
        # Who is not in the set steps alone.
        assert len(set(digests)) == 1 + size - len(some)
        assert (trainer.optimizer.round > 0) == (rank in some)


def test_rounds_in_a_set_while_its_outsider_synchronises(fw, hvd, name, ranks, needs_two, sets):
    """A rank outside of a set waits in an operation of all; a set's members come to it later."""
    rank, size = ranks
    some = sets(range(size - 1))
    if rank < size - 1:
        runner = Runner(fw, name, ranks, policy="full", process_set=some)
        for _ in range(5):
            runner.step("A")
        assert flush(runner) == 5 * (2**(size - 1) - 1)
        assert hvd.partial_stats(runner.group("A"), process_set=some)["null"] <= 1  # of the flush
    else:
        stats = fw.trainer("sgd", policy="full", name=name, process_set=some).optimizer.stats()
        assert (stats["rank"], stats["size"], stats["rounds"]) == (None, size - 1, 0)
    Runner(fw, name, ranks).sync("S")


@pytest.mark.parametrize("policy", [*POLICIES, "full"])
def test_join_counts_as_flush_in_every_set(fw, hvd, name, ranks, needs_two, sets, policy):
    """hvd.join() is of all ranks; whoever is in it keeps up with, and holds up, no set. Two sets
    flush at the same time, and heal."""
    rank, size = ranks
    members = members_of(size)
    process_sets = [sets(some) for some in members]
    optimizers = [fw.trainer("momentum", policy=policy, name=f"{name}.{i}", staleness_bound=2,
                             process_set=process_set, catch_up="latest")
                  for i, process_set in enumerate(process_sets)]
    runners = [Runner(fw, f"{name}.{i}.plain", ranks, policy=policy, staleness_bound=1,
                      process_set=process_set) for i, process_set in enumerate(process_sets)]
    mine = [i for i in range(2) if rank in members[i]]
    early = range(1, size - 1) if size > 2 else range(1)
    for i in mine:
        optimizers[i].step(rank, 0)
        runners[i].step("A")
    if rank not in early:
        for step in range(4):
            for i in mine:
                optimizers[i].step(rank, step)
                runners[i].step("A")
        for i in mine:
            runners[i].flush("A")
            optimizers[i].optimizer.mark_drifted()
            optimizers[i].optimizer.flush()
            assert optimizers[i].optimizer.stats()["heals"] == (len(members[i]) > 1)
    assert 0 <= hvd.join() < size
    for i in mine:
        optimizers[i].optimizer.flush()
        assert flush(runners[i]) == sum((1 if r in early else 5) * 2**r for r in members[i])
    for some, trainer in zip(members, optimizers):
        digests = hvd.allgather_object(trainer.digest())
        assert len({digests[r] for r in some}) == 1


@pytest.mark.parametrize("known", [True, False])
def test_a_join_lets_waiting_sets_go_on(fw, hvd, events, name, ranks, sets, known):
    """A set waits for one rank alone, which joins: it has nothing to tell but that."""
    rank, size = ranks
    if size < 3:
        pytest.skip("needs three ranks")
    settings = dict(policy="full", op=hvd.Sum, process_set=sets(range(1, size)))
    if known and rank > 0:
        hvd.partial_allreduce([fw.code(rank)], name, **settings)
    waiting = fw.start([fw.code(rank)], name, **settings) if rank > 1 else None
    hvd.allreduce(fw.tensor([0.0]), name=name + ".meet")  # all know now who waits
    events.barrier()  # and no cycle is under way that could take a join along
    if waiting is not None:
        done, = waiting.result()
        assert fw.values(done.tensors[0]) == [2**size - 4] * 3
    hvd.join()


@dynamic_only
def test_sets_come_and_go_while_others_train(fw, hvd, name, ranks, needs_two):
    """Who waits in add_process_set or remove_process_set is excused; a set's groups go with it."""
    rank, size = ranks
    runner = Runner(fw, name, ranks, policy=f"quorum:{size}", staleness_bound=1)
    for life in range(4):
        first = life % size
        members = members_of(size)[life % 2]
        runner.step("A")
        if rank != first:
            runner.run("step:A step:A")
        some = hvd.add_process_set(list(members))
        inside = Runner(fw, name + ".inside", ranks, policy=f"first:{size}", process_set=some)
        if rank in members:
            for _ in range(2 + life):
                inside.step("A")
            assert inside.rounds["A"][0].index == 0  # a group of its own each time
            assert flush(inside) == (2 + life) * sum(2**r for r in members)
        if rank != (first + 1) % size:
            runner.run("step:A step:A")
        assert hvd.remove_process_set(some)
        if rank in members:
            with pytest.raises(ValueError, match="process_set"):
                inside.step("A")
    runner.check()


@dynamic_only
def test_what_is_outstanding_when_a_set_goes_is_an_error(fw, hvd, name, ranks, needs_two):
    rank, size = ranks
    some = hvd.add_process_set(list(range(1, size)))
    settings = dict(policy="full", process_set=some)
    outstanding = None
    if rank > 0:
        hvd.partial_allreduce([fw.code(rank)], name, **settings)
    if rank == 1 and size > 2:  # alone, nobody is to wait for
        outstanding = fw.start([fw.code(rank)], name, **settings)
    hvd.allreduce(fw.tensor([0.0]), name=name + ".meet")
    assert hvd.remove_process_set(some)
    if outstanding is not None:
        with pytest.raises(HorovodInternalError):
            outstanding.result()
    done, = hvd.partial_allreduce([fw.code(rank)], name, policy="full", op=hvd.Sum)
    assert done.index == 0 and fw.values(done.tensors[0]) == [2**size - 1] * 3
