"""`run_function.py SCRIPT MODULE HOW`: the train() of a script beside this one, by horovod.run."""

import importlib
import os
import sys

import horovod

name, *arguments = sys.argv[1:]
os.environ["PYTHONPATH"] = os.pathsep.join(
    [os.path.dirname(os.path.abspath(__file__)), os.environ.get("PYTHONPATH", "")])
train = importlib.import_module(name).train
print("horovod.run:", horovod.run(train, tuple(arguments), np=2, use_gloo=True), flush=True)
