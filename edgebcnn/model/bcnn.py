"""What the full and the compact model are, and how each is built, split for training, and folded for export.

    image ─┬─ stream A ─┐
           └─ stream B ─┴─ pooling ─ tail ─ dropout ─ classifier ─ logits

Streams may differ; equal ones share their weights by default. The symmetric models of Lin et al. 2015 (arXiv
1504.07889) do the same at twice the cost: their two copies start alike, get equal gradients, and so stay alike.
Separate copies are for streams that start from different weights.

The full model pools by the outer product; the compact one replaces it by another pooling of `edgebcnn.model.heads`, one
file for each. After the pooling comes a tail:

    sqrt    signed square root, then L2 norm, as published
    tanh    batch normalization, then tanh: every op of it is an integer op after quantization
    l2      L2 norm alone, which changes no prediction of a linear classifier
    none
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgebcnn.errors import TrainingError
from edgebcnn.model import heads
from edgebcnn.model.backbones import NONE
from edgebcnn.model.head import Head, HeadShape, Tail, Weights
from edgebcnn.model.keras import keras
from edgebcnn.model.pooling import Bias, L2Normalize, SignedSqrt
from edgebcnn.model.spelling import check_shared
from edgebcnn.model.streams import UnpackMaps, align, build_streams, cut

Role = Literal["full", "compact"]

DESCRIPTOR_LENGTH = 16.0
"""Length of an L2-normalized descriptor: at 1 the softmax over dozens of products could never become confident."""


class Architecture(BaseModel):
    """Everything that fixes a model's shape.

    Attributes:
        streams: The two streams, `A,B` or one for both, as `edgebcnn.model.spelling` writes them.
        shared_weights: Whether both are one network; None where they are equal.
        pooling: `outer` for the full model, any other for the compact one.
        rank: Size of the pooling: length d of the descriptor, and of `lrbc` the channels m that all products share;
            None for `outer` and `gap`.
        tail: What follows the pooling: `sqrt` (signed square root, then L2 norm, as published), `tanh` (batch
            normalization, then tanh: every op of it is an integer op after quantization), `l2` (the norm alone, which
            changes no prediction of a linear classifier) or `none`.
        class_rank: Rank r of each product's quadratic form in `lrbc`, half of it positive and half negative.
        seed: Of the projections that `maclaurin` and `tensor_sketch` draw and keep.
        classes: Number of products.
        dropout: Share of the descriptor that is dropped while training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    streams: str
    shared_weights: bool | None = None
    pooling: str
    rank: int | None = Field(default=None, ge=1)
    tail: Tail
    class_rank: int = Field(default=8, ge=2, multiple_of=2)
    seed: int = Field(default=0, ge=0)
    classes: int = Field(ge=2)
    dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _is_a_head_that_exists(self) -> Architecture:
        self.head.check(self.rank, self.tail)
        check_shared(self.streams, self.shared_weights)
        if self.rank is None and self.head.rank is not None:
            raise ValueError(f"{self.pooling} pooling needs a rank")
        return self

    @property
    def head(self) -> Head:
        """The pooling and its rules."""
        return heads.find(self.pooling)

    @property
    def head_shape(self) -> HeadShape:
        """Sizes of the head."""
        return HeadShape(self.rank or 0, self.class_rank, self.classes, self.seed)

    @property
    def shares_weights(self) -> bool:
        """Whether both streams are one network."""
        return check_shared(self.streams, self.shared_weights)


@dataclass(frozen=True)
class Bcnn:
    """A bilinear CNN and the parts it is trained in; all parts share their weights.

    Attributes:
        architecture: What it was built from.
        model: `(n, h, w, 3)` float image in [-1, 1] to `(n, classes)` float logits.
        prefix: Image to the output of the last frozen layer; None where nothing is frozen.
        suffix: That output (or the image) to the feature map `(n, h', w', M)`.
        head: Feature map to logits.
        alignment: How two maps came to one grid, in a sentence; None where nothing had to be done.

    Of two streams, what goes from part to part is both outputs, packed as in `edgebcnn.model.streams`; the feature
    map is `(n, h', w', M + N)`.
    """

    architecture: Architecture
    model: Any
    prefix: Any | None
    suffix: Any
    head: Any
    alignment: str | None = None


