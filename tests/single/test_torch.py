"""One process with Horovod: the surface, every optimizer of torch, the replica's bytes."""

import copy
import inspect
import json
import pickle
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

import horovod.torch
import horovod_partial
import horovod_partial.torch as hvd
from horovod_partial import records
from horovod_partial._native import RawRound
from horovod_partial.participation import Journal, Participation
from horovod_partial.torch import replica


@pytest.fixture(scope="module", autouse=True)
def horovod_alone():
    hvd.init()
    yield
    hvd.shutdown()


def build():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))


def step(optimizer, model, number):
    generator = torch.Generator().manual_seed(number)
    optimizer.zero_grad()
    model(torch.randn(8, 4, generator=generator)).pow(2).mean().backward()
    optimizer.step()


def every_optimizer():
    needs_other_gradients = {"Optimizer", "LBFGS", "SparseAdam", "Muon"}  # Muon: matrices only
    return sorted(name for name, value in vars(torch.optim).items()
                  if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
                  and name not in needs_other_gradients)


@pytest.mark.parametrize("kind", every_optimizer())
def test_every_torch_optimizer_trains_as_without_horovod(kind):
    models = build(), build()
    make = getattr(torch.optim, kind)
    plain = make(models[0].parameters(), lr=0.01)
    partial = hvd.DistributedOptimizer(make(models[1].parameters(), lr=0.01),
                                       models[1].named_parameters())
    assert isinstance(partial, make)
    for number in range(4):
        step(plain, models[0], number)
        step(partial, models[1], number)
    for a, b in zip(models[0].parameters(), models[1].parameters()):
        assert torch.equal(a, b)
    assert partial.round == 4
    # What torch's own checkpoint needs is there.
    fresh = make(build().parameters(), lr=0.5)
    fresh.load_state_dict(partial.state_dict())
    assert fresh.param_groups[0]["lr"] == partial.param_groups[0]["lr"]


def test_sparse_adam():
    table = torch.nn.Embedding(6, 2, sparse=True)
    optimizer = hvd.DistributedOptimizer(torch.optim.SparseAdam(table.parameters()),
                                         sparse_as_dense=True)
    before = table.weight.detach().clone()
    table(torch.tensor([1, 4])).sum().backward()
    optimizer.step()
    changed = (table.weight != before).any(1).tolist()
    assert changed == [False, True, False, False, True, False]


def test_all_of_horovod_torch_is_there():
    missing = [name for name in vars(horovod.torch)
               if not name.startswith("_") and not hasattr(hvd, name)]
    assert missing == []
    for name in ("allreduce", "broadcast_parameters", "SyncBatchNorm", "elastic", "Compression"):
        assert getattr(hvd, name) is getattr(horovod.torch, name)


SURFACE = ["DistributedOptimizer", "partial_allreduce", "partial_allreduce_async",
           "partial_flush", "partial_stats", "PartialSummary", "rounds", "excused", "Round", "poll",
           "synchronize",
           "Solo", "Majority", "Quorum", "First", "Full", "Policy"]


@pytest.mark.parametrize("name", SURFACE)
def test_the_surface_is_documented(name):
    assert len(inspect.getdoc(getattr(hvd, name)) or "") > 40


@pytest.mark.parametrize("name", ["step", "flush", "round", "stats", "register_before_round",
                                  "synchronize", "skip_synchronize", "state_dict",
                                  "load_state_dict"])
def test_the_optimizer_is_documented(name):
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(build().parameters()))
    assert len(inspect.getdoc(getattr(type(optimizer), name)) or "") > 30


def test_drop_in_arguments_come_in_horovods_order():
    ours = list(inspect.signature(hvd.DistributedOptimizer).parameters)
    theirs = list(inspect.signature(horovod.torch.DistributedOptimizer).parameters)
    assert ours[:len(theirs)] == theirs


def test_groups_are_numbered_in_order_of_construction():
    names = [hvd.DistributedOptimizer(torch.optim.SGD(build().parameters()))._partial.name
             for _ in range(3)]
    numbers = [int(name.removeprefix("optimizer.")) for name in names]
    assert numbers == list(range(numbers[0], numbers[0] + 3))


def test_it_takes_over_the_state_of_the_wrapped_optimizer():
    model = build()
    inner = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    step(inner, model, 0)
    momentum = inner.state[model[0].weight]["momentum_buffer"].clone()
    partial = hvd.DistributedOptimizer(inner, model.named_parameters())
    assert torch.equal(partial.state[model[0].weight]["momentum_buffer"], momentum)


class OwnSGD(torch.optim.SGD):
    pass


class Own(NamedTuple):
    number: int


