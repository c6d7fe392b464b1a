"""Factorizes the classifier of an outer product into one low-rank form that all products share.

A linear classifier of the outer product X (M×N) holds a matrix Wₖ (M×N) for each of K products, with logits ⟨Wₖ, X⟩.
Every form here writes all of them by few vectors, so that X need not be formed:

| function          | Wₖ ≈                                                 | layers it is for                   |
|-------------------|------------------------------------------------------|------------------------------------|
| `factorize`       | Σⱼ pⱼₖ uⱼ vⱼᵀ                                        | Hadamard product, classifier       |
| `squares`         | Σⱼ pⱼₖ uⱼ uⱼᵀ                                        | projection, mean squares           |
| `project`         | U Cₖ Vᵀ                                              | projections, their outer product   |
| `combine`         | the same, with u and v given                         | Random Maclaurin, classifier       |
| `combine_buckets` | Σⱼ pⱼₖ Sⱼ, with Sⱼ the signed entries of a bucket    | Tensor Sketch, classifier          |
| `quadratic_forms` | F (Gₖ₊Gₖ₊ᵀ - Gₖ₋Gₖ₋ᵀ) Fᵀ, with F for all products    | projection, factors, signed sums   |

No photo is needed. Where both streams are one, X is symmetric, and only the symmetric part of Wₖ counts. NumPy, in
float64; the same input gives the same result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebcnn.progress import Advance

Array = NDArray[np.float64]

SWEEPS = 2
"""On real weights, the third to the eighth lower the error by less than 1 % and do not change the agreement."""

_STEPS = 2  # of majorization for one contraction with the weights, which costs as much as a hundred of them
_RIDGE = 1e-10  # of a Gram matrix's mean diagonal: components may become alike
_BATCH = 8  # products that are contracted at once; what lies between is (8, M, d)
_EXACT = 1e-7  # relative error that is left by rounding


@dataclass(frozen=True)
class Factors:
    """Wₖ ≈ Σⱼ pⱼₖ uⱼ vⱼᵀ.

    Attributes:
        u: `(M, d)`.
        v: `(N, d)`.
        p: `(d, K)`.
        error: ‖W - Ŵ‖ / ‖W‖ over all products, of what counts and in the metric of the scales.
    """

    u: Array
    v: Array
    p: Array
    error: float


def factorize(
    weights: NDArray[np.floating],
    rank: int,
    *,
    symmetric: bool,
    scales: tuple[Array, Array] | None = None,
    sweeps: int = SWEEPS,
    advance: Advance = lambda sweeps: None,
) -> Factors:
    """Factorizes the bilinear forms of all products jointly: the CP decomposition of their M×N×K tensor.

    Minimizes Σₖ ‖Dₐ (Wₖ - Σⱼ pⱼₖ uⱼ vⱼᵀ) D_b‖² by alternating least squares (Kolda and Bader 2009,
    doi:10.1137/07070111X, section 3.4), from the largest singular values among all Wₖ. The channels' sizes Dₐ and D_b
    make an error count as much as it moves a logit.

    A symmetric X sees only the symmetric part of u vᵀ, which is ¼ (u + v)(u + v)ᵀ - ¼ (u - v)(u - v)ᵀ: one term holds a
    positive and a negative eigenvalue. There it starts from such pairs, and leaves the antisymmetric part free: each
    update takes that of the last Ŵ for the target's, which never raises the error (majorization: Hunter and Lange 2004,
    doi:10.1198/0003130042836).

    Args:
        weights: `(M, N, K)`.
        rank: Number of terms d. At K · min(M, N) every W is met exactly.
        symmetric: Whether X is symmetric; M = N then.
        scales: Root mean square of the channels, `(M,)` and `(N,)`, above 0; ones by default.
        sweeps: Updates of all three factors.
        advance: Called with 1 after each of them.
    """
    rows, columns = scales if scales is not None else map(np.ones, weights.shape[:2])
    target = _forms(weights, symmetric=symmetric) * np.outer(rows, columns)
    u, v = (_eigenvalue_pairs if symmetric else _singular_values)(target, rank)
    p, error = _solve_p(target, u, v, symmetric=symmetric)
    for _ in range(sweeps):
        if error > _EXACT:
            u = _solve_u(_contract(target, v, p), u, v, p, symmetric=symmetric)
            v = _solve_u(_contract(target.transpose(0, 2, 1), u, p), v, u, p, symmetric=symmetric)
            p, error = _solve_p(target, u, v, symmetric=symmetric)
        advance(1)
    sizes_u, sizes_v = (np.maximum(np.linalg.norm(each, axis=0), np.finfo(float).tiny) for each in (u, v))
    return Factors(
        u=u / sizes_u / rows[:, np.newaxis],
        v=v / sizes_v / columns[:, np.newaxis],
        p=p * (sizes_u * sizes_v)[:, np.newaxis],
        error=error,
    )


def squares(
    weights: NDArray[np.floating],
    rank: int,
    *,
    symmetric: bool,
    scales: tuple[Array, Array] | None = None,
    advance: Advance = lambda sweeps: None,
) -> tuple[Array, Array]:
    """Writes the forms of all products by squares alone: Wₖ ≈ Σⱼ pⱼₖ uⱼ uⱼᵀ.

    Each term p u vᵀ of `factorize` is p·¼ (u + v)(u + v)ᵀ - p·¼ (u - v)(u - v)ᵀ, to a symmetric X; of unequal streams,
    which are taken side by side, (uᵀa + vᵀb)²/4 - (uᵀa - vᵀb)²/4. So nothing is lost against it at half the rank.

    Args:
        weights: `(M, N, K)`.
        rank: Number of squares d, even.
        symmetric: Whether X is symmetric; M = N then.
        scales: As for `factorize`.
        advance: As for `factorize`.

    Returns:
        All u, `(M, d)` or for unequal streams `(M + N, d)`, and p, `(d, K)`.
    """
    terms = factorize(weights, rank // 2, symmetric=symmetric, scales=scales, advance=advance)
    u, v = terms.u, terms.v
    if not symmetric:
        u, v = np.pad(u, ((0, len(v)), (0, 0))), np.pad(v, ((len(u), 0), (0, 0)))
    return np.concatenate([u + v, u - v], axis=1) / 2, np.concatenate([terms.p, -terms.p])


def project(
    weights: NDArray[np.floating], rank: int, *, symmetric: bool, scales: tuple[Array, Array] | None = None
) -> tuple[Array, Array, Array]:
    """Writes the forms of all products by few channels of each stream: Wₖ ≈ U Cₖ Vᵀ.

    U and V hold the directions in which all Wₖ together are largest, the leading eigenvectors of Σₖ Wₖ Wₖᵀ and
    Σₖ WₖᵀWₖ in the metric of the scales, and Cₖ = Uᵀ Wₖ V: the truncated higher-order SVD of the M×N×K tensor, whose
    squared error is at most twice the least (De Lathauwer, De Moor, Vandewalle 2000, doi:10.1137/S0895479896305696).

    Args:
        weights: `(M, N, K)`.
        rank: Number of channels d of each stream, at most min(M, N). At M = N = d every W is met exactly.
        symmetric: Whether X is symmetric; M = N then.
        scales: As for `factorize`.

    Returns:
        U `(M, d)`, V `(N, d)`, and `(d², K)` with the entry (i, j) of every C in row i·d + j.
    """
    rows, columns = scales if scales is not None else map(np.ones, weights.shape[:2])
    target = _forms(weights, symmetric=symmetric) * np.outer(rows, columns)
    u = np.linalg.eigh(np.einsum("kmn,kln->ml", target, target, optimize=True))[1][:, : -rank - 1 : -1]
    v = np.linalg.eigh(np.einsum("kmn,kml->nl", target, target, optimize=True))[1][:, : -rank - 1 : -1]
    cores = u.T @ target @ v
    return u / rows[:, np.newaxis], v / columns[:, np.newaxis], cores.reshape(len(cores), -1).T


def combine(weights: NDArray[np.floating], u: Array, v: Array, *, symmetric: bool) -> Array:
    """The `(d, K)` p that brings Σⱼ pⱼₖ uⱼ vⱼᵀ closest to every Wₖ, by least squares.

    Args:
        weights: `(M, N, K)`.
        u: `(M, d)`.
        v: `(N, d)`.
        symmetric: Whether X is symmetric.
    """
    p, _ = _solve_p(_forms(weights, symmetric=symmetric), u, v, symmetric=symmetric)
    return p


def combine_buckets(weights: NDArray[np.floating], buckets: NDArray[np.integer], signs: Array, size: int) -> Array:
    """The `(size, K)` p that brings the signed entries of each bucket, times p, closest to every Wₖ: their means.

    Args:
        weights: `(M, N, K)`.
        buckets: `(M, N)` bucket of every entry of X, below `size`.
        signs: `(M, N)` factor of every entry.
        size: Number of buckets.
    """
    flat, entries = buckets.ravel(), np.asarray(weights, np.float64).reshape(-1, weights.shape[2])
    energy = np.bincount(flat, signs.ravel() ** 2, size)
    sums = np.zeros((size, entries.shape[1]))
    np.add.at(sums, flat, entries * signs.reshape(-1, 1))
    return sums / np.maximum(energy, np.finfo(float).tiny)[:, np.newaxis]


def quadratic_forms(
    weights: NDArray[np.floating],
    rank: int,
    class_rank: int,
    *,
    symmetric: bool,
    scales: tuple[Array, Array] | None = None,
) -> tuple[Array, Array]:
    """Co-decomposes the forms of all products: Wₖ ≈ F (Gₖ₊Gₖ₊ᵀ - Gₖ₋Gₖ₋ᵀ) Fᵀ (Kong and Fowlkes 2017, arXiv 1611.05109).

    Of each Wₖ the r/2 largest positive and negative eigenvalues are kept, and of their vectors the best common subspace
    of m dimensions. Unequal streams are taken side by side, where Wₖ becomes the form ½ (0 Wₖ; Wₖᵀ 0).

    Args:
        weights: `(M, N, K)`.
        rank: Dimensions m of the subspace.
        class_rank: Rank r of each product's form, even.
        symmetric: Whether X is symmetric; M = N then.
        scales: As for `factorize`.

    Returns:
        F, `(M, m)` or for unequal streams `(M + N, m)`, and all G, `(m, K·r)`: product by product, first the positive.
    """
    rows, columns = scales if scales is not None else map(np.ones, weights.shape[:2])
    forms, sizes = _forms(weights, symmetric=symmetric) * np.outer(rows, columns), rows
    if not symmetric:
        forms, sizes = _side_by_side(forms), np.concatenate([rows, columns])
    values, vectors = np.linalg.eigh(forms)
    half = class_rank // 2
    positive = vectors[..., ::-1][..., :half] * np.sqrt(np.maximum(values[:, np.newaxis, ::-1][..., :half], 0))
    negative = vectors[..., :half] * np.sqrt(np.maximum(-values[:, np.newaxis, :half], 0))
    factors = np.concatenate([positive, negative], axis=2).transpose(1, 0, 2).reshape(len(sizes), -1)
    subspace = np.linalg.svd(factors, full_matrices=rank > min(factors.shape))[0][:, :rank]
    return subspace / sizes[:, np.newaxis], subspace.T @ factors


def _forms(weights: NDArray[np.floating], *, symmetric: bool) -> Array:
    """`(K, M, N)`: what counts of every W."""
    forms = np.ascontiguousarray(weights.transpose(2, 0, 1), np.float64)
    return (forms + forms.transpose(0, 2, 1)) / 2 if symmetric else forms


def _side_by_side(forms: Array) -> Array:
    count, m, n = forms.shape
    joined = np.zeros((count, m + n, m + n))
    joined[:, :m, m:] = forms / 2
    joined[:, m:, :m] = forms.transpose(0, 2, 1) / 2
    return joined


def _singular_values(target: Array, rank: int) -> tuple[Array, Array]:
    """The terms of all products' singular value decompositions that hold most."""
    left, values, right = np.linalg.svd(target, full_matrices=False)
    of, term = _largest(values**2, rank)
    size = np.sqrt(values[of, term])
    return _padded((left[of, :, term] * size[:, np.newaxis]).T, rank), _padded(
        (right[of, term] * size[:, np.newaxis]).T, rank
    )


