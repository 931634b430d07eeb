"""Wrong arguments and disagreements, in every framework: which error, on which ranks, and that
nothing hangs or stays behind. One row per bad call."""

import pytest


SETTINGS = [
    ("policy", dict(policy="most"), ValueError, "policy='most'.*'first:K'"),
    ("K below 1", dict(policy="first:0"), ValueError, "policy='first:0'.*at least 1"),
    ("K no integer", dict(policy="quorum:1.5"), ValueError, "policy='quorum:1.5'"),
    ("staleness cost", dict(policy="auto:-1"), ValueError, "policy='auto:-1'.*from 0"),
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
def test_settings(fw, hvd, unchanged, name, what, settings, error, message):
    with pytest.raises(error, match=message):
        fw.trainer(**settings)
    with pytest.raises(error, match=message):
        hvd.partial_allreduce([fw.tensor([0.0])], name, **settings)


@pytest.mark.parametrize("what, policy, message", [
    ("Quorum(0)", lambda hvd: hvd.Quorum(0), "policy='quorum:0'.*at least 1"),
    ("First(0)", lambda hvd: hvd.First(0), "policy='first:0'.*at least 1"),
    ("First(1.5)", lambda hvd: hvd.First(1.5), "policy='first:1.5'"),
    ("Auto(-1)", lambda hvd: hvd.Auto(-1), "staleness_cost=-1 must be a number from 0"),
    ("Auto('x')", lambda hvd: hvd.Auto("x"), "staleness_cost='x'"),
    ("no object", lambda hvd: hvd.Solo, "policy=<class .*Solo'> is not a policy"),
])
def test_policy_objects(fw, hvd, unchanged, name, what, policy, message):
    with pytest.raises(ValueError, match=message):
        fw.trainer(policy=policy(hvd))
    with pytest.raises(ValueError, match=message):
        hvd.partial_allreduce([fw.tensor([0.0])], name, policy=policy(hvd))


def test_k_above_the_size_counts_as_the_size(fw, hvd, name, ranks):
    rank, size = ranks
    k = size + 7
    said = f"policy='first:{k}' asks for {k} of {size} ranks; 'first:{size}' is used"
    with pytest.warns(UserWarning, match=said):
        done, = hvd.partial_allreduce([fw.code(rank)], name, policy=hvd.First(k))
    assert done.active == tuple(range(size))
    trainer = fw.trainer(name=name + ".optimizer", policy=f"first:{k}")
    with pytest.warns(UserWarning, match=said):
        trainer.step(rank, 0)
    trainer.optimizer.flush()
    assert trainer.optimizer.stats()["mean_active"] == size


@pytest.mark.parametrize("variable, value, message", [
    ("POLICY", "most", "HOROVOD_PARTIAL_POLICY: policy='most'"),
    ("STALENESS_BOUND", "0", "HOROVOD_PARTIAL_STALENESS_BOUND: staleness_bound=0"),
    ("STALENESS_BOUND", "many", "HOROVOD_PARTIAL_STALENESS_BOUND: staleness_bound='many'"),
    ("CATCH_UP", "skip", "HOROVOD_PARTIAL_CATCH_UP: catch_up='skip'"),
    ("RESYNC_EVERY", "-1", "HOROVOD_PARTIAL_RESYNC_EVERY: resync_every=-1"),
    ("SEED", "1.5", "HOROVOD_PARTIAL_SEED: seed='1.5'"),
    ("STALENESS_COST", "nan", "HOROVOD_PARTIAL_STALENESS_COST: staleness_cost=nan")])
def test_environment(fw, hvd, unchanged, monkeypatch, variable, value, message):
    monkeypatch.setenv("HOROVOD_PARTIAL_" + variable, value)
    with pytest.raises(ValueError, match=message):
        fw.trainer()


def test_arguments_win_over_the_environment(fw, hvd, monkeypatch, name, ranks):
    monkeypatch.setenv("HOROVOD_PARTIAL_POLICY", "full")
    monkeypatch.setenv("HOROVOD_PARTIAL_STALENESS_BOUND", "3")
    made = fw.trainer(staleness_bound=5, name=name).optimizer
    assert str(made._partial.settings.policy) == "full"
    assert made._partial.settings.staleness_bound == 5
    assert (made._partial.settings.catch_up, made._partial.settings.resync_every) == ("replay", 0)


def test_flush_of_a_group_that_nobody_knows_is_an_error_on_every_rank(fw, hvd, unchanged, name):
    with pytest.raises(ValueError, match="there is no group"):
        hvd.partial_flush(name)


def test_process_sets(fw, hvd, unchanged, name, ranks, needs_two):
    """That are none, that have not been added, or that this rank is not in."""
    tensors = [fw.tensor([0.0])]
    others = hvd.add_process_set([ranks[1] - 1])
    wrong = [([0], r"process_set=\[0\] is not a hvd.ProcessSet"),
             (hvd.ProcessSet([0]), "process_set=.* has not been added")]
    if ranks[0] < ranks[1] - 1:
        wrong.append((others, "process_set=.*this rank is not in it"))
    for process_set, message in wrong:
        with pytest.raises(ValueError, match=message):
            hvd.partial_allreduce(tensors, name, process_set=process_set)
    wrong = [*wrong[:2], *[(others, r"process_set: this rank is not in process set \d")
                           for others, _ in wrong[2:]]]
    for process_set, message in wrong:
        for call in (hvd.partial_flush, hvd.partial_stats):
            with pytest.raises(ValueError, match=message):
                call(name, process_set=process_set)
    with pytest.raises(ValueError, match=wrong[0][1]):
        fw.trainer(name=name, process_set=[0])
    if ranks[0] < ranks[1] - 1:
        outside = fw.trainer(name=name, process_set=others).optimizer
        with pytest.raises(ValueError, match="opt: this rank is not in the optimizer's process"):
            hvd.rounds(outside, 5)
        assert outside.stats()["submissions"] == 0
    assert hvd.remove_process_set(others)


def test_a_name_in_use(fw, hvd, keeps_state, name):
    first = fw.trainer(name=name)
    with keeps_state(name):
        with pytest.raises(ValueError, match="is in use by another optimizer: choose another name"):
            fw.trainer(name=name)
        with pytest.raises(ValueError, match="is in use by another optimizer"):
            hvd.partial_allreduce([fw.tensor([0.0])], name)
        with pytest.raises(ValueError, match="is in use by another optimizer"):
            hvd.partial_flush(name)
    first.optimizer.flush()  # still its own
    hvd.partial_allreduce([fw.tensor([0.0])], name + ".plain", policy="full")
    with keeps_state(name, name + ".plain"):
        with pytest.raises(ValueError, match="is in use by partial_allreduce"):
            fw.trainer(name=name + ".plain")
    assert hvd.partial_stats(name + ".plain")["rounds"] == 1


def test_what_runs_before_a_round_is_a_function(fw, hvd, name, ranks):
    trainer = fw.trainer(name=name)
    with pytest.raises(ValueError, match="fn=0.1 is not a function"):
        trainer.optimizer.register_before_round(0.1)
    trainer.step(ranks[0], 0)
    trainer.optimizer.flush()


def test_a_wrong_call_on_one_rank_takes_no_number(fw, hvd, ranks):
    """Or the ranks' next optimizers would have different names, and wait for each other."""
    before = fw.trainer()
    if ranks[0] == 0:
        for settings in (dict(policy="most"), dict(name=""), dict(process_set=[0]),
                         dict(backward_passes_per_step=0)):
            with pytest.raises(ValueError):
                fw.trainer(**settings)
    after = fw.trainer()
    number, next_number = (int(trainer.optimizer.stats()["name"].removeprefix("optimizer."))
                           for trainer in (before, after))
    assert next_number == number + 1
    after.step(ranks[0], 0)
    after.optimizer.flush()


DIFFERENCES = [
    ("staleness cost", lambda hvd, r: dict(policy=f"auto:{r + 1}"),
     "policy.*'auto:1' on rank 0 and 'auto:2'"),
    ("policy", lambda hvd, r: dict(policy="solo" if r else "full"), "policy.*'full' on rank 0"),
    ("K", lambda hvd, r: dict(policy=f"first:{1 + r}"), "policy.*'first:1' on rank 0"),
    ("bound", lambda hvd, r: dict(staleness_bound=5 + r), "staleness_bound.*5 on rank 0 and 6 on"),
    ("catch_up", lambda hvd, r: dict(catch_up="sum" if r else "latest"), "catch_up.*'latest'"),
    ("seed", lambda hvd, r: dict(seed=r), "seed.*0 on rank 0 and 1 on rank"),
    ("op", lambda hvd, r: dict(op=hvd.Average if r else hvd.Sum),
     "op must be the same.*Sum on rank 0 and Average"),
]
# That partial_allreduce does not have.
OF_OPTIMIZERS = [
    ("resync_every", lambda hvd, r: dict(resync_every=5 + r),
     "resync_every must be the same.*5 on rank 0 and 6 on rank"),
    ("no resync_every", lambda hvd, r: dict(resync_every=5) if r else {},
     "resync_every must be the same.*0 on rank 0 and 5 on rank"),
    ("predivide", lambda hvd, r: dict(gradient_predivide_factor=2.0 if r else 4.0),
     r"gradient_predivide_factor\) must be the same.*0.25 and 4 on rank 0 and 0.5 and 2 on rank"),
]


@pytest.mark.parametrize("what, settings, message", DIFFERENCES + OF_OPTIMIZERS,
                         ids=[d[0] for d in DIFFERENCES + OF_OPTIMIZERS])
def test_settings_that_differ_are_an_error_on_every_rank(
        fw, hvd, keeps_state, name, ranks, needs_two, what, settings, message):
    rank, _ = ranks
    mine = settings(hvd, min(rank, 1))
    with keeps_state(name, name + ".optimizer"):
        if (what, settings, message) in DIFFERENCES:
            with pytest.raises(ValueError, match=message):
                hvd.partial_allreduce([fw.tensor([0.0])], name, **mine)
        made = fw.trainer(name=name + ".optimizer", **mine)
        with pytest.raises(ValueError, match=message):
            made.optimizer.flush()
        del made
    # The name is free again for who agree.
    assert len(hvd.partial_allreduce([fw.tensor([0.0])], name, policy="full")) == 1


SHAPES = [
    ("shape", lambda fw, r: [fw.tensor([0.0] * (2 + r))], r"tensor 0.*\(2\) on rank 0.*\(3\) on rank"),
    ("dims", lambda fw, r: [fw.tensor([[0.0]] if r else [0.0])], "tensor 0"),
    ("number", lambda fw, r: [fw.tensor([0.0, 0.0])] * (1 + r), "number of tensors.*1 on rank 0 and 2"),
    ("dtype", lambda fw, r: [fw.tensor([0.0, 0.0], "float64" if r else "float32")],
     "tensor 0.*float32.*on rank 0 and.*float64"),
]


@pytest.mark.parametrize("what, tensors, message", SHAPES, ids=[d[0] for d in SHAPES])
def test_shapes_that_differ_are_an_error_on_every_rank(fw, hvd, unchanged, name, ranks, needs_two,
                                                       what, tensors, message):
    with pytest.raises(ValueError, match=message):
        hvd.partial_allreduce(tensors(fw, min(ranks[0], 1)), name, policy="majority")


def test_a_rank_that_comes_later_with_other_settings(fw, hvd, events, name, ranks, needs_two):
    """Its own error, and everybody else's: the group fails on all ranks."""
    rank, size = ranks
    first = dict(policy="solo", staleness_bound=100)
    if rank == size - 1:
        with hvd.excused():
            events.set("excused")
            for other in range(size - 1):
                events.wait(f"registered {other}")
        with pytest.raises(ValueError, match="staleness_bound"):
            hvd.partial_allreduce([fw.tensor([0.0])], name, policy="solo", staleness_bound=7)
    else:
        events.wait("excused")
        hvd.partial_allreduce([fw.tensor([0.0])], name, **first)
        events.set(f"registered {rank}")
        with pytest.raises(ValueError, match="staleness_bound"):
            while True:
                hvd.partial_allreduce([fw.tensor([0.0])], name, **first)


def test_settings_changed_between_calls(fw, hvd, name, ranks):
    hvd.partial_allreduce([fw.tensor([0.0])], name, policy="full")
    with pytest.raises(ValueError, match="staleness_bound|another name"):
        hvd.partial_allreduce([fw.tensor([0.0])], name, policy="full", staleness_bound=3)
    hvd.partial_allreduce([fw.tensor([0.0, 0.0])], name, policy="full")


def test_horovod_goes_on_after_all_this(fw, hvd, ranks):
    rank, size = ranks
    assert fw.values(hvd.allreduce(fw.tensor([1.0]), op=hvd.Sum, name="all this")) == [size]
    done, = hvd.partial_allreduce([fw.tensor([1.0])], "after all", policy="full", op=hvd.Sum)
    assert fw.values(done.tensors[0]) == [size]
