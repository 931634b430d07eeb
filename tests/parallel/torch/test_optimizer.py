"""PyTorch's DistributedOptimizer on real ranks: what Horovod's arguments do, checkpoints, elastic
states. Rounds, heals and flushes: tests/parallel/shared."""

import copy
import warnings

import pytest
import torch

from horovod_partial.torch import replica


def build(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).to(
        dtype)


def build_wrapped(hvd, name, lr=0.05, dtype=torch.float32, **settings):
    """A model and its partial optimizer."""
    model = build(dtype=dtype)
    return model, hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=lr),
                                           model.named_parameters(), name=name, **settings)


def data(rank, step):
    generator = torch.Generator().manual_seed(1000 * rank + step)
    return torch.randn(16, 4, generator=generator), torch.randn(16, 2, generator=generator)


def backward(model, rank, step):
    x, y = data(rank, step)
    torch.nn.functional.mse_loss(model(x.to(model[0].weight.dtype)).float(), y).backward()


def take_step(optimizer, model, rank, step):
    optimizer.zero_grad()
    backward(model, rank, step)
    optimizer.step()


def identical(hvd, optimizer):
    """Whether parameters and optimizer state are the same on all ranks, bit for bit."""
    mine = torch.frombuffer(bytearray(replica.digest(optimizer)), dtype=torch.uint8)
    everybody = hvd.allgather(mine.reshape(1, -1), name="identical")
    return all(torch.equal(everybody[0], other) for other in everybody)


@pytest.mark.parametrize("predivide", [1.0, 2.0])
@pytest.mark.parametrize("op", ["Average", "Sum"])
def test_full_trains_as_horovod_does(hvd, name, ranks, op, predivide):
    """Policy full and stock Horovod: the same model after the same steps."""
    import horovod.torch as stock

    if op == "Sum" and predivide != 1.0:
        with pytest.raises(ValueError, match="gradient_predivide_factor"):
            model = build()
            hvd.DistributedOptimizer(torch.optim.SGD(model.parameters()), op=hvd.Sum,
                                     gradient_predivide_factor=predivide)
        return
    models = []
    for horovod, settings in ((stock, {}), (hvd, {"policy": "full", "name": name})):
        model = build()
        optimizer = horovod.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
            model.named_parameters(), op=getattr(horovod, op),
            gradient_predivide_factor=predivide, groups=1 if predivide == 1.0 else None,
            **settings)
        for step in range(4):
            take_step(optimizer, model, ranks[0], step)
        models.append(model)
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_alone_it_is_the_plain_optimizer(hvd, name, ranks):
    if ranks[1] > 1:
        pytest.skip("is about one rank")
    for policy in ("solo", "majority", "quorum:1", "first:1", "full"):
        plain, partial = build(), build()
        a = torch.optim.Adam(plain.parameters(), lr=0.01)
        b = hvd.DistributedOptimizer(torch.optim.Adam(partial.parameters(), lr=0.01),
                                     partial.named_parameters(), policy=policy)
        for step in range(5):
            take_step(a, plain, 0, step)
            take_step(b, partial, 0, step)
        assert b.round == 5
        for p, q in zip(plain.parameters(), partial.parameters()):
            assert torch.equal(p, q)


def test_before_round_sees_every_round_with_its_gradients(hvd, events, name, ranks):
    model, optimizer = build_wrapped(hvd, name, policy="solo", staleness_bound=100)
    seen = []

    def clip(index):
        seen.append(index)
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + index)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
        assert sum(p.grad.norm()**2 for p in model.parameters())**0.5 <= 0.0101

    handle = optimizer.register_before_round(clip)
    optimizer.flush()  # registers the group
    events.late_phases(lambda step: take_step(optimizer, model, ranks[0], step), phases=4)
    rounds = optimizer.round
    assert seen == list(range(1, rounds))  # round 0 was an empty flush
    handle.remove()
    optimizer.flush()
    assert len(seen) == rounds - 1


