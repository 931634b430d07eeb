"""What Horovod's elastic states need of partial optimizers: ``patches/partial/elastic`` calls it."""

from horovod_partial.groups import PartialOptimizer


def flush(state):
    """Has all ranks stand at the same round, with identical replicas and nothing in flight: before
    a commit, or they would restore different rounds, and before a change of hosts, or what send
    buffers hold would be lost. Every rank calls it."""
    for value in list(vars(state).values()):
        for optimizer in (value, getattr(value, "inner_optimizer", None)):
            if isinstance(optimizer, PartialOptimizer):
                optimizer.flush()
                break
