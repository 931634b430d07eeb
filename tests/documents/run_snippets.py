"""Runs the Python code of the documents in one process, each snippet with the names that the text
around it takes for granted:

    python tests/documents/run_snippets.py torch|keras < JSON list of [where, code]

Prints "ran WHERE" for each. Lengths of trainings in it are shortened. Also prints "has NAME" for
each name of our modules that the environment variable NAMES lists, and the keys of stats()."""

import contextlib
import json
import os
import re
import sys
import tempfile
import traceback

LENGTH = re.compile(r"\b\d{1,2}_?000\b|\b100\b")


def torch_names():
    import torch

    import horovod_partial.torch as hvd

    hvd.init()
    torch.manual_seed(0)

    def names(number):
        model = torch.nn.Linear(4, 1)
        inputs, targets = torch.randn(64, 4), torch.randn(64, 1)

        def batches():
            while True:
                yield inputs[:8], targets[:8]

        optimizer = hvd.DistributedOptimizer(
            torch.optim.SGD(model.parameters(), lr=0.1), model.named_parameters(),
            name=f"snippet.{number}")
        calls = []
        return dict(calls=calls, validate_and_save=calls.append, torch=torch, hvd=hvd, model=model, optimizer=optimizer, batches=batches(),
                    inputs=inputs, targets=targets, loss=lambda model, batch:
                    torch.nn.functional.mse_loss(model(batch[0]), batch[1]))

    def afterwards(names):
        """Functions that a snippet registers run with the next step."""
        optimizer, model = names["optimizer"], names["model"]
        if model is not None and hasattr(optimizer, "flush"):
            names["loss"](model, next(names["batches"])).backward()
            optimizer.step()
            assert optimizer.round > 0
        assert "at_flush" not in names["code"] or names["calls"]

    return names, afterwards


def keras_names():
    import keras
    import numpy as np
    import tensorflow as tf

    import horovod_partial.tensorflow.keras as hvd

    hvd.init()

    def names(_):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        x = np.zeros((16, 4), np.float32)
        data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(4)
        calls = []
        return dict(keras=keras, tf=tf, hvd=hvd, model=model, data=data, calls=calls,
                    validate_and_save=calls.append)

    def afterwards(names):
        model = names["model"]
        if "callbacks" in names:
            model.compile(names["hvd"].DistributedOptimizer(keras.optimizers.SGD()), "mse")
            model.fit(names["data"], verbose=0, callbacks=names["callbacks"])
        else:
            assert names["calls"] and model.optimizer.round >= names["calls"][0] > 0

    return names, afterwards


def has(modules, name):
    for module in modules:
        found = module
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not None:
            return True
    return False


def look_up(framework):
    if framework == "torch":
        import horovod_partial.torch as modules
        modules = [modules]
    else:
        import horovod_partial.tensorflow
        import horovod_partial.tensorflow.keras
        modules = [horovod_partial.tensorflow, horovod_partial.tensorflow.keras]
    for name in os.environ["NAMES"].split():
        if has(modules, name):
            print(f"has {name}")


def main(framework, snippets):
    names, afterwards = {"torch": torch_names, "keras": keras_names}[framework]()
    failed = False
    for number, (where, code) in enumerate(snippets):
        given = dict(names(number), code=code)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                exec(compile(LENGTH.sub("8", code), where, "exec"), given)
                afterwards(given)
            print(f"ran {where}", flush=True)
        except Exception:
            failed = True
            traceback.print_exc()
        if number == 0:
            optimizer = given.get("optimizer") or given["model"].optimizer
            print("stats", *optimizer.stats())
        given.clear()
    look_up(framework)
    return failed


if __name__ == "__main__":
    snippets = json.load(sys.stdin)
    os.chdir(tempfile.mkdtemp())
    sys.exit(main(sys.argv[1], snippets))
