"""The programs that an earlier wording of the protocol hung (specification, end of section 7) on
real ranks, synchronous operations of every kind, and join(). In the language of the simulation
(tests/core/test_simulation.py), in one group A or two; program i is run by ranks i, i + 2, …"""

import collections
import inspect

import pytest

POLICIES = ["solo", "majority", "quorum:2", "first:1", "first:2"]


class Runner:
    """Runs programs on this rank, keeps the rounds that come back, and checks them."""

    def __init__(self, fw, name, ranks, process_set=None, **settings):
        self.fw, self.hvd, self.name = fw, fw.hvd, name
        self.rank, self.size = ranks
        self.where = {"process_set": process_set} if process_set else {}
        self.settings = dict(op=self.hvd.Sum, **settings, **self.where)
        self.given = collections.Counter()
        self.rounds = collections.defaultdict(list)

    def group(self, which):
        return f"{self.name}.{which}"

    def run(self, program):
        for word in program.split():
            act, _, what = word.partition(":")
            getattr(self, act)(what)

    def step(self, which):
        self.given[which] += 1
        self.rounds[which] += self.hvd.partial_allreduce([self.fw.code(self.rank)],
                                                         self.group(which), **self.settings)

    def flush(self, which):
        self.rounds[which] += self.hvd.partial_flush(self.group(which), **self.where)

    def sync(self, which):
        """An operation of all ranks or, in lower case, of all but rank 0, which has joined."""
        ranks = range(self.size) if which.isupper() else range(1, self.size)
        total = self.hvd.allreduce(self.fw.code(self.rank), op=self.hvd.Sum,
                                   name=self.group(which))
        assert self.fw.values(total) == [sum(2**r for r in ranks)] * 3

    def join(self, _):
        assert 0 <= self.hvd.join() < self.size

    def check(self):
        """All ranks: nothing was lost or counted twice, and all saw the same rounds."""
        everybody = self.hvd.allgather_object(dict(self.given))
        for which in sorted(set().union(*everybody)):
            self.flush(which)
            rounds = self.rounds[which]
            assert (sum(self.fw.values(r.tensors[0])[0] for r in rounds)
                    == sum(given.get(which, 0) * 2**r for r, given in enumerate(everybody)))
            assert sum(r.count for r in rounds) == rounds[-1].index + 1
            single = {r.index: (r.active, *self.fw.values(r.tensors[0])) for r in rounds
                      if r.count == 1}  # an excused rank may have merged
            for other in self.hvd.allgather_object(single):
                assert all(single.get(index, seen) == seen for index, seen in other.items())
            stats = self.hvd.partial_stats(self.group(which))
            assert not stats["holds"] and stats["pending"] == 0


def run(fw, name, ranks, programs, times, **settings):
    runner = Runner(fw, name, ranks, **settings)
    for _ in range(times):
        runner.run(programs[runner.rank % len(programs)])
    runner.check()


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("programs", [
    ["step:A sync:S", "sync:S step:A"],
    ["step:A step:B", "step:B step:A"],
    ["step:A sync:S", "step:A step:A sync:S"],
    ["step:A step:B sync:S", "sync:S step:B step:A step:A"],
    ["flush:A", "step:A step:A flush:A"],
    ["step:A flush:A", "step:A step:A step:A flush:A"],
    ["sync:S sync:T", "step:A sync:S step:A sync:T"],
    ["step:A step:A step:A step:A", "step:A"],
], ids=" | ".join)
def test_programs_without_an_end(fw, hvd, name, ranks, programs, policy):
    """Their first steps too, in which the groups register."""
    if ranks[1] == 1 and "step:A" not in programs[0]:
        pytest.skip("the other rank knows the group")
    run(fw, name, ranks, programs, 3, policy=policy, staleness_bound=1)


@pytest.mark.parametrize("initiator", range(4))
def test_each_initiator(fw, hvd, name, ranks, initiator):
    """`A,S | A,A,S` where the rank that waits in S would be the initiator, and where not."""
    from horovod_partial import _core

    rank, size = ranks
    if initiator >= size:
        pytest.skip("there is no such rank")
    seed = next(seed for seed in range(1000)
                if _core.draw_committee(seed, name + ".A", 1, 1, size) == [initiator])
    run(fw, name, ranks, ["step:A sync:S", "step:A step:A sync:S"], 1, policy="majority", seed=seed)


@pytest.mark.parametrize("policy", [*POLICIES, "full"])
@pytest.mark.parametrize("programs", [
    ["step:A join", "step:A flush:A join"],
    ["join", "step:A step:A step:A join"],
    ["join", "step:A flush:A step:A step:B flush:B join"],
    ["step:A step:B join step:A step:A flush:A join",
     "step:A step:B step:A step:B join step:A step:A flush:A step:B step:B join"],
], ids=" | ".join)
def test_join(fw, hvd, name, ranks, programs, policy):
    """Ranks with fewer batches, ranks with none, ranks that join while others flush; training
    again afterwards, and joining again."""
    if ranks[1] == 1:
        programs = programs[1:]
    run(fw, name, ranks, programs, 1, policy=policy, staleness_bound=1)


