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
    MeanSquare,
    OuterProduct,
    RandomSigns,
    SignedSqrt,
    SignedSums,
    TensorSketch,
    count_sketch,
    hadamard_product,
    l2_normalize,
    mean_square,
    outer_product,
    signed_sqrt,
    signed_sums,
    tensor_sketch,
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


def test_mean_square_is_the_mean_over_locations_of_the_squares(rng: np.random.Generator) -> None:
    (x,) = maps(rng, 6)
    np.testing.assert_allclose(mean_square(x), np.einsum("nhwk,nhwk->nk", x, x) / 12, rtol=RTOL, atol=ATOL)


def test_signed_sums_subtract_the_second_half_of_every_class_from_the_first(rng: np.random.Generator) -> None:
    squares = rng.standard_normal((2, 3 * 4)).astype(np.float32)
    expected = np.einsum("nkr,r->nk", squares.reshape(2, 3, 4), [1, 1, -1, -1])
    np.testing.assert_allclose(signed_sums(squares, 3), expected, rtol=RTOL, atol=ATOL)


def test_at_full_rank_lrbc_reproduces_any_symmetric_classifier_of_the_outer_product(rng: np.random.Generator) -> None:
    channels, classes = 5, 3
    (a,) = maps(rng, channels)
    w = rng.standard_normal((classes, channels, channels))
    w += w.transpose(0, 2, 1)
    factors = np.concatenate([_signed_factors(form) for form in w], axis=1)
    logits = signed_sums(mean_square((a @ factors).astype(np.float32)), classes)
    expected = np.einsum("nij,kij->nk", outer_product(a, a).numpy().reshape(2, channels, channels), w)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def _signed_factors(w: NDArray[Any]) -> NDArray[Any]:
    """`[U₊, U₋]`, `(M, 2·M)`, with w = U₊U₊ᵀ - U₋U₋ᵀ: eigenvectors times the root of their eigenvalue's size."""
    values, vectors = np.linalg.eigh(w)
    return np.hstack([vectors * np.sqrt(np.maximum(values, 0)), vectors * np.sqrt(np.maximum(-values, 0))])


def test_at_full_rank_the_hadamard_form_reproduces_any_classifier_of_the_outer_product(
    rng: np.random.Generator,
) -> None:
    a, b = maps(rng, 4, 5)
    w = rng.standard_normal((3, 4, 5))
    left, values, right = np.linalg.svd(w)  # W_k = Σ of σ u vᵀ, four terms for each of three classes
    u = (a @ np.hstack(list(left))).astype(np.float32)
    v = (b @ np.hstack(list(right[:, :4].transpose(0, 2, 1)))).astype(np.float32)
    classifier = np.kron(np.eye(3), np.ones((4, 1))) * values.reshape(-1, 1)
    expected = np.einsum("nij,kij->nk", outer_product(a, b).numpy().reshape(2, 4, 5), w)
    np.testing.assert_allclose(hadamard_product(u, v).numpy() @ classifier, expected, rtol=1e-4, atol=1e-5)


