"""Says what a DistributedOptimizer has against the environment: corrects each variable that an error
names, until there is no error; then lets the first error end the job.

    wrong_environment.py MODULE [VARIABLE=VALUE ...]

The variables given here are rank 1's alone. The script knows nothing of us unless MODULE is ours.
"""

import importlib
import os
import re
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
hvd = importlib.import_module(sys.argv[1])
hvd.init()

if sys.argv[1].endswith("torch"):
    import torch

    def train():
        weight = torch.nn.Parameter(torch.zeros(2))
        optimizer = hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0))
        weight.sum().backward()
        optimizer.step()
else:
    import keras

    def train():
        weight = keras.Variable([0.0, 0.0])
        optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0))
        optimizer.build([weight])
        optimizer.apply([keras.ops.ones(2)], [weight])

if hvd.rank() == 1:
    os.environ.update(argument.split("=") for argument in sys.argv[2:])
environment = dict(os.environ)
while True:
    try:
        train()
        break
    except ValueError as error:
        print(f"rank {hvd.rank()}: {error}", flush=True)
        named = re.search(r"environment variable HOROVOD_PARTIAL_(\w+)|(\w+) must be the same",
                          str(error))
        variable = "HOROVOD_PARTIAL_" + (named[1] or named[2]).upper()
        os.environ.pop(variable, None)
        if variable == "HOROVOD_PARTIAL_POLICY":
            os.environ[variable] = "majority"  # without one, a stock script is synchronous
os.environ.update(environment)
train()
