"""`run_function.py SCRIPT MODULE HOW`: the train() of a script in this directory, the current one, by
horovod.run."""

import importlib
import sys

import horovod

if __name__ == "__main__":  # the launcher's own helpers import this file again
    name, *arguments = sys.argv[1:]
    train = importlib.import_module(name).train
    print("horovod.run:", horovod.run(train, tuple(arguments), np=2, use_gloo=True), flush=True)
