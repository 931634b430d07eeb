import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@pytest.fixture(scope="session")
def _initialized():
    import tensorflow as tf
    from frameworks import few_threads

    import horovod_partial.tensorflow as hvd

    few_threads()
    tf.get_logger().setLevel("ERROR")  # not what a test's many small functions cost
    hvd.init(process_sets="dynamic")
    return hvd


@pytest.fixture(scope="session", autouse=True)
def hvd(_initialized):
    """The module for Keras and, for what that leaves out, the one for TensorFlow."""
    import horovod_partial.tensorflow.keras as keras_module

    class Both:
        def __getattr__(self, name):
            return getattr(keras_module if hasattr(keras_module, name) else _initialized, name)

    both = Both()
    # Keras's take no tensors.
    for name in ("allreduce", "allgather", "broadcast"):
        setattr(both, name, getattr(_initialized, name))
    return both


@pytest.fixture(autouse=True)
def _names_from_the_start():
    """Keras counts models and optimizers in their names, by which variables are broadcast; a body
    may have made some on one rank alone."""
    import keras

    keras.utils.clear_session(free_memory=False)
