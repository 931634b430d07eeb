"""Trains until another rank is gone, and says so.

    survivor.py tensorflow|torch STEPS [PLACE PLACE PLACE]

STEPS 0: for ever. After step 20, rank i goes to the i-th place: "step" (goes on), "flush" or "join".
Each rank's gradient is 2**rank, so that the weights tell what was lost: nothing.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

framework, steps, *places = sys.argv[1:]
steps = int(steps)

if framework == "torch":
    import torch

    import horovod_partial.torch as hvd
    from horovod.common.exceptions import HorovodInternalError as Gone

    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))

    def make():
        return hvd.DistributedOptimizer(torch.optim.SGD([weight], lr=1.0), op=hvd.Sum,
                                        policy="majority", staleness_bound=4)

    def step(optimizer):
        optimizer.zero_grad()
        (weight * 2.0**hvd.rank()).sum().backward()
        optimizer.step()
else:
    import keras
    import tensorflow as tf

    import horovod_partial.tensorflow as hvd
    from horovod.common.exceptions import HorovodInternalError

    Gone = (HorovodInternalError, tf.errors.OpError)  # outside and inside of a graph

    weight = keras.Variable(tf.zeros(4, tf.float64), dtype="float64")

    def make():
        made = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), op=hvd.Sum,
                                        policy="majority", staleness_bound=4)
        made.build([weight])
        return made

    def step(optimizer):
        run(optimizer)

    @tf.function
    def run(optimizer):
        optimizer.apply([tf.fill([4], tf.constant(2.0**hvd.rank(), tf.float64))], [weight])

hvd.init()
optimizer = make()
try:
    done = 0
    while steps == 0 or done < steps:
        step(optimizer)
        done += 1
        if done in (1, 20):
            print(f"rank {hvd.rank()} did step {done}", flush=True)
        if done == 20 and places and places[hvd.rank()] != "step":
            {"flush": optimizer.flush, "join": hvd.join}[places[hvd.rank()]]()
    optimizer.flush()
except Gone as error:
    assert "HorovodInternalError" in type(error).__name__ + str(error), error
    print(f"rank {hvd.rank()} noticed", flush=True)
    sys.exit(7)
value = -float(weight.detach()[0] if framework == "torch" else weight[0])
print(f"rank {hvd.rank()} has {value} after {optimizer.round} rounds", flush=True)
