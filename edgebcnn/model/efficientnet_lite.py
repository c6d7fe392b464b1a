"""EfficientNet-Lite0: EfficientNet-B0 without what small devices run badly, squeeze-excitation and swish.

Tan and Le 2019 (arXiv 1905.11946), in the Lite form that Google published in 2020: ReLU6 throughout, the rest as B0.
Layers are called as in B0 of Keras. No weights for Keras were published, so that it starts from nothing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from edgebcnn.model.keras import keras


class _Stage(NamedTuple):
    kernel: int
    repeats: int
    filters: int
    expansion: int
    stride: int


_STAGES = (
    _Stage(3, 1, 16, 1, 1),
    _Stage(3, 2, 24, 6, 2),
    _Stage(5, 2, 40, 6, 2),
    _Stage(3, 3, 80, 6, 2),
    _Stage(5, 3, 112, 6, 1),
    _Stage(5, 4, 192, 6, 2),
    _Stage(3, 1, 320, 6, 1),
)


def efficientnet_lite0(image: Any) -> Any:
    """The network to its last block, from an `(n, h, w, 3)` input tensor in [-1, 1]."""
    x = _normalized(_convolution(image, 32, 3, 2, "stem_conv"), "stem_")
    for number, stage in enumerate(_STAGES, start=1):
        for repeat in range(stage.repeats):
            name = f"block{number}{chr(ord('a') + repeat)}_"
            x = _block(x, stage, stage.stride if repeat == 0 else 1, name)
    return keras.Model(image, x)


def _block(inputs: Any, stage: _Stage, stride: int, name: str) -> Any:
    x, channels = inputs, inputs.shape[-1]
    if stage.expansion > 1:
        x = _normalized(_convolution(x, channels * stage.expansion, 1, 1, f"{name}expand_conv"), f"{name}expand_")
    x = keras.layers.DepthwiseConv2D(
        stage.kernel,
        stride,
        padding="same",
        use_bias=False,
        depthwise_initializer=_initializer(),
        name=f"{name}dwconv",
    )(x)
    x = _normalized(x, name)
    x = _convolution(x, stage.filters, 1, 1, f"{name}project_conv")
    x = keras.layers.BatchNormalization(name=f"{name}project_bn")(x)
    return keras.layers.Add(name=f"{name}add")([x, inputs]) if stride == 1 and channels == stage.filters else x


def _convolution(x: Any, filters: int, kernel: int, stride: int, name: str) -> Any:
    return keras.layers.Conv2D(
        filters, kernel, stride, padding="same", use_bias=False, kernel_initializer=_initializer(), name=name
    )(x)


def _initializer() -> Any:
    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal")


def _normalized(x: Any, name: str) -> Any:
    x = keras.layers.BatchNormalization(name=f"{name}bn")(x)
    return keras.layers.ReLU(6.0, name=f"{name}activation")(x)