def _eigenvalue_pairs(target: Array, rank: int) -> tuple[Array, Array]:
    """Pairs of a positive and a negative eigenvalue of one product, λ and -μ, as √λ x ± √μ y; those that hold most."""
    values, vectors = np.linalg.eigh(target)
    positive, negative = np.maximum(values[:, ::-1], 0), np.maximum(-values, 0)
    of, term = _largest(positive**2 + negative**2, rank)
    x = vectors[of, :, values.shape[1] - 1 - term] * np.sqrt(positive[of, term])[:, np.newaxis]
    y = vectors[of, :, term] * np.sqrt(negative[of, term])[:, np.newaxis]
    return _padded((x + y).T, rank), _padded((x - y).T, rank)


def _largest(energies: Array, count: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    best = np.argsort(-energies, axis=None, kind="stable")[:count]
    of, term = np.unravel_index(best, energies.shape)
    return of, term


def _padded(vectors: Array, rank: int) -> Array:
    """With zeros for the terms beyond those that there are."""
    return np.pad(vectors, ((0, 0), (0, rank - vectors.shape[1])))


def _contract(target: Array, v: Array, p: Array) -> Array:
    """Σₖ Wₖ v diag(pₖ), `(M, d)`."""
    total = np.zeros((target.shape[1], v.shape[1]))
    for forms, of_products in zip(_batches(target), _batches(p.T), strict=True):
        total += np.einsum("kmd,kd->md", forms @ v, of_products)
    return total


def _solve_u(contracted: Array, u: Array, v: Array, p: Array, *, symmetric: bool) -> Array:
    """The best u for this v and p; where only symmetric parts count, a better one."""
    products = p @ p.T
    gram = (v.T @ v) * products
    if not symmetric:
        return _solve(gram, contracted.T).T
    for _ in range(_STEPS):
        u = u / 2 + _solve(gram, (contracted - v @ ((u.T @ v) * products) / 2).T).T
    return u


def _solve_p(target: Array, u: Array, v: Array, *, symmetric: bool) -> tuple[Array, float]:
    """The best p for this u and v, and the relative error that is left."""
    gram = (u.T @ u) * (v.T @ v)
    if symmetric:
        crossed = u.T @ v
        gram = (gram + crossed * crossed.T) / 2
    sums = np.concatenate([np.einsum("kmd,md->dk", forms @ v, u) for forms in _batches(target)], axis=1)
    p = _solve(gram, sums)
    energy = np.sum(target**2)
    left = energy - 2 * np.sum(p * sums) + np.sum(gram * (p @ p.T))
    return p, float(np.sqrt(max(left, 0.0) / energy)) if energy else 0.0


def _batches(of_products: Array) -> list[Array]:
    return [of_products[first : first + _BATCH] for first in range(0, len(of_products), _BATCH)]


def _solve(gram: Array, right: Array) -> Array:
    ridge = _RIDGE * np.trace(gram) / len(gram) + np.finfo(float).tiny
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), right)
