"""Low-rank forms of a bilinear classifier: exact at full rank, found where they exist, better with every term."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.model.factorize import Factors, combine, combine_buckets, factorize, project, quadratic_forms

M, N, K = 7, 5, 4

both_kinds = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "unequal"])


@pytest.fixture
def draw(rng: np.random.Generator) -> Any:
    return rng.standard_normal


def outer_products(maps_a: NDArray[Any], maps_b: NDArray[Any]) -> NDArray[Any]:
    """`(n, M, N)` of maps `(n, L, M)` and `(n, L, N)`."""
    return np.asarray(np.einsum("nlm,nlk->nmk", maps_a, maps_b) / maps_a.shape[1])


def logits_of(factors: Factors, maps_a: NDArray[Any], maps_b: NDArray[Any]) -> NDArray[Any]:
    """What a Hadamard head computes, which forms no outer product."""
    return np.asarray(((maps_a @ factors.u) * (maps_b @ factors.v)).mean(axis=1) @ factors.p)


def restored(factors: Factors, *, symmetric: bool) -> NDArray[Any]:
    w = np.einsum("md,nd,dk->mnk", factors.u, factors.v, factors.p)
    return np.asarray((w + w.transpose(1, 0, 2)) / 2 if symmetric else w)


@both_kinds
@pytest.mark.parametrize("scaled", [True, False])
def test_at_full_rank_the_logits_are_those_of_the_outer_product(draw: Any, symmetric: bool, scaled: bool) -> None:
    n = M if symmetric else N
    weights, maps_a = draw((M, n, K)), draw((10, 6, M))
    maps_b = maps_a if symmetric else draw((10, 6, n))
    scale = np.exp(draw(M))
    scales = (scale, scale if symmetric else np.exp(draw(n))) if scaled else None
    factors = factorize(weights, K * min(M, n), symmetric=symmetric, scales=scales)
    expected = np.einsum("nij,ijk->nk", outer_products(maps_a, maps_b), weights)
    np.testing.assert_allclose(logits_of(factors, maps_a, maps_b), expected, atol=1e-6)
    assert factors.error < 1e-7


@both_kinds
def test_a_tensor_of_few_terms_is_found(draw: Any, symmetric: bool) -> None:
    n, d = M if symmetric else N, 3
    weights = np.einsum("md,nd,dk->mnk", draw((M, d)), draw((n, d)), draw((d, K)))
    factors = factorize(weights, d, symmetric=symmetric, sweeps=2000)
    assert factors.error < 1e-4
    expected = (weights + weights.transpose(1, 0, 2)) / 2 if symmetric else weights
    np.testing.assert_allclose(restored(factors, symmetric=symmetric), expected, atol=1e-2)


@both_kinds
def test_every_doubling_of_the_rank_and_every_sweep_lowers_the_error(draw: Any, symmetric: bool) -> None:
    weights = draw((M, M, K))
    by_rank = [factorize(weights, rank, symmetric=symmetric).error for rank in (1, 2, 4, 8, 16)]
    by_sweep = [factorize(weights, 6, symmetric=symmetric, sweeps=sweeps).error for sweeps in range(8)]
    for errors in (by_rank, by_sweep):
        assert all(later < earlier for earlier, later in pairwise(errors))


@both_kinds
def test_the_error_told_is_the_error_made_in_the_metric_of_the_scales(draw: Any, symmetric: bool) -> None:
    weights, scale = draw((M, M, K)), np.exp(draw(M))
    factors = factorize(weights, 5, symmetric=symmetric, scales=(scale, scale))
    metric = np.outer(scale, scale)[..., np.newaxis]
    counts = (weights + weights.transpose(1, 0, 2)) / 2 if symmetric else weights
    left = np.linalg.norm((counts - restored(factors, symmetric=symmetric)) * metric)
    assert factors.error == pytest.approx(left / np.linalg.norm(counts * metric), rel=1e-6)


def test_half_the_terms_do_where_both_streams_are_one(draw: Any) -> None:
    weights = draw((16, 16, 3))
    weights += weights.transpose(1, 0, 2)
    assert factorize(weights, 24, symmetric=True).error < 0.5 * factorize(weights, 24, symmetric=False).error


def test_the_same_weights_give_the_same_factors(draw: Any) -> None:
    weights = draw((M, N, K))
    first, again = (factorize(weights, 4, symmetric=False) for _ in range(2))
    np.testing.assert_array_equal(first.u, again.u)
    np.testing.assert_array_equal(first.p, again.p)


def test_more_terms_than_the_weights_hold_are_zero_and_do_no_harm() -> None:
    weights = np.zeros((3, 3, 2))
    weights[0, 1, 0] = 2.0
    factors = factorize(weights, 6, symmetric=False)
    np.testing.assert_allclose(restored(factors, symmetric=False), weights, atol=1e-7)
    assert np.isfinite(factorize(np.zeros((3, 3, 2)), 2, symmetric=True).p).all()


@both_kinds
@pytest.mark.parametrize("scaled", [True, False])
def test_what_needs_few_channels_is_projected_onto_them(draw: Any, symmetric: bool, scaled: bool) -> None:
    n, d = M if symmetric else N, 3
    basis = draw((M, d))
    cores = draw((d, d, K))
    if symmetric:
        cores = cores + cores.transpose(1, 0, 2)
    weights = np.einsum("mi,nj,ijk->mnk", basis, basis if symmetric else draw((n, d)), cores)
    scale = np.exp(draw(M))
    scales = (scale, scale if symmetric else np.exp(draw(n))) if scaled else None
    u, v, p = project(weights, d, symmetric=symmetric, scales=scales)
    maps_a = draw((10, 6, M))
    maps_b = maps_a if symmetric else draw((10, 6, n))
    expected = np.einsum("nij,ijk->nk", outer_products(maps_a, maps_b), weights)
    projected = outer_products(maps_a @ u, maps_b @ v).reshape(10, -1)
    np.testing.assert_allclose(projected @ p, expected, atol=1e-9 * np.abs(expected).max())


def test_the_error_of_a_projection_is_at_most_what_it_leaves_out_on_either_side(draw: Any) -> None:
    weights = draw((M, N, K))
    left_out = [
        np.linalg.svd(weights.transpose(axes).reshape(weights.shape[axes[0]], -1), compute_uv=False)
        for axes in ((0, 1, 2), (1, 0, 2))
    ]
    errors = []
    for rank in range(1, N + 1):
        u, v, p = project(weights, rank, symmetric=False)
        restored = np.einsum("mi,nj,ijk->mnk", u, v, p.reshape(rank, rank, K))
        errors.append(float(np.sum((weights - restored) ** 2)))
        assert errors[-1] <= sum(np.sum(values[rank:] ** 2) for values in left_out) * (1 + 1e-9)
    assert all(later < earlier for earlier, later in pairwise(errors))


@both_kinds
def test_given_terms_are_combined_as_least_squares_combines_them(draw: Any, symmetric: bool) -> None:
    n, d = M if symmetric else N, 6
    weights, u, v = draw((M, n, K)), draw((M, d)), draw((n, d))
    terms = np.einsum("md,nd->mnd", u, v)
    if symmetric:
        weights, terms = ((each + each.transpose(1, 0, 2)) / 2 for each in (weights, terms))
    expected = np.linalg.lstsq(terms.reshape(-1, d), weights.reshape(-1, K))[0]
    np.testing.assert_allclose(combine(weights, u, v, symmetric=symmetric), expected, atol=1e-6)


def test_a_bucket_gets_the_mean_of_its_signed_entries(draw: Any, rng: np.random.Generator) -> None:
    weights, buckets = draw((M, N, K)), rng.integers(4, size=(M, N))
    signs = rng.choice([-0.5, 0.5], (M, N))
    indicators = np.stack([((buckets == bucket) * signs).ravel() for bucket in range(4)], axis=1)
    expected = np.linalg.lstsq(indicators, weights.reshape(-1, K))[0]
    np.testing.assert_allclose(combine_buckets(weights, buckets, signs, 4), expected, atol=1e-9)


@both_kinds
def test_quadratic_forms_of_full_rank_give_the_logits_of_the_outer_product(draw: Any, symmetric: bool) -> None:
    n = M if symmetric else N
    weights, maps_a = draw((M, n, K)), draw((10, 6, M))
    maps_b = maps_a if symmetric else draw((10, 6, n))
    channels = maps_a if symmetric else np.concatenate([maps_a, maps_b], axis=2)
    scale = np.exp(draw(M))
    scales = scale, scale if symmetric else np.exp(draw(n))
    rank = channels.shape[2]
    shared, factors = quadratic_forms(weights, rank, 2 * rank, symmetric=symmetric, scales=scales)
    squares = ((channels @ shared @ factors) ** 2).mean(axis=1).reshape(10, K, 2, -1).sum(axis=3)
    expected = np.einsum("nij,ijk->nk", outer_products(maps_a, maps_b), weights)
    np.testing.assert_allclose(squares[:, :, 0] - squares[:, :, 1], expected, atol=1e-8)
