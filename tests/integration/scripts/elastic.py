"""Elastic training that gains a host and loses one. `elastic.py torch|keras HOSTS NEW VICTIM`.

HOSTS is what the discovery script prints; rank 0 adds the host NEW to it once. In the third chunk of
steps with three ranks, rank VICTIM kills itself. Two more chunks, and it is over. Every
step of every rank submits a gradient of 1, reduced by Sum, so that minus the weight is the number of
submissions: `state.total`, where nothing was lost or counted twice. Each step also submits to `plain`,
a group of partial_allreduce, which has no commit to go back to."""

import os
import signal
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

framework, hosts, new, victim = sys.argv[1:]
CHUNK = 10

if framework == "torch":
    import torch

    import horovod_partial.torch as hvd
    from horovod_partial.torch import elastic

    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    one = torch.ones(1)

    def weight():
        return model.weight.item()

    def take_steps(before_step):
        for step in range(CHUNK):
            before_step(step)
            optimizer.zero_grad()
            model(torch.ones(1, 1)).sum().backward()
            optimizer.step()
else:
    import keras
    import numpy as np
    import tensorflow as tf

    import horovod_partial.tensorflow.keras as hvd
    from horovod_partial.tensorflow.keras import elastic

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    optimizer = keras.optimizers.SGD(1.0)

    one = tf.ones(1)

    def weight():
        return float(model.get_weights()[0][0, 0])

    def take_steps(before_step):
        model.fit(np.ones((CHUNK, 1)), np.zeros((CHUNK, 1)), batch_size=1, verbose=0, callbacks=[
            keras.callbacks.LambdaCallback(on_train_batch_begin=lambda step, logs: before_step(step))])

hvd.init()
optimizer = hvd.DistributedOptimizer(optimizer, op=hvd.Sum, policy="majority", staleness_bound=4)
if framework == "torch":
    torch.nn.init.zeros_(model.weight)
    state = elastic.TorchState(model, optimizer, chunks=0, large=0, todo=2, total=0)
else:
    model.set_weights([np.zeros((1, 1))])
    model.compile(optimizer, lambda wanted, given: given)
    state = elastic.KerasState(model, chunks=0, large=0, todo=2, total=0)


def before_step(step):
    if (state.large, step, hvd.size(), hvd.rank()) == (2, 5, 3, int(victim)):
        os.kill(os.getpid(), signal.SIGKILL)
    hvd.partial_allreduce([one], "plain", policy="solo")


@elastic.run
def train(state):
    print(f"rank {hvd.rank()} of {hvd.size()} begins: {state.total} submissions, weight {weight()}",
          flush=True)
    while state.todo:
        if hvd.rank() == 0 and state.chunks == 1:
            with open(hosts, "a") as file:
                file.write(f"{new}:1\n")
        take_steps(before_step)
        state.chunks += 1
        state.large += hvd.size() == 3
        state.todo -= state.large > 0 and hvd.size() == 2
        state.total += CHUNK * hvd.size()
        state.commit()
    stats = optimizer.stats()
    print(f"rank {hvd.rank()} of {hvd.size()} ends: {state.total} submissions, weight {weight()}, "
          f"{stats['submissions']} in this life", flush=True)


train(state)
