"""`failing.py MODULE HOW`: the last rank fails in its third step, and the others must not hang."""

import importlib
import os
import signal
import sys


def fail(how):
    if how == "exit":
        sys.exit(3)
    if how == "quit":
        quit(3)
    if how == "raise-to-another-hook":
        sys.excepthook = lambda kind, value, traceback: print(f"caught: {value}", flush=True)
    if how in ("SIGKILL", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, how))
    raise RuntimeError("a bug in step 3")


def train(module, how):
    from trainer import Trainer

    hvd = importlib.import_module(module)
    hvd.init()
    trainer = Trainer(module, policy="solo", staleness_bound=2)
    try:
        for step in range(100_000):
            if step == 3 and hvd.rank() == hvd.size() - 1:
                fail(how)
            trainer.step()
    finally:
        if how == "raise-and-shut-down":
            hvd.shutdown()
    print("went through", flush=True)


if __name__ == "__main__":
    train(*sys.argv[1:])
