"""Horovod's executor for Ray. Ray is large, and installed by `make test-ray` alone."""

import contextlib
import os
import sys

import pytest

# Patience on a busy machine, and no token of this cluster in the home directory. Ray reads them when
# it is imported.
os.environ.setdefault("RAY_raylet_start_wait_time_s", "200")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")

ray = pytest.importorskip("ray", reason="Ray is not installed: `make test-ray` installs and tests it")

from horovod.ray import RayExecutor  # noqa: E402

POLICY = {"HOROVOD_PARTIAL_POLICY": "first:1", "HOROVOD_PARTIAL_STALENESS_BOUND": "2"}
pytestmark = pytest.mark.timeout(300)
# Workers cannot import this file.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory):
    # Workers import from where the driver is, and this repository is not what is installed.
    with contextlib.chdir(tmp_path_factory.mktemp("driver")):
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def executor():
    executors = []

    def start(**arguments):
        executors.append(RayExecutor(RayExecutor.create_settings(timeout_s=120, nics={"lo"}),
                                     use_current_placement_group=False, **arguments))
        executors[-1].start(extra_env_vars=POLICY)
        return executors[-1]

    yield start
    for each in executors:
        each.shutdown()


def train(steps):
    """A script for stock Horovod; ranks do different numbers of steps."""
    import torch

    import horovod.torch as hvd

    hvd.init()
    model = torch.nn.Linear(4, 2)
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.01),
                                         named_parameters=model.named_parameters())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    for _ in range(steps[hvd.rank()]):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).pow(2).sum().backward()
        optimizer.step()
    return hvd.rank(), hvd.size(), optimizer._partial.settings.policy, optimizer.stats()["submissions"]


def test_an_unmodified_function_trains_partially(executor):
    """The rank that does little is not waited for by the one that goes on."""
    answers = executor(num_workers=2).run(train, args=[(3, 40)])
    assert [(rank, size, str(policy)) for rank, size, policy, _ in answers] == [
        (0, 2, "first:1"), (1, 2, "first:1")]
    assert [submissions for *_, submissions in answers] == [3, 40]


def test_calls_follow_one_another(executor):
    workers = executor(num_hosts=1, num_workers_per_host=2)
    for steps in [(2, 20), (20, 2)]:
        assert [answer[3] for answer in workers.run(train, args=[steps])] == list(steps)


def fail():
    import horovod.torch as hvd

    hvd.init()
    if hvd.rank() == 1:
        raise ValueError("a bug")
    train((1_000_000, 0))


def test_a_function_that_fails_ends_the_job(executor):
    with pytest.raises(ray.exceptions.RayTaskError, match="a bug|shut down|HorovodInternalError"):
        executor(num_workers=2).run(fail)
