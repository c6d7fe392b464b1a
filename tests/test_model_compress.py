"""A compact model starts from a trained full one: same backbone, same answers, in every form and with every tail."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.model import heads
from edgebcnn.model.bcnn import Architecture, Bcnn, build
from edgebcnn.model.compress import settle, start_from_full
from edgebcnn.model.head import Tail
from edgebcnn.model.keras import keras
from edgebcnn.model.pooling import signed_sqrt

CLASSES, CHANNELS, PHOTOS, LOCATIONS = 5, 128, 200, 16

FORMS: list[tuple[str, Tail]] = [
    (pooling, tail) for pooling in heads.names() if heads.find(pooling).rank for tail in heads.find(pooling).tails
]


@cache
def full() -> Bcnn:
    """A model whose channels have different sizes, and whose classifier holds each class's mean descriptor."""
    keras.utils.set_random_seed(4)
    bcnn = build(Architecture(streams="small", pooling="outer", tail="sqrt", classes=CLASSES))
    gamma, beta = np.random.default_rng(4).uniform([[0.5], [0.0]], [[2.0], [1.0]], (2, CHANNELS))
    normalization = bcnn.model.get_layer("small_5_BN")
    normalization.set_weights([gamma, beta, *normalization.get_weights()[2:]])
    x = np.einsum("nhwi,nhwj->nij", maps(gamma, beta), maps(gamma, beta)).reshape(PHOTOS, -1) / LOCATIONS
    descriptors = signed_sqrt(x).numpy()
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    means = np.stack([descriptors[np.arange(PHOTOS) % CLASSES == each].mean(axis=0) for each in range(CLASSES)], axis=1)
    bias = np.random.default_rng(5).standard_normal(CLASSES) * 0.01
    bcnn.model.get_layer("logits").set_weights([means - means.mean(axis=1, keepdims=True), bias])
    return bcnn


@cache
def _normal_maps() -> NDArray[np.float32]:
    """`(PHOTOS, 4, 4, CHANNELS)`, each channel of size one: of a class, of a photo, and of a location."""
    rng = np.random.default_rng(6)
    of_class = rng.standard_normal((CLASSES, 1, 1, CHANNELS))[np.arange(PHOTOS) % CLASSES]
    of_photo = rng.standard_normal((PHOTOS, 1, 1, CHANNELS))
    here = rng.standard_normal((PHOTOS, 4, 4, CHANNELS))
    return np.asarray(0.15 * of_class + 0.6 * of_photo + 0.78 * here, np.float32)


def maps(gamma: NDArray[Any], beta: NDArray[Any]) -> NDArray[np.float32]:
    """Feature maps whose channels are of the sizes that a batch normalisation says."""
    return np.asarray(beta + gamma * _normal_maps(), np.float32)


def full_maps() -> NDArray[np.float32]:
    return maps(*full().model.get_layer("small_5_BN").get_weights()[:2])


def logits(bcnn: Bcnn) -> NDArray[np.float32]:
    return np.asarray(bcnn.head(full_maps(), training=False))


def started(pooling: str, tail: Tail, **changes: Any) -> Bcnn:
    rank = {"lrbc": 64, "projected": 48}.get(pooling, 1024)
    choices = {"pooling": pooling, "tail": tail, "rank": rank, "class_rank": 16, "classes": CLASSES, **changes}
    compact = build(Architecture(streams="small", **choices))
    start_from_full(full(), compact)
    return compact


def agreeing(bcnn: Bcnn) -> float:
    return float(np.mean(logits(bcnn).argmax(axis=1) == logits(full()).argmax(axis=1)))


def test_at_full_rank_the_logits_are_those_of_the_outer_products_linear_classifier() -> None:
    compact = started("hadamard", "l2", rank=CLASSES * CHANNELS // 2)
    pooled = np.einsum("nhwi,nhwj->nij", full_maps(), full_maps(), dtype=np.float64) / LOCATIONS
    kernel, bias = full().model.get_layer("logits").get_weights()
    gamma, beta, _, _ = full().model.get_layer("small_5_BN").get_weights()
    sizes = np.sqrt(gamma**2 + beta**2)
    linear = (pooled / np.sqrt(np.outer(sizes, sizes))).reshape(len(pooled), -1) @ kernel
    own = logits(compact) - bias
    own, linear = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (own, linear))  # the l2 tail's norm
    np.testing.assert_allclose(own, linear, atol=1e-3)  # float32: large terms of both signs cancel