def test_synchronize_and_skip_synchronize(hvd, name, ranks):
    rank, size = ranks
    model, optimizer = build_wrapped(hvd, name, policy="first:2")
    for step in range(6):
        optimizer.zero_grad()
        backward(model, rank, step)
        optimizer.synchronize()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with optimizer.skip_synchronize():
            optimizer.step()
    optimizer.flush()
    assert identical(hvd, optimizer)
    with pytest.warns(UserWarning, match="skip_synchronize"):
        backward(model, rank, 0)
        optimizer.synchronize()
        optimizer.step()
    optimizer.flush()


def test_closures_unused_parameters_and_frozen_ones(hvd, name, ranks):
    rank, _ = ranks
    model = build()
    unused = torch.nn.Parameter(torch.ones(3))
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD([*model.parameters(), unused, frozen], lr=0.05),
        policy="full", name=name)

    def closure():
        optimizer.zero_grad()
        x, y = data(rank, 0)
        loss = torch.nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    first = optimizer.step(closure)
    for _ in range(20):
        last = optimizer.step(closure)
    assert last < first
    assert unused.tolist() == [1, 1, 1] and unused.grad.tolist() == [0, 0, 0]
    assert frozen.grad is None
    optimizer.flush()
    assert identical(hvd, optimizer)


def test_gradients_that_only_one_rank_computed(hvd, name, ranks):
    rank, size = ranks
    one = torch.nn.Parameter(torch.zeros(2))
    two = torch.nn.Parameter(torch.zeros(2))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([one, two], lr=1.0), policy="full",
                                         name=name)
    (one if rank == 0 else two).sum().backward()
    optimizer.step()
    assert one.tolist() == [-1 / size] * 2
    assert two.tolist() == [-(size - 1) / size] * 2


def test_backward_passes_per_step(hvd, name, ranks):
    rank, size = ranks
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), policy="full",
                                         backward_passes_per_step=2, name=name)
    (weight * 1.0).sum().backward()
    (weight * 2.0).sum().backward()
    if size > 1:
        with pytest.raises(AssertionError, match="backward_passes_per_step"):
            (weight * 0.0).sum().backward()
    optimizer.step()
    assert weight.item() == -3.0
    optimizer.zero_grad()
    (weight * 4.0).sum().backward()
    optimizer.step()
    assert weight.item() == -7.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_models_of_other_dtypes(hvd, name, ranks, dtype):
    rank, _ = ranks
    model, optimizer = build_wrapped(hvd, name, dtype=dtype, policy="solo")
    for step in range(4):
        take_step(optimizer, model, rank, step)
    optimizer.flush()
    assert identical(hvd, optimizer)
    assert all(p.grad.dtype == dtype for p in model.parameters())


def test_compression(hvd, name, ranks):
    rank, size = ranks
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), policy="full",
                                         compression=hvd.Compression.fp16, name=name)
    (weight * (1 + 2.0**-12) * 2**rank).sum().backward()  # which float16 rounds
    optimizer.step()
    assert weight.dtype == torch.float32
    assert weight.tolist() == [-(2**size - 1) / size] * 3


@pytest.mark.parametrize("sparse_as_dense", [True, False])
def test_sparse_gradients(hvd, name, ranks, sparse_as_dense):
    rank, size = ranks
    table = torch.nn.Embedding(5, 2, sparse=True)
    torch.nn.init.zeros_(table.weight)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(table.parameters(), lr=1.0),
                                         policy="full", sparse_as_dense=sparse_as_dense,
                                         name=name)
    table(torch.tensor([rank])).sum().backward()
    if not sparse_as_dense:
        with pytest.raises(NotImplementedError, match="sparse_as_dense=True"):
            optimizer.step()
        return
    optimizer.step()
    assert table.weight.grad.is_sparse
    assert table.weight[:, 0].tolist() == [-1 / size if i < size else 0.0 for i in range(5)]


@pytest.mark.parametrize("policy, clips, fused", [
    ("solo", False, False), ("full", False, False), ("full", True, True)])
