"""Wrong arguments and disagreements: which error, on which ranks, and that nothing hangs or stays
behind. One row per bad call."""

import pytest
import torch


def parameters():
    return list(torch.nn.Linear(2, 2).parameters())


def optimizer(hvd, **kwargs):
    return hvd.DistributedOptimizer(torch.optim.SGD(parameters(), lr=0.1), **kwargs)


SETTINGS = [
    ("policy", dict(policy="most"), ValueError, "policy='most'.*'first:K'"),
    ("K below 1", dict(policy="first:0"), ValueError, "policy='first:0'.*at least 1"),
    ("K no integer", dict(policy="quorum:1.5"), ValueError, "policy='quorum:1.5'"),
    ("policy no string", dict(policy=3), ValueError, "policy=3"),
    ("bound 0", dict(staleness_bound=0), ValueError, "staleness_bound=0.*from 1"),
    ("bound negative", dict(staleness_bound=-2), ValueError, "staleness_bound=-2"),
    ("bound no integer", dict(staleness_bound=1.5), ValueError, "staleness_bound=1.5"),
    ("bound bool", dict(staleness_bound=True), ValueError, "staleness_bound=True"),
    ("catch_up", dict(catch_up="skip"), ValueError, "catch_up='skip'.*'replay'"),
    ("catch_up no string", dict(catch_up=1), ValueError, "catch_up=1"),
    ("seed negative", dict(seed=-1), ValueError, "seed=-1"),
    ("seed no integer", dict(seed="x"), ValueError, "seed='x'"),
]
ids = [row[0] for row in SETTINGS]


@pytest.mark.parametrize("what, settings, error, message", SETTINGS, ids=ids)
def test_settings(hvd, name, what, settings, error, message):
    with pytest.raises(error, match=message):
        optimizer(hvd, **settings)
    with pytest.raises(error, match=message):
        hvd.partial_allreduce([torch.zeros(1)], name, **settings)


@pytest.mark.parametrize("variable, value, message", [
    ("POLICY", "most", "HOROVOD_PARTIAL_POLICY: policy='most'"),
    ("STALENESS_BOUND", "0", "HOROVOD_PARTIAL_STALENESS_BOUND: staleness_bound=0"),
    ("STALENESS_BOUND", "many", "HOROVOD_PARTIAL_STALENESS_BOUND: staleness_bound='many'"),
    ("CATCH_UP", "skip", "HOROVOD_PARTIAL_CATCH_UP: catch_up='skip'"),
    ("RESYNC_EVERY", "-1", "HOROVOD_PARTIAL_RESYNC_EVERY: resync_every=-1"),
    ("SEED", "1.5", "HOROVOD_PARTIAL_SEED: seed='1.5'")])
def test_environment(hvd, monkeypatch, variable, value, message):
    monkeypatch.setenv("HOROVOD_PARTIAL_" + variable, value)
    with pytest.raises(ValueError, match=message):
        optimizer(hvd)


def test_arguments_win_over_the_environment(hvd, monkeypatch, name, ranks):
    monkeypatch.setenv("HOROVOD_PARTIAL_POLICY", "full")
    monkeypatch.setenv("HOROVOD_PARTIAL_STALENESS_BOUND", "3")
    made = optimizer(hvd, staleness_bound=5, name=name)
    assert str(made._partial.settings.policy) == "full"
    assert made._partial.settings.staleness_bound == 5
    assert (made._partial.settings.catch_up, made._partial.settings.resync_every) == ("replay", 0)


