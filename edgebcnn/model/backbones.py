"""Which convolutional streams there are, where each one ends, and how it gets its weights."""

from __future__ import annotations

import difflib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from edgebcnn.errors import TrainingError
from edgebcnn.model.keras import keras

IMAGENET = "imagenet"
NONE = "none"

DOWNLOAD_TIMEOUT_S = 10.0  # of silence; Keras would wait for a server that never answers for as long as the system does


@dataclass(frozen=True)
class Backbone:
    """A convolutional stream.

    Attributes:
        name: What `--backbone` takes.
        build: Makes the whole network from an `(n, h, w, 3)` input tensor in [-1, 1].
        last_layer: Its output is the feature map that is pooled.
        frozen_through: Last layer that fine-tuning leaves alone, or None where all layers are trained.
        pretrained: Whether ImageNet weights exist for it.
    """

    name: str
    build: Callable[[Any], Any]
    last_layer: str
    frozen_through: str | None
    pretrained: bool


def _mobilenet_v2(image: Any) -> Any:
    return keras.applications.MobileNetV2(input_tensor=image, include_top=False, weights=None)


def _small(image: Any) -> Any:
    x = image
    for block, (filters, stride) in enumerate(_SMALL_BLOCKS, start=1):
        name = f"small_{block}"
        x = keras.layers.Conv2D(filters, 3, stride, padding="same", use_bias=False, name=f"{name}_conv")(x)
        x = keras.layers.BatchNormalization(momentum=_SMALL_MOMENTUM, name=f"{name}_BN")(x)
        x = keras.layers.ReLU(6.0, name=f"{name}_relu")(x)
    return keras.Model(image, x)


_SMALL_BLOCKS = ((24, 2), (48, 2), (64, 1), (96, 2), (128, 1))
_SMALL_MOMENTUM = 0.9  # a few hundred steps are all it gets: the usual 0.99 would still remember the initial statistics

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        # The 320-channel bottleneck: the 1280-channel layer after it costs as much as all heads and adds no accuracy.
        Backbone("mobilenet_v2", _mobilenet_v2, "block_16_project_BN", "block_5_add", pretrained=True),
        Backbone("small", _small, "small_5_relu", None, pretrained=False),
    )
}


def backbone(name: str) -> Backbone:
    """The backbone of that name.

    Raises:
        TrainingError: no such backbone; the message names the closest ones.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    close = difflib.get_close_matches(name, BACKBONES, n=3, cutoff=0.3) or sorted(BACKBONES)
    raise TrainingError(f"unknown backbone {name!r}: did you mean {' or '.join(close)}?")


def load_weights(network: Any, chosen: Backbone, weights: str) -> None:
    """Gives a freshly built backbone its starting weights.

    Args:
        network: What `chosen.build` returned.
        chosen: The backbone.
        weights: `imagenet`, `none`, or the path of a weights file (HDF5) of this architecture without classifier.

    Raises:
        TrainingError: ImageNet weights that do not exist or cannot be downloaded, or a file that does not fit.
    """
    if weights == NONE:
        return
    if weights == IMAGENET:
        _load_imagenet(network, chosen)
        return
    if not os.path.isfile(weights):
        raise TrainingError(
            f"no weights file at {weights}: put it there, or give --weights another file, imagenet or none"
        )
    try:
        network.load_weights(weights)
    except (ValueError, OSError, KeyError) as error:
        raise TrainingError(
            f"{weights} does not hold weights of {chosen.name} without its classifier ({_first_line(error)}): "
            "give --weights a file of that architecture, imagenet or none"
        ) from error


def _load_imagenet(network: Any, chosen: Backbone) -> None:
    if not chosen.pretrained:
        raise TrainingError(f"there are no ImageNet weights for {chosen.name}: use --weights none or --weights FILE")
    try:
        with _downloading():
            reference = keras.applications.MobileNetV2(input_shape=(224, 224, 3), include_top=False, weights="imagenet")
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise TrainingError(
            f"the ImageNet weights of {chosen.name} cannot be downloaded ({_first_line(error)}): "
            "use --weights FILE with a copy of them, or --weights none to start from nothing"
        ) from error
    network.set_weights(reference.get_weights())


@contextmanager
def _downloading() -> Iterator[None]:
    """Keras reports a download on stdout, where only results belong, and takes no timeout."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT_S)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        socket.setdefaulttimeout(before)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