def test_grad_scaler_and_an_overflow(hvd, name, ranks, policy, clips, fused):
    """Gradients are submitted unscaled; those that overflow on one rank count as zeros, so that this
    rank submits as often as the others."""
    rank, size = ranks
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0, fused=fused),
                                         policy=policy, name=name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**(4 + rank))  # each its own

    def step(factor):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        if clips:
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([weight], 2.0**size)
        scaler.step(optimizer)
        scaler.update()

    total = 2**size - 1
    step(float(2**rank))
    step(float("inf") if rank == 0 else float(2**rank))
    assert scaler.get_scale() == (2.0**3 if rank == 0 else 2.0**(4 + rank))
    step(float(2**rank))
    step(float(2**rank))
    optimizer.flush()
    assert weight.item() == -(4 * total - 1) / size
    assert optimizer.stats()["submissions"] == 4


def test_grad_scaler_after_synchronize_is_reported(hvd, name, ranks):
    """Each rank divides the sum by a scale of its own."""
    rank, size = ranks
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), policy="full", name=name)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**(4 + rank))

    def step(factor):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()
        optimizer.synchronize()
        scaler.unscale_(optimizer)
        with optimizer.skip_synchronize():
            scaler.step(optimizer)
        scaler.update()

    with pytest.warns(UserWarning, match="before the GradScaler"):
        step(1.0)
    before = weight.item()
    step(float("inf") if rank == 0 else 1.0)  # which reaches all ranks
    assert weight.item() == before
    optimizer.flush()
    assert identical(hvd, optimizer)


def test_grad_scaler_and_buckets(hvd, name):
    model = build()
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=1.0), policy="solo",
                                         name=name, bucket_cap_mb=1e-6)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(model(torch.ones(1, 4)).sum()).backward()
    with pytest.raises(NotImplementedError, match="GradScaler"):
        scaler.step(optimizer)
    optimizer.step()  # what was handed in is on its way


def test_a_step_that_is_left_out(hvd, name, ranks):
    """As after a loss that is not finite."""
    rank, size = ranks
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), policy="solo", name=name)
    for step in range(4):
        optimizer.zero_grad()
        weight.sum().backward()
        if (step + rank) % 2 == 0:
            optimizer.step()
    optimizer.flush()
    assert weight.item() == -2.0


def test_a_round_whose_update_fails_is_not_applied_again(hvd, events, name, ranks, needs_two):
    """The last rank finds three rounds; a function fails in the second."""
    rank, size = ranks
    model, optimizer = build_wrapped(hvd, name, lr=0.1, policy="solo", staleness_bound=100)
    optimizer.flush()
    events.barrier()
    if rank == 0:
        for step in range(3):
            take_step(optimizer, model, rank, step)
        events.set("three rounds")
    else:
        events.wait("three rounds")
        seen = []

        def fail(index):
            seen.append(index)
            if len(seen) == 2:
                raise RuntimeError("in the second round")

        handle = optimizer.register_before_round(fail)
        with pytest.raises(RuntimeError, match="in the second round"):
            take_step(optimizer, model, rank, 0)
        optimizer.step()
        handle.remove()
        assert len(seen) == len(set(seen))  # each round once
    events.barrier()
    optimizer.flush()
    stats = optimizer.stats()
    assert optimizer.round == stats["rounds"]
    assert stats["heals"] == 1
    assert sum(stats["staleness_histogram"]) == stats["submissions"]
    assert identical(hvd, optimizer)


def test_a_flush_in_which_an_update_fails_goes_on_for_the_others(hvd, events, name, ranks,
                                                                 needs_two):
    rank, size = ranks
    model, optimizer = build_wrapped(hvd, name, lr=0.1, policy="solo", staleness_bound=100)
    optimizer.flush()
    events.barrier()

    def fail(index):
        raise RuntimeError("in a flush")

    if rank == 0:
        take_step(optimizer, model, rank, 0)
        events.set("a round")
        optimizer.flush()
    else:
        events.wait("a round")
        handle = optimizer.register_before_round(fail)
        with pytest.raises(RuntimeError, match="in a flush"):
            optimizer.flush()
        handle.remove()
    optimizer.flush()
    stats = optimizer.stats()
    assert optimizer.round == stats["rounds"] and stats["heals"] == 1
    assert identical(hvd, optimizer)


