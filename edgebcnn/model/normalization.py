"""Folds batch normalization with stored statistics into the convolutions, so that fine-tuning runs faster.

A convolution and the normalization behind it are one convolution then:

    γ·(k*x + b - μ)/σ + β = (k·γ/σ)*x + (b - μ)·γ/σ + β

The gradients of k, b, γ and β go through the product of a few thousand weights, and no longer through a layer of
millions of values, in the forward and backward pass. Without gradients nothing is gained: TensorFlow fuses both there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgebcnn.model.keras import keras, tf


def normalization_folded(network: Any) -> Callable[[Any], Any]:
    """The function that a network computes with `training=False`, its normalizations folded into its convolutions.

    Args:
        network: Functional Keras model of one input and one output. Its variables are read anew at each call, and are
            what gradients are of.

    Returns:
        From its input to its output, equal but for rounding. Layers of other kinds, and a normalization that follows
        none but a plain convolution, compute what they always do.
    """
    return lambda inputs: _Run(network, [inputs]).value(network.output)


class _Run:
    """One run through a network: the value of each of its tensors, computed on demand."""

    def __init__(self, network: Any, inputs: list[Any]) -> None:
        self._values = {id(tensor): value for tensor, value in zip(network.inputs, inputs, strict=True)}

    def value(self, tensor: Any) -> Any:
        wanted = [tensor]  # and not by recursion, of which Python allows less than some networks are deep
        while wanted:
            missing = [each for each in _read(wanted[-1].node) if id(each) not in self._values]
            if not missing:
                self._compute(wanted.pop())
            wanted += missing
        return self._values[id(tensor)]

    def _compute(self, tensor: Any) -> None:
        if id(tensor) in self._values:  # two layers wanted it
            return
        outputs = tf.nest.flatten(tensor.node.outputs), tf.nest.flatten(self._computed(tensor.node))
        self._values |= {id(each): value for each, value in zip(*outputs, strict=True)}

    def _computed(self, node: Any) -> Any:
        values = [self._values[id(tensor)] for tensor in _read(node)]
        if _is_folded(node):
            return _convolved(node.keras_inputs[0].node.layer, node.layer, *values)
        if isinstance(node.layer, keras.Model) and node.layer.outputs:
            inner = _Run(node.layer, values)
            return [inner.value(tensor) for tensor in node.layer.outputs]
        # A list for each tensor, from which Keras takes an item for each time that the layer was given the tensor.
        of_tensors = {str(id(tensor)): [value] * len(values) for tensor, value in zip(_read(node), values, strict=True)}
        arguments, options = node.map_arguments(of_tensors)
        return node.layer(*arguments, **options)


def _read(node: Any) -> list[Any]:
    """The tensors that an output is computed from."""
    before = node.keras_inputs[0].node if _is_folded(node) else node
    return list(before.keras_inputs)


def _is_folded(node: Any) -> bool:
    """Whether it is a normalization of the channels of a convolution that nothing else ends."""
    if not isinstance(node.layer, keras.layers.BatchNormalization):
        return False
    layer = node.keras_inputs[0].node.layer
    return (
        type(layer) in (keras.layers.Conv2D, keras.layers.DepthwiseConv2D)
        and layer.activation is keras.activations.linear
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and list(node.layer.axis) == [3]
    )


def _convolved(convolution: Any, normalization: Any, x: Any) -> Any:
    """Output of the normalization behind a convolution, `(n, h, w, c)`."""
    scale = tf.math.rsqrt(normalization.moving_variance + normalization.epsilon)
    if normalization.scale:
        scale *= normalization.gamma
    shift = (convolution.bias if convolution.use_bias else 0.0) - normalization.moving_mean
    shift = scale * shift + (normalization.beta if normalization.center else 0.0)
    return tf.nn.bias_add(_linear(convolution, scale, x), tf.cast(shift, x.dtype))


def _linear(convolution: Any, scale: Any, x: Any) -> Any:
    """What a convolution gives whose channels are scaled, without its bias."""
    if isinstance(convolution, keras.layers.DepthwiseConv2D):
        kernel = convolution.depthwise_kernel
        return keras.backend.depthwise_conv2d(
            x,
            tf.cast(kernel * tf.reshape(scale, kernel.shape[2:]), x.dtype),
            strides=convolution.strides,
            padding=convolution.padding,
            dilation_rate=convolution.dilation_rate,
        )
    kernel = tf.cast(convolution.kernel * scale, x.dtype)
    if convolution.kernel_size == convolution.strides == (1, 1):  # a CPU has the gradients of a matrix product sooner
        return tf.tensordot(x, kernel[0, 0], 1)
    return convolution.convolution_op(x, kernel)
