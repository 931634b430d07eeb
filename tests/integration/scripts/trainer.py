"""For scripts of whole jobs: a training whose every step submits a gradient of 1, reduced by Sum, so
that minus the weight is the number of submissions that rounds have carried."""

import importlib
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


class Trainer:
    """Training by `module`, such as `horovod_partial.torch` or `horovod.tensorflow.keras`; `settings`
    are for `DistributedOptimizer`. `hvd.init()` comes before.

    Attributes:
        gone: what another rank's failure raises here.
    """

    def __init__(self, module, **settings):
        self._torch = module.endswith("torch")
        self._hvd = importlib.import_module(module)
        self.make(**settings)

    def make(self, **settings):
        """A new weight of 0 and its optimizer."""
        (self._make_torch if self._torch else self._make_keras)(**settings)

    def _make_torch(self, **settings):
        import torch

        from horovod.common.exceptions import HorovodInternalError

        weight = torch.nn.Parameter(torch.zeros(2))
        self.gone = HorovodInternalError
        self.optimizer = self._hvd.DistributedOptimizer(
            torch.optim.SGD([weight], lr=1.0), op=self._hvd.Sum, **settings)

        def step():
            self.optimizer.zero_grad()
            weight.sum().backward()
            self.optimizer.step()

        self.step = step
        self.save = self.optimizer.state_dict
        self.weight = lambda: weight.detach()[0].item()

    def _make_keras(self, **settings):
        import keras
        import tensorflow as tf

        weight = keras.Variable(tf.zeros(2))
        self.gone = tf.errors.OpError
        self.optimizer = optimizer = self._hvd.DistributedOptimizer(
            keras.optimizers.SGD(1.0), op=self._hvd.Sum, **settings)
        optimizer.build([weight])

        @tf.function
        def step():
            optimizer.apply([tf.ones(2)], [weight])

        self.step = step
        self.save = lambda: optimizer.save_own_variables({})
        self.weight = lambda: float(weight[0])
