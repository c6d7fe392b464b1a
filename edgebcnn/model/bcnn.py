"""What the full and the compact model are, and how each is built, split for training, and folded for export.

    image ─ backbone ─┬─ A ─┐
                      └─ B ─┴─ pooling ─ tail ─ dropout ─ classifier ─ logits

Both streams run on the same backbone with shared weights, the symmetric form of Lin et al. 2015 (arXiv 1504.07889).
The full model pools by the outer product; the compact one replaces it by one of the forms in `edgebcnn.model.heads`:

    hadamard       project_u, project_v ─ mean of products ─ tail ─ classifier     all learned
    maclaurin      the same                                                        projections drawn, frozen
    tensor_sketch  two count sketches ─ mean of convolutions ─ tail ─ classifier   hashes drawn, frozen
    lrbc           project ─ factors ─ mean of squares ─ signed sums               a quadratic form for each product
    gap            mean ─ classifier                                               no second order, for reference
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgebcnn.errors import TrainingError
from edgebcnn.model import heads
from edgebcnn.model.backbones import NONE, Backbone, backbone, load_weights
from edgebcnn.model.heads import HEADS, Pooling, Tail
from edgebcnn.model.keras import keras
from edgebcnn.model.pooling import (
    Bias,
    HadamardProduct,
    L2Normalize,
    MeanSquare,
    OuterProduct,
    RandomSigns,
    SignedSqrt,
    SignedSums,
    TensorSketch,
)

Role = Literal["full", "compact"]

SIDE_MULTIPLE = 32
"""Sides divide evenly through all strides, so that a model built for any size pads as one built for that size."""

DESCRIPTOR_LENGTH = 16.0
"""Length of an L2-normalised descriptor: at 1 the softmax over dozens of products could never become confident."""


class Architecture(BaseModel):
    """Everything that fixes a model's shape.

    Attributes:
        backbone: Name of the convolutional stream.
        pooling: `outer` for the full model, any other for the compact one.
        rank: Size of the pooling: length d of the descriptor, and of `lrbc` the channels m that all products share;
            None for `outer` and `gap`.
        tail: What follows the pooling: `sqrt` (signed square root, then L2 norm, as published), `tanh` (batch
            normalisation, then tanh: every op of it is an integer op after quantization), `l2` (the norm alone, which
            changes no answer of a linear classifier) or `none`.
        class_rank: Rank r of each product's quadratic form in `lrbc`, half of it positive and half negative.
        seed: Of the projections that `maclaurin` and `tensor_sketch` draw and keep.
        classes: Number of products.
        dropout: Share of the descriptor that is dropped while training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    backbone: str
    pooling: Pooling
    rank: int | None = Field(default=None, ge=1)
    tail: Tail
    class_rank: int = Field(default=8, ge=2, multiple_of=2)
    seed: int = Field(default=0, ge=0)
    classes: int = Field(ge=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _is_a_head_that_exists(self) -> Architecture:
        heads.check(self.pooling, self.rank, self.tail)
        if self.rank is None and HEADS[self.pooling].rank is not None:
            raise ValueError(f"{self.pooling} pooling needs a rank")
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
        TrainingError: unknown backbone or layer, a rank that is too large for it, or weights that cannot be had or do
            not fit.
    """
    chosen = backbone(architecture.backbone)
    image = keras.Input((None, None, 3), name="image")
    network = chosen.build(image)
    load_weights(network, chosen, weights)
    feature_map = network.get_layer(chosen.last_layer).output
    _check_rank(architecture, feature_map.shape[-1])
    logits = _head(architecture, feature_map)
    cut = image if frozen_through is None else _layer_output(network, chosen, frozen_through)
    return Bcnn(
        architecture=architecture,
        model=keras.Model(image, logits, name=f"bcnn_{architecture.pooling}"),
        prefix=None if frozen_through is None else keras.Model(image, cut, name="prefix"),
        suffix=_suffix(cut, feature_map, chosen, frozen_through),
        head=keras.Model(feature_map, logits, name="head"),
    )


def folded(bcnn: Bcnn, *, height_px: int, width_px: int) -> Any:
    """The same function with the tail's batch normalisation folded away where a projection can take it, for export.

    γ/σ goes into the rows of U, so that every channel of the pooled descriptor has the same range and int8 serves all
    of them; what is left, β - μ·γ/σ, is one addition. Exact in real arithmetic. A sketch has no such rows: its
    normalisation stays.

    Returns:
        Keras model, `(n, height_px, width_px, 3)` image to logits.
    """
    architecture = bcnn.architecture
    chosen = backbone(architecture.backbone)
    image = keras.Input((height_px, width_px, 3), name="image")
    network = chosen.build(image)
    fold = architecture.tail == "tanh" and architecture.pooling in _PROJECTED
    logits = _head(architecture, network.get_layer(chosen.last_layer).output, fold=fold)
    model = keras.Model(image, logits, name=bcnn.model.name)
    replaced = _folded_weights(bcnn.model) if fold else {}
    for layer in model.layers:
        layer.set_weights(replaced.get(layer.name) or bcnn.model.get_layer(layer.name).get_weights())
    return model


def _folded_weights(trained: Any) -> dict[str, list[Any]]:
    normalization = trained.get_layer("tail_BN")
    gamma, beta, mean, variance = normalization.get_weights()
    scale = gamma / np.sqrt(variance + normalization.epsilon)
    (kernel,) = trained.get_layer("project_u").get_weights()
    return {"project_u": [kernel * scale], "tail_BN": [beta - mean * scale]}


def _check_rank(architecture: Architecture, channels: int) -> None:
    """Above these ranks a head is larger than what it replaces and computes nothing more."""
    most = channels if architecture.pooling == "lrbc" else channels**2
    if architecture.rank is not None and architecture.rank > most:
        raise TrainingError(
            f"a rank of {architecture.rank} is too large: {architecture.pooling} pooling of the {channels} channels of "
            f"{architecture.backbone} takes at most {most}"
        )


def _head(architecture: Architecture, feature_map: Any, *, fold: bool = False) -> Any:
    x = _POOL[architecture.pooling](architecture, feature_map)
    if architecture.tail == "sqrt":
        x = L2Normalize(DESCRIPTOR_LENGTH, name="tail_norm")(SignedSqrt(name="tail_sqrt")(x))
    elif architecture.tail == "tanh":
        normalization = Bias if fold else keras.layers.BatchNormalization
        x = keras.layers.Activation("tanh", name="tail_tanh")(normalization(name="tail_BN")(x))
    elif architecture.tail == "l2":
        x = L2Normalize(DESCRIPTOR_LENGTH, name="tail_norm")(x)
    x = keras.layers.Dropout(architecture.dropout, name="dropout")(x)
    classifier = SignedSums if architecture.pooling == "lrbc" else keras.layers.Dense
    return classifier(architecture.classes, name="logits")(x)


def _outer(architecture: Architecture, feature_map: Any) -> Any:
    return OuterProduct(name="outer_product")([feature_map, feature_map])


def _hadamard(architecture: Architecture, feature_map: Any) -> Any:
    u, v = (_projection(architecture.rank, f"project_{side}")(feature_map) for side in "uv")
    return HadamardProduct(name="hadamard_product")([u, v])


def _maclaurin(architecture: Architecture, feature_map: Any) -> Any:
    u, v = (
        _projection(architecture.rank, f"project_{side}", RandomSigns([architecture.seed, number]), trainable=False)
        for number, side in enumerate("uv")
    )
    return HadamardProduct(name="hadamard_product")([u(feature_map), v(feature_map)])


def _tensor_sketch(architecture: Architecture, feature_map: Any) -> Any:
    assert architecture.rank is not None, "the architecture has checked it"
    return TensorSketch(architecture.rank, architecture.seed, name="tensor_sketch")([feature_map, feature_map])


def _lrbc(architecture: Architecture, feature_map: Any) -> Any:
    rank = architecture.class_rank
    unit = keras.initializers.VarianceScaling(1.0, "fan_in", "untruncated_normal")
    # All r squares of a product then add up to one channel's, so that no product starts out sure of itself.
    factor = keras.initializers.VarianceScaling(1 / rank, "fan_in", "untruncated_normal")
    shared = _projection(architecture.rank, "project", unit)(feature_map)
    factors = _projection(architecture.classes * rank, "factors", factor)(shared)
    return MeanSquare(name="mean_square")(factors)


def _gap(architecture: Architecture, feature_map: Any) -> Any:
    return keras.layers.GlobalAveragePooling2D(name="average")(feature_map)


def _projection(size: int | None, name: str, initializer: Any = "glorot_uniform", *, trainable: bool = True) -> Any:
    return keras.layers.Conv2D(size, 1, use_bias=False, kernel_initializer=initializer, trainable=trainable, name=name)


_POOL: dict[Pooling, Callable[[Architecture, Any], Any]] = {
    "outer": _outer,
    "hadamard": _hadamard,
    "lrbc": _lrbc,
    "maclaurin": _maclaurin,
    "tensor_sketch": _tensor_sketch,
    "gap": _gap,
}

_PROJECTED = ("hadamard", "maclaurin")
"""Poolings whose channels each come from one row of `project_u`, which can take a factor of theirs."""


def _layer_output(network: Any, chosen: Backbone, name: str) -> Any:
    names = [layer.name for layer in network.layers]
    if name not in names:
        close = ", ".join(difflib.get_close_matches(name, names, n=3, cutoff=0))
        raise TrainingError(
            f"{chosen.name} has no layer {name!r} to freeze through; closest: {close}; or use auto or none"
        )
    return network.get_layer(name).output


def _suffix(cut: Any, feature_map: Any, chosen: Backbone, name: str | None) -> Any:
    try:
        return keras.Model(cut, feature_map, name="suffix")
    except ValueError as error:  # Keras finds another way from the image to the feature map, or none
        raise TrainingError(
            f"{chosen.name} cannot be cut in two at {name}, where layers are passed by or none is left to train: "
            f"use {chosen.frozen_through or 'auto'}, or the end of another block before {chosen.last_layer}"
        ) from error
