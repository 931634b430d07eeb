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
# By a thread: signals do not end a wait for Ray.
pytestmark = pytest.mark.timeout(300, method="thread")
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

    def start(executable_cls=None, **arguments):
        executors.append(RayExecutor(RayExecutor.create_settings(timeout_s=120, nics={"lo"}),
                                     use_current_placement_group=False, **arguments))
        executors[-1].start(executable_cls, extra_env_vars=POLICY)
        return executors[-1]

    yield start
    for each in executors:
        each.shutdown()


class Training:
    """A script for stock Horovod, whose replica lives as long as the worker."""

    def __init__(self):
        import torch

        import horovod.torch as hvd

        hvd.init()
        self.model = torch.nn.Linear(4, 2)
        self.optimizer = hvd.DistributedOptimizer(torch.optim.SGD(self.model.parameters(), lr=0.01),
                                                  named_parameters=self.model.named_parameters())
        hvd.broadcast_parameters(self.model.state_dict(), root_rank=0)

    def train(self, steps):
        """Ranks do different numbers of steps."""
        import torch

        import horovod.torch as hvd

        for _ in range(steps[hvd.rank()]):
            self.optimizer.zero_grad()
            self.model(torch.randn(8, 4)).pow(2).sum().backward()
            self.optimizer.step()
        return (hvd.rank(), hvd.size(), str(self.optimizer._partial.settings.policy),
                self.optimizer.stats()["submissions"])


def test_an_unmodified_function_trains_partially(executor):
    answers = executor(num_workers=2).run(lambda steps: Training().train(steps), args=[(3, 40)])
    assert answers == [(0, 2, "first:1", 3), (1, 2, "first:1", 40)]


def test_rounds_do_not_wait_for_a_worker_between_calls(executor):
    """Its replica lives on, and falls behind further than the staleness bound allows."""
    workers = executor(Training, num_hosts=1, num_workers_per_host=2)
    for steps, sums in [((2, 20), [2, 20]), ((20, 2), [22, 22])]:
        answers = workers.execute(lambda training, steps=steps: training.train(steps))
        assert [answer[3] for answer in answers] == sums


def fail():
    import horovod.torch as hvd

    hvd.init()
    if hvd.rank() == 1:
        raise ValueError("a bug")
    Training().train((1_000_000, 0))


def test_a_function_that_fails_ends_the_job(executor):
    """The other rank learns of it."""
    first, second = executor(num_workers=2).run_remote(fail)
    with pytest.raises(ray.exceptions.RayTaskError, match="a bug"):
        ray.get(second, timeout=120)
    with pytest.raises(ray.exceptions.RayTaskError, match="HorovodInternalError"):
        ray.get(first, timeout=120)