def own(hvd):
    return [
        ("resync_every 0", lambda: optimizer(hvd, resync_every=0), ValueError, "resync_every=0"),
        ("adasum", lambda: optimizer(hvd, op=hvd.Adasum), NotImplementedError, "op=Adasum"),
        ("max", lambda: optimizer(hvd, op=hvd.Max), ValueError, "op="),
        ("name empty", lambda: optimizer(hvd, name=""), ValueError, "name=''"),
        ("name no string", lambda: optimizer(hvd, name=3), ValueError, "name=3"),
        ("groups", lambda: optimizer(hvd, groups=-1), ValueError, "groups=-1"),
        ("groups of no tensors", lambda: optimizer(hvd, groups=[[1]]), ValueError, "groups"),
        ("passes", lambda: optimizer(hvd, backward_passes_per_step=0), ValueError,
         "backward_passes_per_step=0"),
        ("predivide", lambda: optimizer(hvd, gradient_predivide_factor=0.0), ValueError,
         "gradient_predivide_factor=0.0"),
        ("names unpaired", lambda: optimizer(hvd, named_parameters=["w"]), ValueError,
         "sequence of tuples"),
        ("names too few", lambda: optimizer(hvd, named_parameters=[("w", torch.zeros(1))]),
         ValueError, "were not named"),
        ("nothing to train", lambda: hvd.DistributedOptimizer(
            torch.optim.SGD([torch.zeros(1)], lr=1)), ValueError, "no parameter"),
        ("lbfgs", lambda: hvd.DistributedOptimizer(torch.optim.LBFGS(parameters())),
         NotImplementedError, "LBFGS"),
        ("wrapped twice", lambda: hvd.DistributedOptimizer(optimizer(hvd)), ValueError,
         "already"),
        ("add_param_group", lambda: optimizer(hvd).add_param_group({"params": parameters()}),
         NotImplementedError, "before"),
        ("rounds of a plain optimizer",
         lambda: hvd.rounds(torch.optim.SGD(parameters()), 5), ValueError, "opt="),
        ("rounds n", lambda: hvd.rounds(optimizer(hvd), -1), ValueError, "n=-1"),
        ("rounds n no integer", lambda: hvd.rounds(optimizer(hvd), 1.5), ValueError, "n=1.5"),
        ("rounds every", lambda: hvd.rounds(optimizer(hvd), 5, every=0), ValueError, "every=0"),
        ("no tensors", lambda: hvd.partial_allreduce([], "e"), ValueError, "tensors must be"),
        ("a tensor for a list", lambda: hvd.partial_allreduce(torch.zeros(2), "e"), ValueError,
         "tensors must be"),
        ("a list of lists", lambda: hvd.partial_allreduce([[1.0]], "e"), ValueError,
         r"tensors\[0\]=\[1.0\] is not a tensor"),
        ("integers", lambda: hvd.partial_allreduce([torch.zeros(2, dtype=torch.int32)], "e"),
         ValueError, r"tensors\[0\] is of torch.int32"),
        ("sparse", lambda: hvd.partial_allreduce([torch.zeros(2).to_sparse()], "e"),
         NotImplementedError, "sparse"),
        ("min", lambda: hvd.partial_allreduce([torch.zeros(2)], "e", op=hvd.Min), ValueError,
         "op="),
        ("no name", lambda: hvd.partial_allreduce([torch.zeros(2)], ""), ValueError, "name=''"),
        ("flush no name", lambda: hvd.partial_flush(None), ValueError, "name=None"),
        ("stats of nothing", lambda: hvd.partial_stats("nothing"), ValueError,
         "name='nothing': there is no such group"),
    ]


def test_calls(hvd):
    for what, call, error, message in own(hvd):
        with pytest.raises(error, match=message):
            call()
            pytest.fail(f"no error: {what}")


def test_a_second_submission_is_refused_and_the_first_one_goes_on(hvd, name, ranks):
    rank, size = ranks
    settings = dict(policy="full", op=hvd.Sum)
    hvd.partial_allreduce([torch.zeros(1)], name, **settings)
    first = second = None
    if rank == 0 and size > 1:  # alone, full waits for the others: the first is outstanding
        first = hvd.partial_allreduce_async([torch.ones(1)], name, **settings)
        second = hvd.partial_allreduce_async([torch.ones(1)], name, **settings)
        with pytest.raises(ValueError, match="outstanding"):
            hvd.synchronize(second)
        hvd.barrier()
    else:
        if size > 1:
            hvd.barrier()
        first = hvd.partial_allreduce_async([torch.ones(1)], name, **settings)
    assert hvd.synchronize(first)[0].tensors[0].item() == size


def test_flush_of_a_group_that_nobody_knows_is_an_error_on_every_rank(hvd, name):
    with pytest.raises(ValueError, match="there is no group"):
        hvd.partial_flush(name)


