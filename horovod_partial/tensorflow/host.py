"""From TensorFlow into Python and back: eager, or from inside a graph."""

import inspect
import weakref

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import func_graph, ops
from tensorflow.python.ops import control_flow_util

from horovod_partial import _native


def call(function, inputs, dtypes, shapes):
    """Has ``function(*arrays)`` called with the inputs' values as NumPy arrays in host memory.

    Args:
        function: returns a list of arrays. Its errors are raised as they are when eager, and by
            the graph as a ``tf.errors.OpError`` with the error's class and message.
        inputs: tensors.
        dtypes, shapes: of the outputs.

    Returns:
        A list of tensors.
    """
    if tf.executing_eagerly():
        outputs = function(*[tensor.numpy() for tensor in inputs])
        return [tf.convert_to_tensor(value, dtype) for value, dtype in zip(outputs, dtypes)]
    outputs = tf.numpy_function(_kept_by_graph(function), inputs, dtypes)
    for output, shape in zip(outputs, shapes):
        output.set_shape(shape)
    return outputs


def _kept_by_graph(function):
    """``function``, which lives as long as the ``tf.function`` that is being traced. TensorFlow
    would keep it, and the optimizer that it belongs to, for as long as the process lives."""
    if not (inspect.ismethod(function) and tf.compat.v1.executing_eagerly_outside_functions()):
        return function
    graph = ops.get_default_graph()
    while isinstance(graph, func_graph.FuncGraph):
        graph._horovod_partial = [*getattr(graph, "_horovod_partial", ()), function]
        graph = graph.outer_graph
    method = weakref.WeakMethod(function)
    return lambda *values: method()(*values)


def arrays(values):
    """What TensorFlow gave, which may be NumPy's scalars, as contiguous arrays."""
    return [np.ascontiguousarray(value) for value in values]


def addresses(values):
    return [value.ctypes.data for value in values]


def read(raw, dtypes, shapes):
    """The tensors of a RawRound as arrays."""
    results = [np.empty(shape, dtype.as_numpy_dtype) for dtype, shape in zip(dtypes, shapes)]
    raw.copy(addresses(results))
    return results


def spec(name, dtype, shape, what):
    """The TensorSpec of a tensor; ValueError that begins with ``what`` for a wrong dtype."""
    dtype = tf.as_dtype(dtype)
    return _native.TensorSpec(name, _native.dtype_code(what, dtype.name, dtype.name),
                              tuple(int(dim) for dim in shape))


def refuse_xla():
    """NotImplementedError in a step that XLA is to compile, which cannot call out of it."""
    if (not tf.executing_eagerly()
            and control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph())):
        raise NotImplementedError(
            "XLA cannot compile a step with partial rounds, because it cannot wait for other "
            "ranks: use model.compile(..., jit_compile=False) (Keras's default 'auto' compiles on "
            "a GPU), or tf.function without jit_compile=True")
