"""A network whose normalisation is folded computes the same, and learns the same."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest

from edgebcnn.model.bcnn import Architecture, build
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.normalization import normalization_folded

SIDE_PX = 64


def drawn(network: Any) -> Any:
    """Gives every normalisation statistics and factors that are its own."""
    rng = np.random.default_rng(0)
    for layer in network.submodules:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights([rng.uniform(0.5, 1.5, weight.shape) for weight in layer.get_weights()])
    return network


def outputs_and_gradients(function: Any, network: Any, inputs: Any) -> list[Any]:
    """What a function of a network gives, and the gradients of a loss of it."""

    def computed() -> Any:
        with tf.GradientTape() as tape:
            outputs = function(inputs)
            loss = tf.reduce_sum(tf.square(outputs))
        return [outputs, *tape.gradient(loss, network.trainable_variables)]

    return [tensor.numpy() for tensor in tf.function(computed, autograph=False)()]


def assert_same(network: Any, inputs: Any) -> None:
    folded = outputs_and_gradients(normalization_folded(network), network, inputs)
    plain = outputs_and_gradients(lambda x: network(x, training=False), network, inputs)
    for ours, theirs in zip(folded, plain, strict=True):
        # Sums of millions of float32 terms, in another order.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3 * max(1e-6, float(np.abs(theirs).max())))


def suffix(streams: str, **choices: Any) -> Any:
    architecture = Architecture(streams=streams, pooling="gap", tail="none", classes=2, **choices)
    return drawn(build(architecture).suffix)


def pictures(side_px: int = SIDE_PX) -> Any:
    return tf.constant(np.random.default_rng(1).uniform(-1, 1, (2, side_px, side_px, 3)), tf.float32)


@pytest.mark.parametrize(
    "streams",
    [
        "mobilenet_v2_0.35",
        "mobilenet_v3_small",
        "small,mobilenet_v2_0.35",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet_b0", "efficientnet_lite0", "resnet50")),
    ],
)
def test_folded_backbone_gives_the_same_maps_and_gradients(streams: str) -> None:
    assert_same(suffix(streams), pictures())


def test_every_convolution_is_computed_once_and_no_normalization_is_left_behind_it() -> None:
    network = suffix("mobilenet_v2_0.35")
    folded = tf.function(normalization_folded(network), autograph=False)
    computed = Counter(op.type for op in folded.get_concrete_function(pictures()).graph.get_operations())
    layers = Counter(type(layer) for layer in network.layers)
    assert not any("BatchNorm" in kind for kind in computed)
    assert computed["DepthwiseConv2dNative"] == layers[keras.layers.DepthwiseConv2D]
    assert computed["Conv2D"] + computed["MatMul"] == layers[keras.layers.Conv2D]


def test_layers_that_cannot_be_folded_stay_what_they_are() -> None:
    image = keras.Input((None, None, 3))
    active = keras.layers.Conv2D(4, 3, activation="relu", padding="same")(image)
    twice = keras.layers.Add()([active, active])
    normalized = keras.layers.BatchNormalization(scale=False)(keras.layers.BatchNormalization()(twice))
    plain = keras.layers.Conv2D(6, 3, strides=2, padding="same")(keras.layers.Dropout(0.9)(normalized))
    both = keras.layers.Concatenate()([keras.layers.BatchNormalization(center=False)(plain), plain])
    inner_input = keras.Input((None, None, 12))
    dilated = keras.layers.DepthwiseConv2D(3, dilation_rate=2, depth_multiplier=2, padding="same")(inner_input)
    inner = keras.Model(inner_input, keras.layers.BatchNormalization()(dilated))
    assert_same(drawn(keras.Model(image, inner(both))), pictures(16))


def test_a_network_as_deep_as_keras_can_build() -> None:
    x = image = keras.Input((None, None, 3))
    for _ in range(sys.getrecursionlimit() // 2):  # Keras goes a frame deeper for each, and pytest is there before it
        x = keras.layers.ReLU()(x)
    assert normalization_folded(keras.Model(image, x))(pictures(4)).shape == (2, 4, 4, 3)