@pytest.mark.parametrize("policy", POLICIES)
def test_synchronous_operations_while_a_rank_has_joined(fw, hvd, name, ranks, needs_two, policy):
    """Rank 0 contributes nothing to them, as in Horovod, and they excuse the others."""
    runner = Runner(fw, name, ranks, policy=policy, staleness_bound=1)
    if ranks[0] == 0:
        program = "step:A join"
    else:
        program = ("step:A sync:s step:A step:A sync:t step:A" if ranks[0] % 2 else
                   "step:A step:A step:A sync:s sync:t") + " flush:A join"
    runner.run(program)
    runner.check()


def test_some_ranks_synchronise_in_each_step_and_another_runs_ahead(fw, hvd, name, ranks):
    """The operations are of a process set without the last rank."""
    rank, size = ranks
    if size < 3:
        pytest.skip("needs three ranks")
    some = hvd.add_process_set(list(range(size - 1)))
    for policy in POLICIES:
        runner = Runner(fw, name + policy, ranks, policy=policy, staleness_bound=2)
        for step in range(6):
            runner.step("A")
            if rank < size - 1:
                total = hvd.allreduce(fw.code(rank), op=hvd.Sum, name=f"{name}.{step}",
                                      process_set=some)
                assert fw.values(total) == [2**(size - 1) - 1] * 3
            else:
                runner.run("step:A step:A")
        runner.check()
    assert hvd.remove_process_set(some)


# What each kind of synchronous operation is to give, as (call, expected), each a function of
# (framework, name, rank, size); tensors as lists.
OPERATIONS = {
    "allreduce": (
        lambda fw, name, rank, size: fw.values(fw.hvd.allreduce(
            fw.code(rank), op=fw.hvd.Sum, name=name)),
        lambda rank, size: [2**size - 1] * 3),
    "grouped_allreduce": (
        lambda fw, name, rank, size: [fw.values(t) for t in fw.hvd.grouped_allreduce(
            [fw.code(rank), fw.code(rank, 1)], op=fw.hvd.Sum, name=name)],
        lambda rank, size: [[2**size - 1] * 3, [2**size - 1]]),
    "allgather": (
        lambda fw, name, rank, size: fw.values(fw.hvd.allgather(fw.code(rank, 1 + rank), name=name)),
        lambda rank, size: [2**r for r in range(size) for _ in range(1 + r)]),
    "grouped_allgather": (
        lambda fw, name, rank, size: [fw.values(t) for t in fw.hvd.grouped_allgather(
            [fw.code(rank, 1), fw.code(rank, 2)], name=name)],
        lambda rank, size: [[2**r for r in range(size)], [2**(r // 2) for r in range(2 * size)]]),
    "broadcast": (
        lambda fw, name, rank, size: fw.values(fw.hvd.broadcast(fw.code(rank), size - 1,
                                                                name=name)),
        lambda rank, size: [2**(size - 1)] * 3),
    "alltoall": (
        lambda fw, name, rank, size: fw.values(fw.hvd.alltoall(fw.code(rank, size), name=name)),
        lambda rank, size: [2**r for r in range(size)]),
    "reducescatter": (
        lambda fw, name, rank, size: fw.values(fw.hvd.reducescatter(
            fw.code(rank, 2 * size), op=fw.hvd.Sum, name=name)),
        lambda rank, size: [2**size - 1] * 2),
    "grouped_reducescatter": (
        lambda fw, name, rank, size: [fw.values(t) for t in fw.hvd.grouped_reducescatter(
            [fw.code(rank, size), fw.code(rank, 2 * size)], op=fw.hvd.Sum,
            **named(fw.hvd.grouped_reducescatter, name))],
        lambda rank, size: [[2**size - 1], [2**size - 1] * 2]),
    "broadcast_object": (
        lambda fw, name, rank, size: fw.hvd.broadcast_object({"from": rank}, size - 1, name=name),
        lambda rank, size: {"from": size - 1}),
    "allgather_object": (
        lambda fw, name, rank, size: fw.hvd.allgather_object("x" * rank, name=name),
        lambda rank, size: ["x" * r for r in range(size)]),
    "barrier": (
        lambda fw, name, rank, size: fw.hvd.barrier(),
        lambda rank, size: None),
    "polls": (
        lambda fw, name, rank, size: polls(fw, name, rank),
        lambda rank, size: [2**size - 1] * 3),
}


def named(operation, name):
    # TensorFlow's takes none. Without one, PyTorch numbers it by all that the rank has done.
    return {"name": name} if "name" in inspect.signature(operation).parameters else {}


def polls(fw, name, rank):
    handle = fw.hvd.allreduce_async(fw.code(rank), op=fw.hvd.Sum, name=name)
    while not fw.hvd.poll(handle):
        pass
    return fw.values(fw.hvd.synchronize(handle))


@pytest.mark.parametrize("kind", OPERATIONS)
def test_every_kind_of_synchronous_operation_excuses(fw, hvd, name, ranks, kind):
    """Each round waits for every rank that is not excused (a committee of all), and one rank after
    the other goes into the operation before the others take two more steps."""
    rank, size = ranks
    if not hasattr(hvd, {"polls": "poll"}.get(kind, kind)):
        pytest.skip(f"there is no {kind} in this framework")
    call, expected = OPERATIONS[kind]
    runner = Runner(fw, name, ranks, policy=f"quorum:{size}", staleness_bound=1)
    for first in range(size):
        runner.step("A")
        if rank != first:
            runner.run("step:A step:A")
        assert call(fw, f"{name}.{first}", rank, size) == expected(rank, size)
    runner.check()
