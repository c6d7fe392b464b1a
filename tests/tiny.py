"""A bilinear CNN small enough to be converted in a second, with random weights that nevertheless decide."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision
from edgebcnn.model.keras import keras
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.quantize.tflite.convert import float_file, int8_source

PREPROCESSING = Preprocessing(height_px=16, width_px=16)
CLASSES = 5


class Elementwise(keras.layers.Layer):  # type: ignore[misc]
    """Any function of a tensor, as a layer."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        """Keeps the function."""
        super().__init__()
        self._function = function

    def call(self, inputs: Any) -> Any:
        """Applies the function."""
        return self._function(inputs)


def bilinear_cnn(tail: Callable[[Any], Any]) -> Any:
    """Convolution, two 1×1 projections, the mean of their product, batch normalisation, `tail`, classifier."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(image)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    project_u, project_v = layers.Conv2D(12, 1, use_bias=False), layers.Conv2D(12, 1, use_bias=False)
    pooled = layers.GlobalAveragePooling2D()(layers.Multiply()([project_u(x), project_v(x)]))
    normalization = layers.BatchNormalization(epsilon=0)
    z = Elementwise(tail)(normalization(pooled))
    logits = layers.Dense(CLASSES, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))(z)
    values = keras.Model(image, pooled)(PREPROCESSING.normalize(photos(64))).numpy()
    # The scale goes into the projection: int8 has one range for all channels, and theirs differ tenfold.
    project_u.set_weights([project_u.get_weights()[0] / values.std(axis=0)])
    normalization.set_weights([np.ones(12), np.zeros(12), values.mean(axis=0) / values.std(axis=0), np.ones(12)])
    return keras.Model(image, logits)


@cache
def tanh_model() -> Any:
    """The one whose every op has an integer form."""
    return bilinear_cnn(keras.activations.tanh)


@cache
def tanh_tflite(precision: Precision) -> bytes:
    """`tanh_model`, converted once a process."""
    return tflite(tanh_model(), precision)


def tflite(model: Any, precision: Precision = "int8") -> bytes:
    """A model of this size, calibrated on 16 photos and converted."""
    if precision == "int8":
        return int8_source(model, preprocessing=PREPROCESSING).quantized(photos(16)).content
    return float_file(model, precision, preprocessing=PREPROCESSING)


def photos(count: int, *, seed: int = 0) -> NDArray[np.uint8]:
    """`(count, 16, 16, 3)` uint8 photos of coloured 4×4 blocks, none of them black or white."""
    blocks = np.random.default_rng(seed).integers(30, 220, (count, 4, 4, 3), np.uint8)
    return blocks.repeat(4, axis=1).repeat(4, axis=2)
