"""Rounds that overlap with the backward pass: DistributedOptimizer(bucket_cap_mb=)."""

import time

import pytest
import torch

from horovod_partial.torch import replica

SHAPES = [((3, 2), torch.float32), ((5,), torch.float64), ((2, 2), torch.float32),
          ((4,), torch.float32)]
EACH = 1e-6  # MiB: a bucket for each parameter


class Gate(torch.autograd.Function):
    """Calls `function` when backward comes through."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.function()
        return gradient, None


class Training:
    """Parameters whose gradients are small integers, of which a sum is exact in any order, and
    which come one after the other, from the last parameter to the first."""

    def __init__(self, hvd, name, bucket_cap_mb, momentum=0.0, skip=(), **settings):
        self.hvd = hvd
        self.parameters = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
                           for shape, dtype in SHAPES]
        self.optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(self.parameters, lr=1.0, momentum=momentum), op=hvd.Sum, name=name,
            bucket_cap_mb=bucket_cap_mb, **settings)
        self.total = [torch.zeros(shape, dtype=dtype) for shape, dtype in SHAPES]
        self.skip = skip

    def backward(self, number, gates=None):
        generator = torch.Generator().manual_seed(1000 * number + self.hvd.rank())
        h = torch.zeros((), requires_grad=True)
        for i, p in enumerate(self.parameters):
            if i in (gates or {}):
                h = Gate.apply(h, gates[i])
            c = torch.randint(-8, 9, p.shape, generator=generator).to(p.dtype)
            if (number, i) not in self.skip:
                self.total[i] += c
                h = h + (p * c).sum()
        h.backward()

    def step(self, number, gates=None):
        self.optimizer.zero_grad()
        self.backward(number, gates)
        self.optimizer.step()

    def parts(self):
        return self.optimizer.stats()["parts"]

    def await_part(self):
        """Until a part of the round under way has been reduced."""
        deadline = time.monotonic() + 60
        before = self.optimizer.stats()
        while self.parts() % len(SHAPES) == 0:
            assert time.monotonic() < deadline, before

    def check_replicas(self):
        """They are identical on all ranks."""
        hvd = self.hvd
        mine = torch.frombuffer(bytearray(replica.digest(self.optimizer)), dtype=torch.uint8)
        everybody = hvd.allgather(mine.reshape(1, -1), name="identical")
        assert all(torch.equal(everybody[0], other) for other in everybody)

    def check(self):
        """After a flush: replicas are identical, and every gradient counted once."""
        hvd = self.hvd
        self.check_replicas()
        for i, (p, total) in enumerate(zip(self.parameters, self.total)):
            expected = -hvd.allreduce(total, op=hvd.Sum, name=f"total.{i}")
            assert torch.equal(p.detach(), expected)


@pytest.mark.parametrize("policy", ["solo", "majority"])
def test_buckets_change_no_result_however_late_ranks_are(hvd, events, name, ranks, policy):
    trained = []
    for cap in (None, EACH):
        training = Training(hvd, f"{name}.{cap}", cap, policy=policy, staleness_bound=100)
        training.optimizer.flush()
        if policy == "solo":
            events.late_phases(training.step, phases=ranks[1])
            events.barrier()
        else:
            for number in range(5):
                training.step(number)
        training.optimizer.flush()
        training.check()
        trained.append(training)
    if policy == "majority" or ranks[1] == 1:
        for a, b in zip(*(training.parameters for training in trained)):
            assert torch.equal(a, b)


def test_full_gives_the_same_rounds(hvd, name, ranks):
    """Of momentum, the order and the contents of rounds matter. One parameter has no gradient in
    one step."""
    plain, buckets = (Training(hvd, f"{name}.{cap}", cap, policy="full", momentum=0.5,
                               skip=[(1, 2), (2, 3)]) for cap in (None, EACH))
    for number in range(4):
        plain.step(number)
        buckets.step(number)
        for a, b in zip(plain.parameters, buckets.parameters):
            assert torch.equal(a, b)
    assert plain.optimizer.stats()["parts"] == plain.optimizer.stats()["rounds"] == 4
    stats = buckets.optimizer.stats()
    assert stats["rounds"] == 4 and stats["cut_short"] == 0
    assert stats["parts"] == 4 * len(SHAPES)


def test_the_first_bucket_is_reduced_before_backward_ends(hvd, name, needs_two):
    training = Training(hvd, name, EACH, policy="full")
    training.step(0)  # registers the group, with a whole round
    seen = []

    def gate():
        training.await_part()
        seen.append((training.parts(), training.optimizer.stats()["rounds"]))

    training.step(1, {2: gate})
    # Of four parts, up to two were there.
    assert seen[0] in [(5, 1), (6, 1)]
    assert training.optimizer.stats()["rounds"] == 2
    training.check()


@pytest.mark.parametrize("where", ["backward", "join"])
def test_a_rank_that_waits_in_the_middle_of_a_step_holds_nobody_up(hvd, events, name, ranks,
                                                                   needs_two, where):
    rank, size = ranks
    training = Training(hvd, name, EACH, policy="solo", staleness_bound=100)
    training.step(0)
    training.optimizer.flush()

    def wait():
        hvd.allreduce(torch.ones(1), name="in backward")

    def begin_and_wait():
        training.await_part()
        events.set("begun")
        if where == "backward":
            wait()

    if rank == 0:
        training.optimizer.zero_grad()
        training.backward(1, {3: begin_and_wait} if where == "backward" else {})
        if where == "join":
            begin_and_wait()
            hvd.join()
        training.optimizer.step()
    else:
        events.wait("begun")
        training.step(1)
        training.step(2)
        wait() if where == "backward" else hvd.join()
    training.optimizer.flush()
    assert training.optimizer.stats()["cut_short"] == (rank == 0)
    training.check()


def test_accumulation_compression_and_closures(hvd, name, ranks):
    for label, settings in (("passes", {"backward_passes_per_step": 2}),
                            ("fp16", {"compression": hvd.Compression.fp16})):
        training = Training(hvd, f"{name}.{label}", EACH, policy="majority", **settings)
        for number in range(3):
            training.optimizer.zero_grad()

            def closure():
                for pass_ in range(settings.get("backward_passes_per_step", 1)):
                    training.backward(2 * number + pass_)
                return number

            assert training.optimizer.step(closure) == number
        training.optimizer.flush()
        training.check()


def test_gradients_that_were_handed_in_stay_as_they_are(hvd, name, needs_two):
    training = Training(hvd, name, EACH, policy="full")
    training.step(0)
    training.optimizer.zero_grad()
    training.backward(1)
    last = training.parameters[-1]
    with pytest.raises(AssertionError, match="call optimizer.step"):
        training.optimizer.zero_grad()
    kept, last.grad = last.grad, last.grad.clone()
    with pytest.raises(NotImplementedError, match="register_before_round"):
        training.optimizer.step()
    last.grad = kept
    training.optimizer.step()
    training.check()
    training.optimizer.zero_grad()
    training.backward(2)
    torch.nn.utils.clip_grad_norm_(training.parameters, 0.5)
    with pytest.raises(NotImplementedError, match="changed after backward"):
        training.optimizer.step()


def test_an_interrupted_step_is_made_up_for_at_its_end(hvd, name, needs_two):
    """Backward does not hand in anything while an older submission is under way."""
    training = Training(hvd, name, EACH, policy="full")
    training.step(0)
    training.optimizer.zero_grad()
    training.backward(1)
    training.optimizer._submit()  # as if an exception had come in the wait
    training.optimizer.zero_grad()
    training.backward(2)
    assert training.optimizer._partial.handed_in == 0
    training.optimizer.step()
    assert training.optimizer.round == 3
    training.check()


def test_replicas_are_made_the_same_in_rounds(hvd, name, ranks, needs_two):
    """resync_every: a heal waits until all ranks are at the end of a step, not between buckets."""
    rank, _ = ranks
    training = Training(hvd, name, EACH, momentum=0.5, policy="first:2", catch_up="latest",
                        resync_every=5)
    for _ in hvd.rounds(training.optimizer, 25):
        training.step(training.optimizer.round)
    assert training.optimizer.stats()["heals"] >= 2
    training.check_replicas()


def test_caps_that_differ_are_told_to_every_rank(hvd, name, ranks, needs_two):
    training = Training(hvd, name, EACH if ranks[0] == 0 else 80 / 2**20)
    with pytest.raises(ValueError, match="bucket_cap_mb"):
        training.step(0)


def test_wrong_caps_are_errors(hvd):
    for cap in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="bucket_cap_mb"):
            Training(hvd, "wrong", cap)
