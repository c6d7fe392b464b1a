"""Pooling against plain NumPy sums, its gradients against finite differences, and its layers through a save."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.model.keras import keras, tf
from edgebcnn.model.pooling import (
    Bias,
    HadamardProduct,
    L2Normalize,
    OuterProduct,
    SignedSqrt,
    hadamard_product,
    l2_normalize,
    outer_product,
    signed_sqrt,
)

# Float32 sums of a few dozen products of order one are exact to about 1e-6; an order of magnitude above that is a bug.
RTOL, ATOL = 1e-5, 1e-6


def maps(rng: np.random.Generator, *channels: int) -> list[NDArray[np.float32]]:
    """One feature map `(2, 3, 4, c)` for each number of channels."""
    return [rng.standard_normal((2, 3, 4, c)).astype(np.float32) for c in channels]


def test_outer_product_is_the_mean_over_locations_of_all_channel_products(rng: np.random.Generator) -> None:
    a, b = maps(rng, 5, 7)
    expected = np.einsum("nhwi,nhwj->nij", a, b).reshape(2, 35) / 12
    np.testing.assert_allclose(outer_product(a, b), expected, rtol=RTOL, atol=ATOL)


def test_hadamard_product_is_the_mean_over_locations_of_the_elementwise_product(rng: np.random.Generator) -> None:
    u, v = maps(rng, 6, 6)
    np.testing.assert_allclose(hadamard_product(u, v), np.einsum("nhwk,nhwk->nk", u, v) / 12, rtol=RTOL, atol=ATOL)


def test_projections_onto_all_channel_pairs_make_the_hadamard_form_equal_the_outer_product(
    rng: np.random.Generator,
) -> None:
    a, b = maps(rng, 4, 5)
    u = np.repeat(a, 5, axis=-1)  # U picks channel i of A for the pair (i, j), V picks channel j of B
    v = np.tile(b, 4)
    np.testing.assert_allclose(hadamard_product(u, v), outer_product(a, b), rtol=RTOL, atol=ATOL)


def test_signed_sqrt_keeps_the_sign_and_approaches_the_exact_square_root(rng: np.random.Generator) -> None:
    x = rng.standard_normal((3, 8)).astype(np.float32) * 100
    np.testing.assert_allclose(signed_sqrt(x, 1e-9), np.sign(x) * np.sqrt(np.abs(x)), rtol=RTOL, atol=ATOL)
    assert float(signed_sqrt(tf.zeros(()))) == 0


def test_l2_normalize_gives_every_vector_the_same_length_and_leaves_zero_alone(rng: np.random.Generator) -> None:
    x = rng.standard_normal((4, 9)).astype(np.float32)
    x[2] = 0
    lengths = np.linalg.norm(l2_normalize(x, 16.0), axis=1)
    np.testing.assert_allclose(lengths, [16, 16, 0, 16], rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "channels"),
    [(outer_product, (3, 2)), (hadamard_product, (3, 3)), (lambda a: signed_sqrt(a), (3,)), (l2_normalize, (3,))],
    ids=["outer", "hadamard", "signed_sqrt", "l2"],
)
def test_gradients_match_finite_differences(function: Any, channels: tuple[int, ...], rng: np.random.Generator) -> None:
    inputs = [tf.constant(rng.standard_normal((1, 2, 2, c))) for c in channels]  # float64, so that differences resolve
    analytic, numeric = tf.test.compute_gradient(function, inputs, delta=1e-5)
    for exact, measured in zip(analytic, numeric, strict=True):
        np.testing.assert_allclose(exact, measured, rtol=1e-4, atol=1e-6)


def test_every_layer_comes_back_from_a_saved_model_with_the_same_outputs(
    tmp_path: Any, rng: np.random.Generator
) -> None:
    a, b = keras.Input((3, 4, 5)), keras.Input((3, 4, 5))
    pooled = SignedSqrt()(OuterProduct()([a, b]))
    joined = keras.layers.Concatenate()([pooled, Bias()(HadamardProduct()([a, b]))])
    model = keras.Model([a, b], L2Normalize(16.0)(joined))
    model.save(tmp_path / "model.keras")
    inputs = maps(rng, 5, 5)
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored(inputs), model(inputs))