@pytest.mark.parametrize("bucket_cap_mb", [None, 1e-6])
def test_state_dict_carries_on_exactly(hvd, events, name, ranks, needs_two, bucket_cap_mb):
    """Without a flush: a send buffer and pending rounds are in the checkpoint."""
    rank, size = ranks

    def script(optimizer, model, part):
        if rank == 0:
            for step in range(2):
                take_step(optimizer, model, rank, 10 * part + step)
            events.set(f"{part} ahead")
            for other in range(1, size):
                events.wait(f"{part} late {other}")
        else:
            events.wait(f"{part} ahead")
            for other in range(1, rank):
                events.wait(f"{part} late {other}")
            take_step(optimizer, model, rank, 10 * part)
            events.set(f"{part} late {rank}")

    def begin(suffix):
        model = build()
        optimizer = hvd.DistributedOptimizer(
            torch.optim.Adam(model.parameters(), lr=0.01), model.named_parameters(),
            policy="solo", name=name + suffix, staleness_bound=100, bucket_cap_mb=bucket_cap_mb)
        optimizer.flush()
        events.barrier()
        return model, optimizer

    model, optimizer = begin("first")
    script(optimizer, model, 0)
    if rank == 0:  # one more, so that the others have a round pending
        take_step(optimizer, model, rank, 99)
        events.set("one more")
    else:
        events.wait("one more")
    saved_model = copy.deepcopy(model.state_dict())
    saved = copy.deepcopy(optimizer.state_dict())
    extra = saved["horovod_partial"]
    if rank > 0:
        assert len(extra["pending"]) == 1 and extra["rank"] == rank
    saved_round = optimizer.round
    events.barrier()

    script(optimizer, model, 1)
    optimizer.flush()

    resumed, carried_on = begin("second")
    resumed.load_state_dict(saved_model)
    carried_on.load_state_dict(saved)
    assert carried_on.round == saved_round
    events.barrier()
    # The same script once more, on events of its own.
    events.begin(name + "again")
    script(carried_on, resumed, 1)
    carried_on.flush()
    for a, b in zip(model.parameters(), resumed.parameters()):
        assert torch.equal(a, b)
    assert identical(hvd, carried_on)