DIFFERENCES = [
    ("policy", lambda r: dict(policy="solo" if r else "full"), "policy.*'full' on rank 0"),
    ("K", lambda r: dict(policy=f"first:{1 + r}"), "policy.*'first:1' on rank 0"),
    ("bound", lambda r: dict(staleness_bound=5 + r), "staleness_bound.*5 on rank 0 and 6 on"),
    ("catch_up", lambda r: dict(catch_up="sum" if r else "latest"), "catch_up.*'latest'"),
    ("seed", lambda r: dict(seed=r), "seed.*0 on rank 0 and 1 on rank"),
]


@pytest.mark.parametrize("what, settings, message", DIFFERENCES, ids=[d[0] for d in DIFFERENCES])
def test_settings_that_differ_are_an_error_on_every_rank(hvd, name, ranks, needs_two, what,
                                                         settings, message):
    rank, _ = ranks
    mine = settings(min(rank, 1))
    with pytest.raises(ValueError, match=message):
        hvd.partial_allreduce([torch.zeros(1)], name, **mine)
    with pytest.raises(ValueError, match=message):
        made = optimizer(hvd, name=name + ".optimizer", **mine)
        made.step()
    # The name is free again for who agree.
    assert len(hvd.partial_allreduce([torch.zeros(1)], name, policy="full")) == 1


SHAPES = [
    ("shape", lambda r: [torch.zeros(2 + r)], r"tensor 0.*\(2\) on rank 0.*\(3\) on rank"),
    ("dims", lambda r: [torch.zeros([2] * (1 + r))], "tensor 0"),
    ("number", lambda r: [torch.zeros(2)] * (1 + r), "number of tensors.*1 on rank 0 and 2"),
    ("dtype", lambda r: [torch.zeros(2, dtype=torch.float64 if r else torch.float32)],
     "tensor 0.*float32.*on rank 0 and.*float64"),
]


@pytest.mark.parametrize("what, tensors, message", SHAPES, ids=[d[0] for d in SHAPES])
def test_shapes_that_differ_are_an_error_on_every_rank(hvd, name, ranks, needs_two, what, tensors,
                                                       message):
    with pytest.raises(ValueError, match=message):
        hvd.partial_allreduce(tensors(min(ranks[0], 1)), name, policy="majority")


def test_op_that_differs(hvd, name, ranks, needs_two):
    with pytest.raises(ValueError, match="op must be the same.*Sum on rank 0 and Average"):
        hvd.partial_allreduce([torch.zeros(1)], name, op=hvd.Average if ranks[0] else hvd.Sum)


def test_a_rank_that_comes_later_with_other_settings(hvd, events, name, ranks, needs_two):
    """Its own error, and everybody else's: the group fails on all ranks."""
    rank, size = ranks
    first = dict(policy="solo", staleness_bound=100)
    if rank == size - 1:
        with hvd.excused():
            events.set("excused")
            for other in range(size - 1):
                events.wait(f"registered {other}")
        with pytest.raises(ValueError, match="staleness_bound"):
            hvd.partial_allreduce([torch.zeros(1)], name, policy="solo", staleness_bound=7)
    else:
        events.wait("excused")
        hvd.partial_allreduce([torch.zeros(1)], name, **first)
        events.set(f"registered {rank}")
        with pytest.raises(ValueError, match="staleness_bound"):
            while True:
                hvd.partial_allreduce([torch.zeros(1)], name, **first)


def test_settings_changed_between_calls(hvd, name, ranks):
    hvd.partial_allreduce([torch.zeros(1)], name, policy="full")
    with pytest.raises(ValueError, match="staleness_bound|tensor 0"):
        hvd.partial_allreduce([torch.zeros(1)], name, policy="full", staleness_bound=3)
    hvd.partial_allreduce([torch.zeros(2)], name, policy="full")


def test_gradients_that_change_their_dtype(hvd, name, ranks):
    weight = torch.nn.Parameter(torch.zeros(2))
    made = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), policy="full", name=name)
    weight.sum().backward()
    made.step()
    weight.data = weight.data.double()
    weight.grad = None
    with pytest.raises(ValueError, match="keeps its shapes and dtypes"):
        made.step()


def test_horovod_goes_on_after_all_this(hvd, ranks):
    rank, size = ranks
    assert hvd.allreduce(torch.tensor([1.0]), op=hvd.Sum).item() == size
    assert hvd.partial_allreduce([torch.ones(1)], "after all", policy="full",
                                 op=hvd.Sum)[0].tensors[0].item() == size