def test_count_sketch_adds_every_channel_with_its_sign_to_its_bucket(rng: np.random.Generator) -> None:
    (x,) = maps(rng, 5)
    buckets, signs = np.array([3, 0, 3, 1, 0]), np.array([1, -1, -1, 1, 1], np.float32)
    expected = np.zeros((2, 3, 4, 4), np.float32)
    for channel, (bucket, sign) in enumerate(zip(buckets, signs, strict=True)):
        expected[..., bucket] += sign * x[..., channel]
    np.testing.assert_allclose(count_sketch(x, buckets, signs, 4), expected, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("size", [2, 4, 16])
def test_tensor_sketch_is_the_mean_over_locations_of_the_circular_convolution(
    size: int, rng: np.random.Generator
) -> None:
    u, v = maps(rng, size, size)
    expected = np.fft.ifft(np.fft.fft(u) * np.fft.fft(v)).real.mean(axis=(1, 2))
    np.testing.assert_allclose(tensor_sketch(u, v), expected, rtol=1e-4, atol=1e-5)


def test_tensor_sketch_is_the_count_sketch_of_the_outer_product(rng: np.random.Generator) -> None:
    size, a_b = 8, maps(rng, 5, 7)
    layer = TensorSketch(size, seed=4)
    hashes = [weight.numpy() for weight in _built(layer, 5, 7).hashes]
    bucket = np.add.outer(abs(hashes[0]) - 1, abs(hashes[1]) - 1) % size
    sign = np.multiply.outer(np.sign(hashes[0]), np.sign(hashes[1]))
    entries = outer_product(*a_b).numpy() * sign.ravel()
    expected = np.stack([np.bincount(bucket.ravel(), row, size) for row in entries]) * (size / 35) ** 0.5
    np.testing.assert_allclose(layer(a_b), expected, rtol=1e-4, atol=1e-5)


def _built(layer: TensorSketch, *channels: int) -> TensorSketch:
    layer.build([(None, None, None, count) for count in channels])
    return layer


def maclaurin(a: Any, b: Any, size: int, seed: int) -> NDArray[np.float32]:
    """A Random Maclaurin sketch, as the network computes it."""
    u, v = (x @ RandomSigns([seed, i])((x.shape[-1], size)).numpy() for i, x in enumerate((a, b)))
    return np.asarray(hadamard_product(u, v))


def count_sketched(a: Any, b: Any, size: int, seed: int) -> NDArray[np.float32]:
    """A Tensor Sketch, as the network computes it."""
    return np.asarray(TensorSketch(size, seed)([a, b]))


@pytest.mark.parametrize("sketch", [maclaurin, count_sketched])
def test_inner_products_of_sketches_estimate_those_of_outer_products_without_bias(
    sketch: Any, rng: np.random.Generator
) -> None:
    a, b = maps(rng, 6, 5)
    exact = np.prod(outer_product(a, b).numpy(), axis=0).sum()
    draws = 300
    estimates = np.empty(draws)
    for seed in range(draws):
        z = sketch(a, b, 16, seed)
        estimates[seed] = 6 * 5 / 16 * float(z[0] @ z[1])
    # The mean of independent draws is normal with this standard error: four of them are passed once in 16,000 tests,
    # and never by chance here, where the seeds are fixed. A bias of a fifth of the norms' product would show.
    error = estimates.std(ddof=1) / draws**0.5
    norms = np.linalg.norm(outer_product(a, b).numpy(), axis=1).prod()
    assert abs(estimates.mean() - exact) < 4 * error
    assert 4 * error < 0.2 * norms, "too few draws to see anything"


@pytest.mark.parametrize("sketch", [maclaurin, count_sketched])
def test_an_entry_of_a_sketch_is_as_large_as_one_of_the_outer_product_at_every_size(
    sketch: Any, rng: np.random.Generator
) -> None:
    a, b = maps(rng, 6, 5)
    exact = (outer_product(a, b).numpy() ** 2).mean()
    for size in (4, 256):
        squares = [(sketch(a, b, size, seed) ** 2).mean() for seed in range(100)]
        assert 0.7 < np.mean(squares) / exact < 1.4


def test_random_signs_are_signs_and_the_same_for_a_seed() -> None:
    first, again, other = (RandomSigns(seed)((1, 1, 16, 8)).numpy() for seed in ([3, 0], [3, 0], [3, 1]))
    assert set(np.abs(first).ravel()) == {0.25}
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


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
    [
        (outer_product, (3, 2)),
        (hadamard_product, (3, 3)),
        (mean_square, (3,)),
        (lambda x: signed_sums(x, 2), (4,)),
        (lambda x: count_sketch(x, [1, 0, 1], [1, -1, 1], 2), (3,)),
        (tensor_sketch, (4, 4)),
        (lambda x: signed_sqrt(x), (3,)),
        (l2_normalize, (3,)),
    ],
    ids=["outer", "hadamard", "mean_square", "signed_sums", "count_sketch", "tensor_sketch", "signed_sqrt", "l2"],
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
    sums = SignedSums(2)(MeanSquare()(keras.layers.Conv2D(8, 1, kernel_initializer=RandomSigns([5]))(a)))
    joined = keras.layers.Concatenate()([pooled, Bias()(HadamardProduct()([a, b])), TensorSketch(8, 2)([a, b]), sums])
    model = keras.Model([a, b], L2Normalize(16.0)(joined))
    model.save(tmp_path / "model.keras")
    inputs = maps(rng, 5, 5)
    restored = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(restored(inputs), model(inputs))
