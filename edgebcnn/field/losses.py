"""On which products do edge and full model agree less than at export, by more than chance explains?

A product has a dozen photos at export and a few frames in a sample, and two such counts alone hardly ever tell. But all
products together tell what is usual: agreement at export by product is described by a beta distribution, which a
product's own photos then narrow (Beta(a + agreed, b + differed)). The p-value is the probability that, with a share
drawn from there, so few or fewer of its frames in the field agree: the beta-binomial tail, a predictive p-value (Box
1980, J. R. Stat. Soc. A 143:383-430) whose a and b come from the data (empirical Bayes: Robbins 1956).
`benchmarks/field.py` holds it to its promises.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import Proportion

Beta = tuple[float, float]

_STRENGTHS = np.geomspace(2, 1000, 60)  # of the prior, in photos: products that have little or all in common


def usual(at_export: Sequence[Proportion]) -> Beta:
    """The beta distribution (a, b) of agreement by product at export.

    Its mean is the agreement over all photos, with half a photo of each kind added; its strength a + b is the likeliest
    one on a grid from 2 to 1,000 photos.

    Args:
        at_export: Agreement on each product that has photos there, at least one.
    """
    agreed = np.array([each.successes for each in at_export])
    n = np.array([each.n for each in at_export])
    mean = (agreed.sum() + 0.5) / (n.sum() + 1)

    def likelihood(strength: float) -> float:
        a, b = mean * strength, (1 - mean) * strength
        return sum(_log_beta(a + k, b + of - k) for k, of in zip(agreed, n, strict=True)) - len(n) * _log_beta(a, b)

    strength = float(max(_STRENGTHS, key=likelihood))
    return float(mean * strength), float((1 - mean) * strength)


def chance_of_so_few(share: float, n: float, *, expected: Beta) -> float:
    """P(X ≤ k) for X of n trials whose probability is drawn from a beta distribution.

    Args:
        share: Of the frames agree; k is this times n, rounded up, so that the test errs towards "chance".
        n: Number of frames, an effective one perhaps; rounded down, to 1 or more.
        expected: The beta distribution.
    """
    n = max(1, math.floor(n + 1e-9))
    agreed = min(n, math.ceil(share * n - 1e-9))
    a, b = expected
    terms = (_log_ways(n, k) + _log_beta(a + k, b + n - k) - _log_beta(a, b) for k in range(agreed + 1))
    return min(1.0, sum(map(math.exp, terms)))


def equal_weight_n(kept_with: NDArray[np.floating], groups: NDArray[np.integer]) -> float:
    """Kish's effective number of scenes, (Σ W)² / Σ W², W the sum of 1/π over the frames of a scene (Kish 1965).

    Args:
        kept_with: `(n,)` π of each frame.
        groups: `(n,)` equal for frames of one scene.
    """
    weights = np.bincount(np.unique(groups, return_inverse=True)[1], 1 / kept_with)
    return float(weights.sum() ** 2 / (weights**2).sum())


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_ways(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
