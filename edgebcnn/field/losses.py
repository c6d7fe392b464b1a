"""Finds the products on which edge and full model agree less than at export, by more than chance explains.

A product has a dozen photos at export and a few frames in a sample, and two such counts alone rarely suffice. But all
products together show what is usual: agreement at export by product is described by a beta distribution, which a
product's own photos then narrow. The p-value is the probability that, with a share drawn from there, so few or fewer of
its frames in the field agree: the beta-binomial tail, a predictive p-value (Box 1980, J. R. Stat. Soc. A 143:383-430).
How much products have in common is hardly known where they are few, so that it is averaged over (hierarchical Bayes:
Gelman et al., Bayesian Data Analysis, 3rd edition, 5.3). `benchmarks/field.py` verifies its error rates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import Proportion

Beta = tuple[float, float]

_STRENGTHS = np.geomspace(2, 1000, 12)  # in photos: products that have little in common, or all


@dataclass(frozen=True)
class Usual:
    """Agreement by product at export.

    Attributes:
        agreed: Photos on which both models agree.
        n: All photos.
        strengths: How much products have in common, as a + b of a beta distribution, and the probability of each.
    """

    agreed: int
    n: int
    strengths: tuple[tuple[float, float], ...]

    @classmethod
    def of(cls, at_export: Sequence[Proportion]) -> Usual:
        """Fits the prior to the products that have photos at export.

        The probability of a strength s is in proportion to that of the photos, beta-binomial with the mean over all of
        them; before, each s on a grid from 2 to 1,000 photos, even in its logarithm, is as probable as another.
        """
        agreed = np.array([each.successes for each in at_export])
        n = np.array([each.n for each in at_export])
        mean = _mean(agreed.sum(), n.sum())
        evidence = np.array([_evidence(agreed, n, (mean * s, (1 - mean) * s)) for s in _STRENGTHS])
        likely = np.exp(evidence - evidence.max())
        strengths = zip(_STRENGTHS.tolist(), (likely / likely.sum()).tolist(), strict=True)
        return cls(int(agreed.sum()), int(n.sum()), tuple(strengths))

    def chance_of_so_few(self, share: float, n: float, *, known: Proportion | None) -> float:
        """`chance_of_so_few` for one product.

        With mean m of the N photos of other products and a strength s, its own k of n photos make the beta distribution
        (m t + k, (1 - m) t + n - k), 1/t = 1/s + 1/(N + 1): to the variance between products is added that of m.

        Args:
            share: Of its frames agree.
            n: Number of its frames, an effective one perhaps.
            known: Agreement on its photos at export; None where it has none.
        """
        agreed, photos = (known.successes, known.n) if known else (0, 0)
        others = self.n - photos
        mean = _mean(self.agreed - agreed, others)

        def expected(strength: float) -> Beta:
            strength = 1 / (1 / strength + 1 / (others + 1))
            return mean * strength + agreed, (1 - mean) * strength + photos - agreed

        chances = (probability * chance_of_so_few(share, n, expected=expected(s)) for s, probability in self.strengths)
        return min(1.0, sum(chances))


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


def _mean(agreed: int, n: int) -> float:
    """With half a photo of each kind added (Jeffreys)."""
    return (agreed + 0.5) / (n + 1)


def _evidence(agreed: NDArray[np.integer], n: NDArray[np.integer], prior: Beta) -> float:
    """Logarithm of the probability of these photos, but for a constant."""
    a, b = prior
    return sum(_log_beta(a + k, b + of - k) for k, of in zip(agreed, n, strict=True)) - len(n) * _log_beta(a, b)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_ways(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
