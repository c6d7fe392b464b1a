"""What the full and the compact model are, and how each is built, split for training, and folded for export.

    image ─ backbone ─┬─ A ─┐
                      └─ B ─┴─ pooling ─ tail ─ dropout ─ classifier ─ logits

Both streams run on the same backbone with shared weights, the symmetric form of Lin et al. 2015 (arXiv 1504.07889).
The full model pools by the outer product; the compact one replaces it by a low-rank Hadamard product.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgebcnn.errors import TrainingError
from edgebcnn.model.backbones import NONE, Backbone, backbone, load_weights
from edgebcnn.model.keras import keras
from edgebcnn.model.pooling import Bias, HadamardProduct, L2Normalize, OuterProduct, SignedSqrt

Role = Literal["full", "compact"]

SIDE_MULTIPLE = 32
"""Sides divide evenly through all strides, so that a model built for any size pads as one built for that size."""

DESCRIPTOR_LENGTH = 16.0
"""Length of an L2-normalised descriptor: at 1 the softmax over dozens of products could never become confident."""


class Architecture(BaseModel):
    """Everything that fixes a model's shape.

    Attributes:
        backbone: Name of the convolutional stream.
        pooling: `outer` for the full model, `hadamard` for the compact one.
        rank: Size d of the Hadamard descriptor; None for `outer`.
        tail: What follows the pooling: `sqrt` (signed square root, then L2 norm, as published) or `tanh` (batch
            normalisation, then tanh: every op of it is an integer op after quantization).
        classes: Number of products.
        dropout: Share of the descriptor that is dropped while training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backbone: str
    pooling: Literal["outer", "hadamard"]
    rank: int | None = Field(default=None, ge=1)
    tail: Literal["sqrt", "tanh"]
    classes: int = Field(ge=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _outer_is_the_published_form(self) -> Architecture:
        if (self.pooling == "outer") != (self.rank is None) or (self.pooling == "outer" and self.tail != "sqrt"):
            raise ValueError("outer pooling has no rank and the sqrt tail; hadamard pooling needs a rank")
        return self


@dataclass(frozen=True)
class Bcnn:
    """A bilinear CNN and the parts it is trained in; all parts share their weights.

    Attributes:
        architecture: What it was built from.
        model: `(n, h, w, 3)` float image in [-1, 1] to `(n, classes)` float logits.
        prefix: Image to the output of the last frozen layer; None where nothing is frozen.
        suffix: That output (or the image) to the feature map `(n, h', w', M)`.
        head: Feature map to logits.
    """

    architecture: Architecture
    model: Any
    prefix: Any | None
    suffix: Any
    head: Any


def build(architecture: Architecture, *, weights: str = NONE, frozen_through: str | None = None) -> Bcnn:
    """Builds a model for pictures of any size whose sides are multiples of `SIDE_MULTIPLE`.

    Args:
        architecture: Its shape.
        weights: Starting weights of the backbone: `imagenet`, `none` or a file.
        frozen_through: Last layer of the frozen prefix, or None.

    Raises:
        TrainingError: unknown backbone or layer, or weights that cannot be had or do not fit.
    """
    chosen = backbone(architecture.backbone)
    image = keras.Input((None, None, 3), name="image")
    network = chosen.build(image)
    load_weights(network, chosen, weights)
    feature_map = network.get_layer(chosen.last_layer).output
    logits = _head(architecture, feature_map)
    cut = image if frozen_through is None else _layer_output(network, chosen, frozen_through)
    return Bcnn(
        architecture=architecture,
        model=keras.Model(image, logits, name=f"bcnn_{architecture.pooling}"),
        prefix=None if frozen_through is None else keras.Model(image, cut, name="prefix"),
        suffix=keras.Model(cut, feature_map, name="suffix"),
        head=keras.Model(feature_map, logits, name="head"),
    )


def folded(bcnn: Bcnn, *, height_px: int, width_px: int) -> Any:
    """The same function with the tail's batch normalisation folded away, for export.

    γ/σ goes into the rows of U, so that every channel of the pooled descriptor has the same range and int8 serves all
    of them; what is left, β - μ·γ/σ, is one addition. Exact in real arithmetic.

    Returns:
        Keras model, `(n, height_px, width_px, 3)` image to logits.
    """
    chosen = backbone(bcnn.architecture.backbone)
    image = keras.Input((height_px, width_px, 3), name="image")
    network = chosen.build(image)
    logits = _head(bcnn.architecture, network.get_layer(chosen.last_layer).output, fold=True)
    model = keras.Model(image, logits, name=bcnn.model.name)
    replaced = _folded_weights(bcnn.model) if bcnn.architecture.tail == "tanh" else {}
    for layer in model.layers:
        layer.set_weights(replaced.get(layer.name) or bcnn.model.get_layer(layer.name).get_weights())
    return model


def _folded_weights(trained: Any) -> dict[str, list[Any]]:
    normalization = trained.get_layer("tail_BN")
    gamma, beta, mean, variance = normalization.get_weights()
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    (kernel,) = trained.get_layer("project_u").get_weights()
    return {"project_u": [kernel * scale], "tail_BN": [beta - mean * scale]}


def _head(architecture: Architecture, feature_map: Any, *, fold: bool = False) -> Any:
    x = _pool(architecture, feature_map)
    if architecture.tail == "sqrt":
        x = L2Normalize(DESCRIPTOR_LENGTH, name="tail_norm")(SignedSqrt(name="tail_sqrt")(x))
    else:
        normalization = Bias if fold else keras.layers.BatchNormalization
        x = keras.layers.Activation("tanh", name="tail_tanh")(normalization(name="tail_BN")(x))
    x = keras.layers.Dropout(architecture.dropout, name="dropout")(x)
    return keras.layers.Dense(architecture.classes, name="logits")(x)


def _pool(architecture: Architecture, feature_map: Any) -> Any:
    if architecture.pooling == "outer":
        return OuterProduct(name="outer_product")([feature_map, feature_map])
    u = keras.layers.Conv2D(architecture.rank, 1, use_bias=False, name="project_u")(feature_map)
    v = keras.layers.Conv2D(architecture.rank, 1, use_bias=False, name="project_v")(feature_map)
    return HadamardProduct(name="hadamard_product")([u, v])


def _layer_output(network: Any, chosen: Backbone, name: str) -> Any:
    names = [layer.name for layer in network.layers]
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names, n=3)) or "none is close"
        raise TrainingError(f"{chosen.name} has no layer {name!r} to freeze through; closest: {close}")
    return network.get_layer(name).output
