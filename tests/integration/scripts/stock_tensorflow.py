"""Stock Horovod operations on TensorFlow, which the patched build has to leave as they are."""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

import horovod.tensorflow as hvd

hvd.init()
rank, size = hvd.rank(), hvd.size()
assert hvd.allreduce(tf.constant([2.0**rank]), op=hvd.Sum).numpy() == [2.0**size - 1]
assert hvd.broadcast(tf.constant([rank]), root_rank=size - 1).numpy() == [size - 1]
weight = tf.Variable([1.0, 2.0])
with tf.GradientTape() as tape:
    loss = tf.reduce_sum(weight) * float(2**rank)
gradient, = hvd.DistributedGradientTape(tape).gradient(loss, [weight])
assert gradient.numpy().tolist() == [(2**size - 1) / size] * 2
print(f"rank {rank} has TensorFlow", flush=True)
