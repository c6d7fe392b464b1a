"""Tests whether scores or features of new photos differ from those of old ones, overall and by product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import CONFIDENCE

PERMUTATIONS = 9999
"""So many that the smallest p-value, corrected for 500 products, is still below 5 %."""

MAX_PHOTOS = 300
"""Of each side of a test: a shift that so many do not show is small, and time grows with their square."""

MIN_PHOTOS = 5
"""Of a product on each side: with fewer, no arrangement of the photos is rare enough to survive the correction."""

_CHUNK = 500  # permutations at once, which bounds memory

_ENOUGH = 30  # exchanges that give as large a distance; with so many, p is known well and no more are drawn


@dataclass(frozen=True)
class Drift:
    """The difference between two sets of photos, and whether chance explains it.

    Attributes:
        name: The product, or the name of the photos.
        n_before: Photos before.
        n_now: Photos now.
        size: 0 if the distributions are equal, 1 if both are constant and different.
        p_value: Probability of a size at least this large by chance; for many products, with Holm's correction.
    """

    name: str
    n_before: int
    n_now: int
    size: float
    p_value: float

    @property
    def is_real(self) -> bool:
        """Whether the difference is significant at 5 %."""
        return self.p_value <= 1 - CONFIDENCE

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {**asdict(self), "is_real": self.is_real}


def drift(
    before: NDArray[np.floating], now: NDArray[np.floating], *, name: str = "all", permutations: int = PERMUTATIONS
) -> Drift:
    """Tests whether two sets come from one distribution, by energy distance (Székely, Rizzo 2013, J. Stat. Plan. Inf.).

    The distance is D² = 2 E|X - Y| - E|X - X'| - E|Y - Y'| (Euclidean; 0 only for equal distributions); the size is
    D² / 2 E|X - Y|. Of numbers, D² is twice the integral of the squared difference of the two distribution functions.
    p is the share of random exchanges of photos between the two sets, the sets as they are included, that give as large
    a D²: exact for any number of photos, of features and of ties, as long as photos are independent. After 30 of those
    no more are drawn, and p is 30 by the number of exchanges, which keeps it exact (Besag, Clifford 1991, Biometrika
    78:301-304). Of a side with more than `MAX_PHOTOS`, so many are drawn; the seed is fixed.

    Frames that were kept because they are uncertain differ by that alone: `now` must be a uniform random sample.

    Args:
        before: `(n,)` scores or `(n, d)` features.
        now: `(m,)` or `(m, d)`.
        name: Name of the result.
        permutations: Random exchanges at most.

    Raises:
        ValueError: a set is empty, shapes do not fit, or a value is not finite.
    """
    _check(before, now)
    rng = np.random.default_rng(0)
    sides = [_sample(side.reshape(len(side), -1).astype(np.float64), rng) for side in (before, now)]
    pooled = np.concatenate(sides)
    squares = (pooled**2).sum(axis=1)
    distances = np.sqrt(np.maximum(0, squares[:, None] + squares - 2 * pooled @ pooled.T))
    # With these signed weights the energy distance is one quadratic form.
    weights = np.repeat([1 / len(sides[0]), -1 / len(sides[1])], [len(sides[0]), len(sides[1])])
    observed = -weights @ distances @ weights
    between = distances[weights > 0][:, weights < 0].mean()
    size = min(1.0, max(0.0, float(observed / (2 * between)))) if between > 0 else 0.0
    return Drift(name, len(before), len(now), size, _p_value(distances, weights, float(observed), permutations, rng))


def drift_by_product(
    before: NDArray[np.floating],
    now: NDArray[np.floating],
    *,
    products_before: NDArray[np.integer],
    products_now: NDArray[np.integer],
    names: Sequence[str],
) -> tuple[Drift, ...]:
    """`drift` of every product with at least `MIN_PHOTOS` on both sides, corrected for their number (`holm`).

    What is then called real is false, anywhere among the products, with probability 5 % at most.

    Args:
        before: `(n,)` scores or `(n, d)` features.
        now: `(m,)` or `(m, d)`.
        products_before: `(n,)` class ids, by one model.
        products_now: `(m,)` class ids, by the same model.
        names: The products, in the order of class ids.

    Returns:
        The largest size first; empty where no product has photos enough on both sides.
    """
    found = []
    for product, name in enumerate(names):
        was, is_now = before[products_before == product], now[products_now == product]
        if min(len(was), len(is_now)) >= MIN_PHOTOS:
            found.append(drift(was, is_now, name=name))
    corrected = holm(np.array([each.p_value for each in found]))
    drifts = (replace(each, p_value=float(p_value)) for each, p_value in zip(found, corrected, strict=True))
    return tuple(sorted(drifts, key=lambda each: (-each.size, each.name)))


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values corrected for their number (Holm 1979, Scand. J. Statist. 6:65-70).

    With p₁ ≤ … ≤ p_m sorted, the i-th becomes max over j ≤ i of min(1, (m - j + 1) p_j): what is then at most α is
    false, anywhere among the m, with probability at most α, however the m depend on each other.

    Args:
        p_values: `(m,)`.
    """
    order = p_values.argsort()
    corrected = np.empty_like(p_values)
    steps = np.minimum(1, p_values[order] * np.arange(len(p_values), 0, -1))
    corrected[order] = np.maximum.accumulate(steps)
    return corrected


def benjamini_hochberg(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values corrected for their number by the rate of false discoveries (1995, J. R. Stat. Soc. B 57:289-300).

    With p₁ ≤ … ≤ p_m sorted, the i-th becomes min over j ≥ i of p_j m/j. Of what is then at most α, a share of α or
    less is false on average, as long as the m are independent or depend positively: a promise about the list, where
    `holm` gives one about every name on it.

    Args:
        p_values: `(m,)`.
    """
    order = p_values.argsort()
    corrected = np.empty_like(p_values)
    steps = p_values[order] * len(p_values) / np.arange(1, len(p_values) + 1)
    corrected[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return corrected


def _check(before: NDArray[np.floating], now: NDArray[np.floating]) -> None:
    if not (before.size and now.size and before.ndim == now.ndim <= 2 and before.shape[1:] == now.shape[1:]):
        raise ValueError(f"shapes {before.shape} and {now.shape}: give scores (n,) or features (n, d), n of 1 or more")
    if not (np.isfinite(before).all() and np.isfinite(now).all()):
        raise ValueError("a score or feature is not finite: the model is broken, and nothing can be said about drift")


def _sample(side: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    return side if len(side) <= MAX_PHOTOS else rng.choice(side, MAX_PHOTOS, replace=False)


def _p_value(
    distances: NDArray[np.float64],
    weights: NDArray[np.float64],
    observed: float,
    permutations: int,
    rng: np.random.Generator,
) -> float:
    """Share of random exchanges with at least the observed distance; equal ones may differ by rounding."""
    exceeding = drawn = 0
    while drawn < permutations:
        chunk = min(_CHUNK, permutations - drawn)
        shuffled = rng.permuted(np.tile(weights, (chunk, 1)), axis=1)
        exceeds = -((shuffled @ distances) * shuffled).sum(axis=1) >= observed * (1 - 1e-9)
        reached = np.flatnonzero(exceeding + exceeds.cumsum() == _ENOUGH)
        if reached.size:
            return _ENOUGH / (drawn + int(reached[0]) + 1)
        exceeding, drawn = exceeding + int(exceeds.sum()), drawn + chunk
    return (exceeding + 1) / (permutations + 1)
