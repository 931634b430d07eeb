"""A script written for horovod.tensorflow.keras, each rank with data of its own. Prints how it
trained and whether all ranks ended with the same weights."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np

import horovod.tensorflow.keras as hvd

hvd.init()
keras.utils.set_random_seed(hvd.rank())
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"),
                          keras.layers.Dense(1)])
optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(0.01 * hvd.size(), momentum=0.9))
model.compile(optimizer, "mse")
random = np.random.default_rng(hvd.rank())
x = random.normal(size=(64, 4)).astype(np.float32)
y = x.sum(axis=1, keepdims=True)
history = model.fit(x, y, batch_size=8, epochs=4, verbose=0, callbacks=[
    hvd.callbacks.BroadcastGlobalVariablesCallback(0),
    hvd.callbacks.MetricAverageCallback(),
    hvd.callbacks.LearningRateWarmupCallback(0.01 * hvd.size(), warmup_epochs=2),
])
losses = history.history["loss"]
assert losses[-1] < losses[0], losses
how = (f"partially: {optimizer._partial.settings.policy}, {optimizer.stats()['late']} late"
       if hasattr(optimizer, "stats") else "synchronously")
if hasattr(optimizer, "flush"):
    optimizer.flush()
mine = np.concatenate([weight.reshape(-1) for weight in model.get_weights()])
everybody = np.asarray(hvd.allgather(mine[None], name="weights"))
same = all(np.array_equal(everybody[0], other) for other in everybody)
print(f"rank {hvd.rank()} trained {how}; weights {'equal' if same else 'DIFFER'}", flush=True)