@pytest.mark.parametrize("streams", ["small", "custom,small"])
def test_squares_answer_what_products_of_half_the_rank_answer(streams: str) -> None:
    keras.utils.set_random_seed(8)
    shape: dict[str, Any] = {"streams": streams, "classes": CLASSES, "tail": "l2"}
    full = build(Architecture(pooling="outer", **{**shape, "tail": "sqrt"}))
    products = build(Architecture(pooling="hadamard", rank=24, **shape))
    of_squares = build(Architecture(pooling="quadratic", rank=48, **shape))
    descriptors = []
    for compact in (products, of_squares):
        start_from_full(full, compact)
        pooled = keras.Model(compact.model.input, compact.model.get_layer("tail_norm").input)
        pictures = np.random.default_rng(8).standard_normal((5, 64, 64, 3)).astype(np.float32)
        descriptors.append(np.asarray(pooled(pictures)) @ compact.model.get_layer("logits").get_weights()[0])
    np.testing.assert_allclose(descriptors[1], descriptors[0], rtol=1e-3, atol=1e-4 * np.abs(descriptors[0]).max())


def test_unequal_streams_are_factorized_as_they_are_aligned() -> None:
    keras.utils.set_random_seed(7)
    shape: dict[str, Any] = {"streams": "custom,small", "classes": CLASSES}
    unequal = build(Architecture(pooling="outer", tail="sqrt", **shape))
    compact = build(Architecture(pooling="hadamard", tail="l2", rank=CLASSES * 64, **shape))
    start_from_full(unequal, compact)
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((9, 4, 4, 64)), rng.standard_normal((9, 4, 4, CHANNELS))
    pooled = np.einsum("nhwi,nhwj->nij", a, b) / LOCATIONS
    linear = pooled.reshape(len(a), -1) @ unequal.model.get_layer("logits").get_weights()[0]
    own = np.asarray(compact.head(np.concatenate([a, b], axis=-1).astype(np.float32), training=False))
    own, linear = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (own, linear))
    np.testing.assert_allclose(own, linear, atol=1e-3)  # new batch normalisations give every channel one size


@pytest.mark.parametrize(("pooling", "tail"), FORMS, ids=["-".join(form) for form in FORMS])
def test_most_answers_survive_without_any_training(pooling: str, tail: Tail) -> None:
    compact = started(pooling, tail)
    settle(compact, full_maps(), logits(full()))
    assert agreeing(compact) >= (0.85 if pooling in ("maclaurin", "tensor_sketch") else 0.92)  # chance is 0.2


def test_an_l2_tail_answers_the_same_before_and_after_settling_and_settled_logits_are_of_the_full_models_size() -> None:
    compact = started("hadamard", "l2")
    before = logits(compact).argmax(axis=1)
    settle(compact, full_maps(), logits(full()))
    assert np.mean(logits(compact).argmax(axis=1) == before) > 0.98  # the bias weighs less against larger logits
    assert np.std(logits(compact)) == pytest.approx(np.std(logits(full())), rel=0.3)


def test_the_backbone_is_that_of_the_full_model() -> None:
    compact = started("gap", "none", rank=None)
    for mine, theirs in zip(compact.suffix.get_weights(), full().suffix.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_dead_channel_gets_no_weight_without_bound() -> None:
    keras.utils.set_random_seed(4)
    dying = build(Architecture(streams="small", pooling="outer", tail="sqrt", classes=CLASSES))
    normalization = dying.model.get_layer("small_5_BN")
    gamma, *rest = normalization.get_weights()
    gamma[3] = 0
    normalization.set_weights([gamma, *rest])
    compact = build(Architecture(streams="small", pooling="hadamard", rank=16, tail="l2", classes=CLASSES))
    start_from_full(dying, compact)
    kernel = compact.model.get_layer("project_u").get_weights()[0]
    assert np.isfinite(kernel).all()
    assert np.abs(kernel).max() < 1e4
