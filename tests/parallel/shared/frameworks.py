"""What the shared bodies need of a framework: tensors, and a small model that trains."""

import concurrent.futures
import functools
import importlib
import os

import numpy as np

KINDS = ["sgd", "momentum", "adam", "adamw", "rmsprop", "adagrad"]


def batch(rank, step):
    """A batch of this rank's own, alike in every framework."""
    random = np.random.default_rng([rank, step])
    return (random.normal(size=(16, 4)).astype(np.float32),
            random.normal(size=(16, 2)).astype(np.float32))


class Framework:
    def code(self, rank, elements=3, dtype="float32"):
        """A tensor that names its rank in any sum."""
        return self.tensor(np.full(elements, 2.0**rank), dtype)

    def values(self, tensor):
        return self.numpy(tensor).tolist()

    def library(self):
        """Horovod's native library of this framework."""
        return importlib.import_module(self.hvd.__name__ + ".ops").partial_groups.library


class Torch(Framework):
    def __init__(self):
        import torch

        import horovod_partial.torch as hvd

        torch.set_num_threads(1)
        self.torch = torch
        self.hvd = hvd

    def tensor(self, values, dtype="float32"):
        return self.torch.tensor(values, dtype=getattr(self.torch, dtype))

    def numpy(self, tensor):
        return tensor.float().numpy() if tensor.dtype == self.torch.bfloat16 else tensor.numpy()

    def dtype(self, tensor):
        return str(tensor.dtype).removeprefix("torch.")

    def start(self, tensors, name, **settings):
        """A submission that goes on while this rank does something else: ``done()`` asks,
        ``result()`` waits for it."""
        handle = self.hvd.partial_allreduce_async(tensors, name, **settings)
        hvd = self.hvd

        class Started:
            def done(self):
                return hvd.poll(handle)

            def result(self):
                return hvd.synchronize(handle)

        return Started()

    def trainer(self, kind="sgd", hvd=None, **settings):
        return TorchTrainer(self, kind, hvd or self.hvd, settings)

    def stock(self):
        import horovod.torch

        return horovod.torch


class TorchTrainer:
    def __init__(self, framework, kind, hvd, settings):
        torch = self.torch = framework.torch
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(),
                                         torch.nn.Linear(8, 2))
        make = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.05),
            "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.01),
            "adam": lambda p: torch.optim.Adam(p, lr=0.01),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
            "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
            "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
        }[kind]
        if "name" in settings:
            settings = {**settings, "named_parameters": self.model.named_parameters()}
        self.optimizer = hvd.DistributedOptimizer(make(self.model.parameters()), **settings)

    def step(self, rank, step):
        x, y = map(self.torch.tensor, batch(rank, step))
        self.optimizer.zero_grad()
        self.torch.nn.functional.mse_loss(self.model(x), y).backward()
        self.optimizer.step()

    def digest(self):
        return self.optimizer.digest()

    def weights(self):
        return [p.detach().numpy().copy() for p in self.model.parameters()]

    @property
    def learning_rate(self):
        return self.optimizer.param_groups[0]["lr"]

    @learning_rate.setter
    def learning_rate(self, value):
        self.optimizer.param_groups[0]["lr"] = value


@functools.cache
def few_threads():
    """Several ranks share a machine; TensorFlow takes this once, before it is used."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(2)


class TensorFlow(Framework):
    def __init__(self):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        import keras
        import tensorflow as tf

        import horovod_partial.tensorflow as hvd

        few_threads()
        self.keras, self.tf = keras, tf
        self.hvd = hvd
        self._pool = concurrent.futures.ThreadPoolExecutor(1)

    def tensor(self, values, dtype="float32"):
        return self.tf.constant(values, dtype)

    def numpy(self, tensor):
        return self.tf.cast(tensor, self.tf.float32 if tensor.dtype == self.tf.bfloat16
                            else tensor.dtype).numpy()

    def dtype(self, tensor):
        return tensor.dtype.name

    def start(self, tensors, name, **settings):
        return self._pool.submit(self.hvd.partial_allreduce, tensors, name, **settings)

    def trainer(self, kind="sgd", hvd=None, **settings):
        return TensorFlowTrainer(self, kind, hvd or self.hvd, settings)

    def stock(self):
        import horovod.tensorflow

        return horovod.tensorflow


class TensorFlowTrainer:
    """A custom loop, compiled."""

    def __init__(self, framework, kind, hvd, settings):
        keras, tf = framework.keras, framework.tf
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((4,)),
                                       keras.layers.Dense(8, activation="tanh"),
                                       keras.layers.Dense(2)])
        optimizers = keras.optimizers
        self.optimizer = hvd.DistributedOptimizer({
            "sgd": lambda: optimizers.SGD(0.05),
            "momentum": lambda: optimizers.SGD(0.05, momentum=0.9, weight_decay=0.01),
            "adam": lambda: optimizers.Adam(0.01),
            "adamw": lambda: optimizers.AdamW(0.01, amsgrad=True),
            "rmsprop": lambda: optimizers.RMSprop(0.01, momentum=0.5),
            "adagrad": lambda: optimizers.Adagrad(0.05),
        }[kind](), **settings)
        self.optimizer.build(self.model.trainable_variables)

        @tf.function
        def train(x, y):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(self.model(x) - y))
            gradients = tape.gradient(loss, self.model.trainable_variables)
            self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables))

        self._train = train

    def step(self, rank, step):
        self._train(*batch(rank, step))

    def digest(self):
        return self.optimizer._training.digest()

    def weights(self):
        return self.model.get_weights()

    @property
    def learning_rate(self):
        return float(self.optimizer.learning_rate)

    @learning_rate.setter
    def learning_rate(self, value):
        self.optimizer.learning_rate = value


def chosen():
    """The framework that the launcher wants tested."""
    return {"torch": Torch, "tensorflow": TensorFlow}[
        os.environ["HOROVOD_PARTIAL_TEST_FRAMEWORK"]]()
