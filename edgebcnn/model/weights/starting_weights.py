"""The weights that a backbone starts from: ImageNet's, a file's, or random ones."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from edgebcnn.errors import EdgebcnnError, TrainingError, first_line
from edgebcnn.model.backbones import IMAGENET, NONE, Backbone
from edgebcnn.model.keras import keras

DOWNLOAD_TIMEOUT_S = 10.0  # of silence; Keras would wait for a dead server for as long as the system does


def load_weights(network: Any, chosen: Backbone, weights: str, *, prefix: str = "") -> None:
    """Gives a freshly built backbone its starting weights.

    Args:
        network: What `chosen.build` returned.
        chosen: The backbone.
        weights: `imagenet`, `none`, or the path of a weights file of this architecture without classifier: HDF5, or
            of EfficientNet-Lite a PyTorch file.
        prefix: What `chosen.build` was given.

    Raises:
        TrainingError: ImageNet weights that do not exist or cannot be downloaded, or a file that does not fit.
    """
    if weights == NONE:
        return
    reference = _pretrained(chosen) if weights == IMAGENET else _filled_from(weights, chosen)
    for layer in network.layers:
        if layer.weights:
            layer.set_weights(reference.get_layer(layer.name.removeprefix(prefix)).get_weights())


def _filled_from(weights: str, chosen: Backbone) -> Any:
    if not os.path.isfile(weights):
        raise TrainingError(
            f"no weights file at {weights}: put it there, or give --weights another file, imagenet or none"
        )
    if weights.endswith(".pth"):
        if chosen.filled_from_pytorch is None:
            raise TrainingError(f"{weights} is a PyTorch file, and {chosen.name} takes Keras weights (.h5) alone")
        return chosen.filled_from_pytorch(keras.Input((None, None, 3)), Path(weights))
    reference = chosen.published(keras.Input((None, None, 3)), None)
    try:
        reference.load_weights(weights)
    except (ValueError, OSError, KeyError) as error:
        raise TrainingError(
            f"{weights} does not hold weights of {chosen.name} without its classifier ({first_line(error)}): "
            "give --weights a file of that architecture, imagenet or none"
        ) from error
    return reference


def _pretrained(chosen: Backbone) -> Any:
    if not chosen.pretrained:
        raise TrainingError(f"there are no ImageNet weights for {chosen.name}: use --weights none or --weights FILE")
    try:
        with _downloading():
            return chosen.published(keras.Input((224, 224, 3)), IMAGENET)
    except EdgebcnnError:
        raise
    except Exception as error:  # Keras raises a bare Exception for a failed download
        raise TrainingError(
            f"the ImageNet weights of {chosen.name} cannot be downloaded ({first_line(error)}): "
            "use --weights FILE with a copy of them, or --weights none to start from nothing"
        ) from error


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
