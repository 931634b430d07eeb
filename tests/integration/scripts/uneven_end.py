"""`uneven_end.py MODULE HOW`: rank 0 takes its few steps and ends; the others train on, and then end
as HOW says. A MODULE of stock Horovod trains partially by HOROVOD_PARTIAL_POLICY."""

import importlib
import os
import sys
import time

from trainer import Trainer


def train(module, how):
    hvd = importlib.import_module(module)
    if how == "outstanding":
        os.environ["HOROVOD_DYNAMIC_PROCESS_SETS"] = "1"
    hvd.init()
    settings = (dict(policy="first:2", staleness_bound=2) if module.startswith("horovod_partial")
                else {})
    trainer = Trainer(module, **settings)
    if how == "in-flight":
        import torch

        one = torch.ones(1)
        for _ in range(2):
            hvd.allreduce(one, name="cached")
        if hvd.rank() > 0:
            left = hvd.allreduce_async(one, name="cached")
        hvd.allreduce(one, name="so that rank 0 ends later")
    steps = 3 if hvd.rank() == 0 else 40
    for _ in range(steps):
        trainer.step()
    if hvd.rank() > 0 and how == "flush":
        trainer.optimizer.flush()  # rank 0 counts as having called it
    if hvd.rank() > 0 and how == "join":
        hvd.join()
    if hvd.rank() > 0 and how == "synchronous":
        # An ended rank cannot take part: an error at once, not a hang.
        try:
            hvd.allgather_object(1)
        except trainer.gone:
            print(f"rank {hvd.rank()} could not", flush=True)
    if hvd.rank() > 0 and how == "in-flight":
        try:
            hvd.synchronize(left)
        except trainer.gone:
            print(f"rank {hvd.rank()} could not", flush=True)
        # Horovod's checks for stalls, one each second, have nothing to say of it.
        over = time.monotonic() + 4
        while time.monotonic() < over:
            trainer.step()
    if how == "outstanding":
        left = share_what_is_left(hvd, trainer)  # noqa: F841
    print(f"rank {hvd.rank()} did {steps} steps and {trainer.optimizer.round} rounds", flush=True)
    if how == "unmatched":
        # Nobody has the counterpart, and nobody is left who could submit it.
        import torch

        left = hvd.allreduce_async(torch.ones(1), name=f"of {hvd.rank()} alone")  # noqa: F841
    if how == "shutdown":
        hvd.shutdown()
    if how == "exit0":
        sys.exit(0)
    return steps


def share_what_is_left(hvd, trainer):
    """Rank 0 ends with an operation outstanding. That one alone can still complete, with rank 1, while
    the others are in join(), which returns although rank 0 does not call it."""
    import torch

    if hvd.rank() == 0:
        return hvd.allreduce_async(torch.ones(1), name="left", op=hvd.Sum)
    if hvd.rank() == 1:
        for lost in (lambda: hvd.allreduce(torch.ones(1), name="another"),
                     lambda: hvd.add_process_set([0, 1])):
            try:
                lost()
            except trainer.gone:
                print("rank 1 could not", flush=True)
        total = hvd.allreduce(torch.ones(1), name="left", op=hvd.Sum).item()
        print(f"with what rank 0 left: {total}", flush=True)
    hvd.join()
    return None


if __name__ == "__main__":
    train(*sys.argv[1:])