def build(
    architecture: Architecture, *, weights: str = NONE, frozen_through: str | None = None, mixed_precision: bool = False
) -> Bcnn:
    """Builds a model for images of any size whose sides are multiples of `streams.SIDE_MULTIPLE`.

    Args:
        architecture: Its shape.
        weights: Starting weights of each stream, or of both: `imagenet`, `none` or a file.
        frozen_through: Last layer of the frozen prefix of each stream, or of both; None where nothing is frozen.
        mixed_precision: Whether the streams compute in bfloat16, which has float32's range. Their weights and the head
            stay float32: what is pooled are sums of products, and a square root magnifies their rounding.

    Raises:
        TrainingError: unknown stream or layer, streams that cannot be aligned, a rank that is too large for them, or
            weights that cannot be had or do not fit.
    """
    image = keras.Input((None, None, 3), name="image")
    with _streams_compute_in("mixed_bfloat16" if mixed_precision else "float32"):
        streams = build_streams(architecture.streams, image, shared=architecture.shares_weights, weights=weights)
        maps, alignment = align(image, streams)
    _check_rank(architecture, [each.shape[-1] for each in maps])
    logits = _head(architecture, maps)
    prefix, suffix = cut(image, streams, maps, frozen_through)
    return Bcnn(
        architecture=architecture,
        model=keras.Model(image, logits, name=f"bcnn_{architecture.pooling}"),
        prefix=prefix,
        suffix=suffix,
        head=_head_of_packed(maps, logits),
        alignment=alignment,
    )


def with_descriptor(bcnn: Bcnn) -> Any:
    """The head again, its weights shared, with what the classifier is given: feature map to logits and descriptor."""
    layers = {layer.name: layer for layer in bcnn.head.layers}
    of_maps = layers.get("head_of_maps", bcnn.head)
    dropped = of_maps.output.node.keras_inputs[0]
    described = keras.Model(of_maps.inputs, [of_maps.output, dropped.node.keras_inputs[0]])
    if of_maps is bcnn.head:
        return described
    return keras.Model(bcnn.head.input, described(layers["unpack_maps"].output))


@contextmanager
def _streams_compute_in(policy: str) -> Iterator[None]:
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def folded(bcnn: Bcnn, *, height_px: int, width_px: int) -> Any:
    """The same function with the tail's batch normalization folded away where a projection can take it, for export.

    γ/σ goes into the rows of U, so that every channel of the pooled descriptor has the same range and int8 serves all
    of them; what is left, β - μ·γ/σ, is one addition. A square takes the root of |γ/σ|, and the classifier its sign,
    since tanh is odd. Exact in real arithmetic. A sketch and a projected outer product have no such rows: their
    normalization stays.

    Returns:
        Keras model, `(n, height_px, width_px, 3)` image to logits.
    """
    architecture = bcnn.architecture
    image = keras.Input((height_px, width_px, 3), name="image")
    maps, _ = align(image, build_streams(architecture.streams, image, shared=architecture.shares_weights))
    replaced = _folded_weights(bcnn) if architecture.tail == "tanh" else {}
    model = keras.Model(image, _head(architecture, maps, fold=bool(replaced)), name=bcnn.model.name)
    for layer in model.layers:
        layer.set_weights(replaced.get(layer.name) or bcnn.model.get_layer(layer.name).get_weights())
    return model


def _folded_weights(bcnn: Bcnn) -> Weights:
    weights = {layer.name: layer.get_weights() for layer in bcnn.model.layers}
    gamma, beta, mean, variance = weights["tail_BN"]
    scale = gamma / np.sqrt(variance + bcnn.model.get_layer("tail_BN").epsilon)
    return bcnn.architecture.head.folded(weights, scale, beta - mean * scale)


def _check_rank(architecture: Architecture, channels: Sequence[int]) -> None:
    """Above these ranks a head is larger than what it replaces and computes nothing more."""
    most = architecture.head.max_rank(channels)
    if architecture.rank is not None and architecture.rank > most:
        raise TrainingError(
            f"a rank of {architecture.rank} is too large: {architecture.pooling} pooling of the "
            f"{' and '.join(map(str, channels))} channels of {architecture.streams} takes at most {most}"
        )


def _head_of_packed(maps: Sequence[Any], logits: Any) -> Any:
    if len(maps) == 1:
        return keras.Model(maps[0], logits, name="head")
    of_maps = keras.Model(list(maps), logits, name="head_of_maps")
    channels = [each.shape[-1] for each in maps]
    feature_map = keras.Input((None, None, sum(channels)), name="feature_map")
    return keras.Model(feature_map, of_maps(UnpackMaps((1, 1), channels, name="unpack_maps")(feature_map)), name="head")


def _head(architecture: Architecture, maps: Sequence[Any], *, fold: bool = False) -> Any:
    """Logits of the feature maps: two on one grid, or one that stands for both."""
    head, shape = architecture.head, architecture.head_shape
    x = head.pool(shape, maps)
    if architecture.tail == "sqrt":
        x = L2Normalize(DESCRIPTOR_LENGTH, name="tail_norm")(SignedSqrt(name="tail_sqrt")(x))
    elif architecture.tail == "tanh":
        normalization = Bias if fold else keras.layers.BatchNormalization
        x = keras.layers.Activation("tanh", name="tail_tanh")(normalization(name="tail_BN")(x))
    elif architecture.tail == "l2":
        x = L2Normalize(DESCRIPTOR_LENGTH, name="tail_norm")(x)
    x = keras.layers.Dropout(architecture.dropout, name="dropout")(x)
    return head.classifier(shape)(x)
