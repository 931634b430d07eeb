"""Wrong arguments and disagreements: which error, on which ranks, and that nothing hangs or stays
behind. One row per bad call."""

import pytest
import torch


def parameters():
    return list(torch.nn.Linear(2, 2).parameters())


def optimizer(hvd, **kwargs):
    return hvd.DistributedOptimizer(torch.optim.SGD(parameters(), lr=0.1), **kwargs)


def named(hvd, *names, groups=None, **kwargs):
    """An optimizer of parameters of these names, and of ``groups(parameters)``."""
    made = [torch.nn.Parameter(torch.zeros(2)) for _ in names]
    return hvd.DistributedOptimizer(
        torch.optim.SGD(made, lr=0.1), named_parameters=zip(names, made),
        groups=groups and groups(*made), **kwargs)


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
        ("names twice", lambda: named(hvd, "w", "b", "w"), ValueError, "Found duplicates: w$"),
        ("a parameter twice in a group",
         lambda: named(hvd, "w", "b", groups=lambda w, b: [[w, b, w]]), ValueError,
         "only appear once in groups"),
        ("a parameter in two groups",
         lambda: named(hvd, "w", "b", groups=lambda w, b: [[w, b], [w]]), ValueError,
         "only appear once in groups"),
        ("predivide and Sum",
         lambda: optimizer(hvd, gradient_predivide_factor=2.0, op=hvd.Sum), ValueError,
         "gradient_predivide_factor"),
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
        ("rounds at_flush", lambda: hvd.rounds(optimizer(hvd), 5, at_flush=3), ValueError,
         "at_flush=3"),
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
        ("a tensor too large", lambda: hvd.partial_allreduce([torch.zeros(1).expand(2**60)], "e"),
         ValueError, "impossible shape"),
        ("too large",
         lambda: hvd.partial_allreduce([torch.zeros(1).expand(2**58)] * 3, "e"), ValueError,
         "group 'e' is too large"),
        ("poll without a handle", lambda: hvd.poll(None), ValueError, "handle=None is no handle"),
        ("poll of no handle of Horovod's", lambda: hvd.poll(2**30), ValueError,
         "was not created or has been cleared"),
        ("synchronize rounds", lambda: hvd.synchronize([1.0]), ValueError,
         r"handle=\[1.0\] is no handle"),
    ]


def test_calls(hvd, unchanged):
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
        for _ in range(2):  # the same again: its handle is no other's
            with pytest.raises(ValueError, match="outstanding"):
                hvd.synchronize(second)
            assert hvd.poll(second)
        hvd.barrier()
    else:
        if size > 1:
            hvd.barrier()
        first = hvd.partial_allreduce_async([torch.ones(1)], name, **settings)
    for _ in range(2):
        assert hvd.synchronize(first)[0].tensors[0].item() == size
        assert hvd.poll(first)


MODELS = [
    ("shape", lambda r: dict(w=[2 + r]), {},
     r"tensor 0.*'w' of float32 \(2\) on rank 0 and 'w' of float32 \(3\)"),
    ("number", lambda r: dict(w=[2], b=[2]) if r else dict(w=[2]), {},
     "the number of tensors.*1 on rank 0 and 2 on rank"),
    ("name", lambda r: dict(v=[2]) if r else dict(w=[2]), {},
     "tensor 0.*'w' of .* on rank 0 and 'v'"),
    ("buckets", lambda r: dict(w=[2], b=[2]), dict(bucket_cap_mb=lambda r: 1e-6 if r else 25),
     r"bucket_cap_mb\) must be.*one on rank 0 and 1 \+ 1 tensors on rank"),
    ("buckets on some ranks only", lambda r: dict(w=[2], b=[2]),
     dict(bucket_cap_mb=lambda r: 25 if r else None),
     r"order of tensors.*bucket_cap_mb\) must be.*from 'b' to 'w' on rank 0 and from 'w' to 'b'"),
]


@pytest.mark.parametrize("ask", ["step", "flush"])
@pytest.mark.parametrize("what, shapes, settings, message", MODELS, ids=[row[0] for row in MODELS])
def test_models_that_differ_are_an_error_on_every_rank(hvd, unchanged, name, ranks, needs_two, what,
                                                       shapes, settings, message, ask):
    r = min(ranks[0], 1)
    model = torch.nn.ParameterDict({key: torch.nn.Parameter(torch.zeros(shape))
                                    for key, shape in shapes(r).items()})
    made = hvd.DistributedOptimizer(
        torch.optim.SGD(model.parameters(), lr=1.0), model.named_parameters(), name=name,
        **{key: value(r) for key, value in settings.items()})
    if ask == "step":
        sum(p.sum() for p in model.values()).backward()
    with pytest.raises(ValueError, match=message):
        getattr(made, ask)()
    assert made.round == 0 and not any(p.any() for p in model.values())


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
    assert hvd.allreduce(torch.tensor([1.0]), op=hvd.Sum, name="all this").item() == size
    assert hvd.partial_allreduce([torch.ones(1)], "after all", policy="full",
                                 op=hvd.Sum)[0].tensors[0].item() == size