class TestReplica:
    def make(self):
        model = build()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01, amsgrad=True)
        step(optimizer, model, 0)
        return model, optimizer

    def test_a_replica_goes_over_bit_for_bit(self):
        one, two = self.make(), self.make()
        step(one[1], one[0], 7)
        one[1].param_groups[0]["lr"] = 0.25
        assert replica.digest(one[1]) != replica.digest(two[1])
        replica.load(two[1], replica.dump(one[1]))
        assert replica.digest(one[1]) == replica.digest(two[1])
        step(one[1], one[0], 8)
        step(two[1], two[0], 8)
        assert replica.digest(one[1]) == replica.digest(two[1])

    def test_into_an_optimizer_without_state(self):
        _, one = self.make()
        two = torch.optim.Adam(build().parameters(), lr=0.5)
        replica.load(two, replica.dump(one))
        assert replica.digest(one) == replica.digest(two)

    def test_state_and_options_of_all_plain_kinds(self):
        (one_model, one), (_, two) = self.make(), self.make()
        one.state[one_model[0].weight].update(
            number=3, ratio=0.5, nothing=None, several=[1, None, torch.ones(2), {"a": (2.0, "b")}])
        one.param_groups[0].update(lr=np.float64(0.25), rate=torch.tensor(0.5), seen=np.int64(3),
                                   names=["a", "b"], betas=(0.5, 0.25))
        replica.load(two, replica.dump(one))
        assert repr(two.param_groups[0]["lr"]) == "np.float64(0.25)"
        assert replica.digest(one) == replica.digest(two)

    def test_objects_of_an_optimizers_own(self):
        def make(kind):
            weight = torch.nn.Parameter(torch.zeros(2))
            return hvd.DistributedOptimizer(kind([weight], lr=0.1))

        # The state of an optimizer that is not of torch may be anything; torch's runs no code.
        for kind, fine in ((OwnSGD, True), (torch.optim.SGD, False)):
            one, two = make(kind), make(kind)
            one.param_groups[0]["own"] = Own(7)
            data = replica.dump(one)
            if fine:
                replica.load(two, data)
                assert two.param_groups[0]["own"] == Own(7)
            else:
                with pytest.raises(pickle.UnpicklingError, match="add_safe_globals"):
                    replica.load(two, data)
                assert "own" not in two.param_groups[0]

    @pytest.mark.parametrize("change", [
        lambda model, optimizer: model[0].weight.data[0, 0].add_(1e-7),
        lambda model, optimizer: optimizer.state[model[0].bias]["exp_avg"][0].add_(1e-9),
        lambda model, optimizer: optimizer.state[model[0].bias]["step"].add_(1),
        lambda model, optimizer: optimizer.param_groups[0].update(lr=0.02)],
        ids=["weight", "state", "step", "option"])
    def test_every_difference_changes_the_digest(self, change):
        model, optimizer = self.make()
        before = replica.digest(optimizer)
        assert before == replica.digest(optimizer)
        change(model, optimizer)
        assert replica.digest(optimizer) != before

    def test_state_of_another_dtype_than_its_parameter(self):
        """Optimizer.load_state_dict would cast it."""
        weight = torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))
        one = torch.optim.SGD([weight], lr=0.1)
        one.state[weight]["momentum_buffer"] = torch.full((2,), 1 + 2.0**-20)
        two = copy.deepcopy(one)
        other = two.param_groups[0]["params"][0]
        two.state[other]["momentum_buffer"] = torch.zeros(2)
        replica.load(two, replica.dump(one))
        assert two.state[other]["momentum_buffer"].dtype == torch.float32
        assert replica.digest(one) == replica.digest(two)


def train(steps):
    model = build()
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.01),
                                         model.named_parameters(), policy="first:1")
    for number in range(steps):
        step(optimizer, model, number)
    return model, optimizer


def test_statistics_are_json_that_the_report_reads(tmp_path):
    model, optimizer = train(3)
    optimizer.flush()
    step(optimizer, model, 3)
    stats = optimizer.stats()
    assert stats == hvd.partial_stats(stats["name"])
    assert (stats["rank"], stats["size"], stats["policy"]) == (0, 1, "first:1")
    assert stats["staleness_histogram"] == [4]
    assert len(stats["step_seconds"]) == 2  # between the first three submissions
    path = tmp_path / "stats.json"
    path.write_text(json.dumps([stats]))
    record, = records.read([path])
    assert (record.name, record.steps) == (stats["name"], [stats["step_seconds"]])


def test_a_histogram_of_staleness_stays_small():
    journal = Journal("solo")
    for count in (1, 10**6):
        journal.answered(0, [RawRound(0, count, False, False, (1,), None)])
    journal.answered(1, [RawRound(0, 3, False, False, (1,), None)])  # active in the newest
    assert journal.staleness == [0, 1, 1] + 97 * [0] + [1]


def test_participation_since_horovod_was_initialized_again():
    """As in an elastic job, where numbers begin anew."""
    _, optimizer = train(4)
    first = optimizer.stats()
    later = {**first, "round": 6, "rounds": 2, "submissions": 2, "wait_seconds": 0.0}
    looks = iter([first, later])
    optimizer.stats = lambda: next(looks)
    since = Participation(optimizer).since()
    assert since["partial_mean_active"] == 1 and since["partial_late"] == 0
    assert since["partial_round"] == 6


def test_tensorboard_shows_how_rounds_went(tmp_path):
    model, optimizer = train(2)
    with SummaryWriter(tmp_path) as writer:
        summary = hvd.PartialSummary(writer, optimizer)
        step(optimizer, model, 2)
        summary.log()
        step(optimizer, model, 3)
        step(optimizer, model, 4)
        summary.log(step=70)
    shown = EventAccumulator(str(tmp_path))
    shown.Reload()
    rounds, active, late = ([(e.step, e.value) for e in shown.Scalars(f"partial_{tag}")]
                            for tag in ("round", "mean_active", "late"))
    assert (rounds, active, late) == ([(3, 3), (70, 5)], [(3, 1), (70, 1)], [(3, 0), (70, 0)])
    assert shown.Scalars("partial_wait_seconds")[0].value < optimizer.stats()["wait_seconds"]
    with pytest.raises(ValueError, match="not a partial"):
        hvd.PartialSummary(None, torch.optim.SGD(model.parameters(), lr=0.01))


def test_the_versions_agree():
    assert horovod.__version__.endswith("+partial." + horovod_partial.__version__)
