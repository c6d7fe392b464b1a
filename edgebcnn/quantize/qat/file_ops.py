"""Rebuilds each op of a model file as a trainable Keras layer.

A layer of weights keeps them in units of its own, so that one learning rate suits them all: those of a folded
normalization differ a thousandfold between channels. A weight is 1 at 127 steps of its channel, where the largest of
them was when learning began, and a bias at 127 steps of the layer's output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgebcnn.model.keras import keras, tf

STEPS = 127

Options = Mapping[str, Any]

_kinds = schema.ActivationFunctionType
_FUSED: dict[int, Callable[[Any], Any]] = {_kinds.NONE: tf.identity, _kinds.RELU: tf.nn.relu, _kinds.RELU6: tf.nn.relu6}

_register = keras.saving.register_keras_serializable(package="edgebcnn")


def options_of(operator: Any) -> dict[str, int]:
    """The options of an op in the schema's `OperatorT`."""
    options = {} if operator.builtinOptions is None else vars(operator.builtinOptions)
    return {name: int(value) for name, value in options.items() if isinstance(value, int | np.integer)}


def is_known(op: str, options: Options) -> bool:
    """Whether there is a layer for an op.

    Args:
        op: TFLite's name of it.
        options: Of the op.
    """
    return (op in _LINEAR or op in _PLAIN) and options.get("fusedActivationFunction", _kinds.NONE) in _FUSED


def has_weights(op: str) -> bool:
    """Whether an op has weights and perhaps a bias."""
    return op in _LINEAR


def from_file(op: str, kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """A kernel of a file, `(out, h, w, in)`, `(1, h, w, out)` (depthwise) or `(out, in)`, with `out` as last axis."""
    return kernel[0] if op == "DEPTHWISE_CONV_2D" else np.moveaxis(kernel, 0, -1)


def to_file(op: str, kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse of `from_file`."""
    return kernel[np.newaxis] if op == "DEPTHWISE_CONV_2D" else np.moveaxis(kernel, -1, 0)


@_register
class PlainOp(keras.layers.Layer):  # type: ignore[misc]
    """An op without weights.

    Args:
        op: TFLite's name of it.
        options: Of the op; `constants` are those of its inputs that lie in the file.
    """

    def __init__(self, op: str, options: Options, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.op, self.options = op, dict(options)

    def call(self, inputs: Any) -> Any:
        """Computes the op."""
        return _fused(_PLAIN[self.op](tf.nest.flatten(inputs), self.options), self.options)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {**super().get_config(), "op": self.op, "options": self.options}


@_register
class LinearOp(keras.layers.Layer):  # type: ignore[misc]
    """A convolution or a product with a matrix, whose weights are made by `units`.

    Args:
        op: TFLite's name of it.
        options: Of the op.
        shape: Of the kernel, `out` last.
        learns: Whether its kernel does.
        biased: Whether it has a bias, which learns with the kernel.
    """

    def __init__(
        self, op: str, options: Options, shape: Sequence[int], learns: bool, biased: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.op, self.options, self.shape = op, dict(options), tuple(shape)
        self.learns, self.biased = learns, biased

    def build(self, input_shape: Any) -> None:
        """Makes kernel and bias, and their units `(out,)`."""
        out = self.shape[-1:]
        self.kernel = self.add_weight(name="kernel", shape=self.shape, trainable=self.learns)
        self.bias = self.add_weight(name="bias", shape=out, trainable=self.learns and self.biased)
        self.kernel_unit = self.add_weight(name="kernel_unit", shape=out, trainable=False)
        self.bias_unit = self.add_weight(name="bias_unit", shape=out, trainable=False)
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Computes the op."""
        linear = _LINEAR[self.op](inputs, self.kernel * self.kernel_unit, self.options)
        return _fused(linear + self.bias * self.bias_unit, self.options)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        mine = ("op", "options", "shape", "learns", "biased")
        return {**super().get_config(), **{name: getattr(self, name) for name in mine}}


def units(kernel: NDArray[np.float64], bias: NDArray[np.float64] | None, *, step: float) -> list[NDArray[np.float64]]:
    """The weights of a `LinearOp`.

    Args:
        kernel: As `from_file` gives it.
        bias: `(out,)`, or None.
        step: Of the output in int8.
    """
    largest = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1)))
    largest[largest == 0] = 1
    bias_unit = np.full(largest.shape, STEPS * step)
    return [kernel / largest, np.zeros_like(largest) if bias is None else bias / bias_unit, largest, bias_unit]


def _fused(x: Any, options: Options) -> Any:
    return _FUSED[options.get("fusedActivationFunction", _kinds.NONE)](x)


def _padding(options: Options) -> str:
    return "SAME" if options["padding"] == schema.Padding.SAME else "VALID"


def _window(options: Options) -> dict[str, Any]:
    strides = options["strideH"], options["strideW"]
    return {
        "ksize": (options["filterHeight"], options["filterWidth"]),
        "strides": strides,
        "padding": _padding(options),
    }


def _conv(x: Any, kernel: Any, options: Options) -> Any:
    dilations = options["dilationHFactor"], options["dilationWFactor"]
    return tf.nn.conv2d(x, kernel, (options["strideH"], options["strideW"]), _padding(options), dilations=dilations)


def _depthwise(x: Any, kernel: Any, options: Options) -> Any:
    height, width, out = kernel.shape
    kernel = tf.reshape(kernel, (height, width, x.shape[-1], out // x.shape[-1]))
    strides = (1, options["strideH"], options["strideW"], 1)
    dilations = options["dilationHFactor"], options["dilationWFactor"]
    return tf.nn.depthwise_conv2d(x, kernel, strides, _padding(options), dilations=dilations)


_LINEAR: dict[str, Callable[[Any, Any, Options], Any]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": lambda x, kernel, options: tf.matmul(x, kernel),
}

_PLAIN: dict[str, Callable[[list[Any], Options], Any]] = {
    "ABS": lambda x, options: tf.abs(x[0]),
    "ADD": lambda x, options: tf.add(*_both(x, options)),
    "AVERAGE_POOL_2D": lambda x, options: tf.nn.avg_pool2d(x[0], **_window(options)),
    "CONCATENATION": lambda x, options: tf.concat(x, options["axis"]),
    "HARD_SWISH": lambda x, options: x[0] * tf.nn.relu6(x[0] + 3) / 6,
    "L2_NORMALIZATION": lambda x, options: tf.math.l2_normalize(x[0], -1),
    "LOGISTIC": lambda x, options: tf.sigmoid(x[0]),
    "MAX_POOL_2D": lambda x, options: tf.nn.max_pool2d(x[0], **_window(options)),
    "MEAN": lambda x, options: tf.reduce_mean(x[0], options["constants"][0], keepdims=bool(options["keepDims"])),
    "MUL": lambda x, options: tf.multiply(*_both(x, options)),
    "PAD": lambda x, options: tf.pad(x[0], options["constants"][0]),
    "QUANTIZE": lambda x, options: x[0],
    "RELU": lambda x, options: tf.nn.relu(x[0]),
    "RELU6": lambda x, options: tf.nn.relu6(x[0]),
    "RSQRT": lambda x, options: tf.math.rsqrt(x[0]),
    "TANH": lambda x, options: tf.tanh(x[0]),
}


def _both(x: list[Any], options: Options) -> list[Any]:
    """The operands of an op that does not mind their order, one of which may lie in the file."""
    return [*x, *(tf.constant(each, tf.float32) for each in options["constants"])]