def test_a_checkpoint_of_another_rank_is_dropped_with_a_warning(hvd, name, ranks, needs_two):
    rank, size = ranks
    model, optimizer = build_wrapped(hvd, name, policy="full")
    take_step(optimizer, model, rank, 0)
    state = optimizer.state_dict()
    assert set(state["horovod_partial"]) == {"round"}
    state["horovod_partial"] = {"round": 7, "rank": size, "size": size, "drifted": False,
                                "send_buffer": torch.ones(3, dtype=torch.uint8),
                                "pending": [(1, False, torch.ones(3, dtype=torch.uint8))]}
    with pytest.warns(UserWarning, match="1 pending rounds of a checkpoint are dropped"):
        optimizer.load_state_dict(state)
    assert optimizer.round == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.load_state_dict(torch.optim.SGD(model.parameters(), lr=0.5).state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.5
    take_step(optimizer, model, rank, 1)
    optimizer.flush()


def test_broadcast_optimizer_state_makes_no_round(hvd, name, ranks):
    rank, _ = ranks
    model = build(seed=rank)
    optimizer = hvd.DistributedOptimizer(torch.optim.Adam(model.parameters(), lr=0.01 * (1 + rank)),
                                         model.named_parameters(), policy="majority", name=name)
    if rank == 0:  # which alone has loaded a checkpoint
        optimizer.set_round(7)
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    assert optimizer.round == 7 and optimizer.param_groups[0]["lr"] == 0.01
    assert optimizer.stats()["rounds"] == 0
    assert identical(hvd, optimizer)
    take_step(optimizer, model, rank, 0)
    optimizer.flush()


def test_join_applies_rounds_and_takes_part_in_flushes(hvd, events, name, ranks):
    """A rank that joined early has the replica of the others in the end."""
    rank, size = ranks
    model = build()
    optimizer = hvd.DistributedOptimizer(torch.optim.Adam(model.parameters(), lr=0.01),
                                         model.named_parameters(), policy="first:2", name=name,
                                         staleness_bound=2)
    for step in range(3 + 4 * rank):
        take_step(optimizer, model, rank, step)
    if rank == size - 1:
        optimizer.flush()  # while the others are in join()
    hvd.join()
    optimizer.flush()
    assert identical(hvd, optimizer)
    assert optimizer.stats()["merged"] == 0


def test_training_goes_on_after_join(hvd, events, name, ranks, needs_two):
    """join() once per epoch: what was listened for there does not swallow a later round."""
    rank, size = ranks
    model, optimizer = build_wrapped(hvd, name, policy="solo", staleness_bound=100)
    for epoch in range(3):
        for step in range(1 + rank):
            take_step(optimizer, model, rank, step)
        hvd.join()
        if rank == 0:
            take_step(optimizer, model, rank, 50)
            events.set(f"first of epoch {epoch}")
        else:
            # The round is pending by now, or was applied on the way out of join().
            events.wait(f"first of epoch {epoch}")
    optimizer.flush()
    assert optimizer.round == optimizer.stats()["rounds"]
    assert identical(hvd, optimizer)
    assert optimizer.stats()["heals"] == 0


def test_an_interrupted_step_is_caught_up_with(hvd, events, name, ranks, needs_two, monkeypatch):
    from horovod_partial import _native

    rank, size = ranks
    model, optimizer = build_wrapped(hvd, name, policy="full")
    take_step(optimizer, model, rank, 0)
    with monkeypatch.context() as patch:
        if rank == 0:
            def interrupted(self):
                raise KeyboardInterrupt

            patch.setattr(_native.Ticket, "wait", interrupted)
            with pytest.raises(KeyboardInterrupt):
                take_step(optimizer, model, rank, 1)
    if rank > 0:
        take_step(optimizer, model, rank, 1)
    take_step(optimizer, model, rank, 2)
    optimizer.flush()
    assert optimizer.round == 4 and identical(hvd, optimizer)


def test_a_checkpoint_of_other_tensors_is_an_error(hvd, name, ranks):
    rank, size = ranks
    model, optimizer = build_wrapped(hvd, name, policy="full")
    take_step(optimizer, model, rank, 0)
    state = optimizer.state_dict()
    state["horovod_partial"].update(rank=rank, size=size, drifted=False, pending=[],
                                    send_buffer=torch.ones(3, dtype=torch.uint8))
    optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match="send buffer has 3 bytes"):
        optimizer.flush()
    take_step(optimizer, model, rank, 1)
    optimizer.flush()
    assert identical(hvd, optimizer)


def test_two_optimizers_in_opposite_order(hvd, name, ranks):
    rank, _ = ranks
    models = [build(0), build(1)]
    optimizers = [hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.05),
                                           model.named_parameters(), policy="majority",
                                           name=f"{name}{i}") for i, model in enumerate(models)]
    for step in range(10):
        for i in ((0, 1) if rank % 2 else (1, 0)):
            take_step(optimizers[i], models[i], rank, step)
    for optimizer in optimizers:
        optimizer.flush()
        assert identical(hvd, optimizer)


def test_a_group_ends_with_its_optimizer(hvd, name, ranks):
    rank, _ = ranks
    for generation in range(3):
        model, optimizer = build_wrapped(hvd, name, policy="solo")
        with pytest.raises(ValueError, match="in use"):
            hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), name=name)
        with pytest.raises(ValueError, match="in use"):
            hvd.partial_allreduce([torch.zeros(1)], name)
        take_step(optimizer, model, rank, 0)
        optimizer.flush()
        assert optimizer.stats()["rounds"] == optimizer.round <= 1 + hvd.size()
        del optimizer
    hvd.barrier()


def test_it_is_an_instance_of_the_wrapped_class(hvd, name, ranks):
    rank, _ = ranks
    model = build()
    inner = torch.optim.Adam(model.parameters(), lr=0.01)
    optimizer = hvd.DistributedOptimizer(inner, model.named_parameters(), policy="full", name=name)
    assert isinstance(optimizer, torch.optim.Adam) and type(optimizer).__name__ == "Adam"
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(4):
            take_step(optimizer, model, rank, step)
            schedule.step()
    assert optimizer.param_groups[0]["lr"] == 0.0025
    assert len(calls) == 4
    optimizer.flush()
