"""Converts pixels from the common input range to the one that a network was trained on.

Every model of ours takes RGB in [-1, 1], whatever its streams are: one input serves two that differ, and bundles,
devices and calibration need not know. What a stream wants instead is computed by its first layer, a 1×1 convolution
with fixed weights, which every runtime runs in every precision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from edgebcnn.model.keras import keras, tf

PixelFormat = Literal["tf", "torch", "caffe", "unit", "raw"]


@dataclass(frozen=True)
class _Normalization:
    """`(pixel - mean) / std` of red, green and blue, each 0-255; then blue first, if `bgr`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool = False


_NORMALIZATIONS: dict[PixelFormat, _Normalization] = {
    "tf": _Normalization((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "torch": _Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": _Normalization((123.68, 116.779, 103.939), (1.0, 1.0, 1.0), bgr=True),
    "unit": _Normalization((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "raw": _Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""`tf`, `torch` and `caffe` are the modes of Keras's `preprocess_input`; `unit` is 0-1, `raw` is 0-255."""


def normalized(image: Any, pixel_format: PixelFormat) -> Any:
    """Puts an image into a network's pixel format.

    Args:
        image: `(n, h, w, 3)` RGB in [-1, 1].
        pixel_format: What the network was trained on.

    Returns:
        `(n, h, w, 3)`.
    """
    wanted = _NORMALIZATIONS[pixel_format]
    mean, std = np.array(wanted.mean), np.array(wanted.std)
    kernel, offset = np.diag(127.5 / std), (127.5 - mean) / std
    if wanted.bgr:
        kernel, offset = kernel[:, ::-1], offset[::-1]
    mixed = tf.nn.conv2d(image, tf.constant(kernel[np.newaxis, np.newaxis], image.dtype), 1, "VALID")
    return tf.nn.bias_add(mixed, tf.constant(offset, image.dtype))


@keras.saving.register_keras_serializable(package="edgebcnn")
class Pixels(keras.layers.Layer):  # type: ignore[misc]
    """`normalized` as a layer.

    Args:
        pixel_format: What the network was trained on.
    """

    def __init__(self, pixel_format: PixelFormat, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pixel_format = pixel_format

    def call(self, inputs: Any) -> Any:
        """Puts the image into the format."""
        return normalized(inputs, self.pixel_format)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {**super().get_config(), "pixel_format": self.pixel_format}
