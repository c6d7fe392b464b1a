"""Estimates shares of all frames from a sample whose frames were kept with different probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import CONFIDENCE, score_interval


@dataclass(frozen=True)
class WeightedShare:
    """A share of all frames, estimated from those that were kept, with its 95 % interval.

    Attributes:
        value: The estimate, 0-1.
        n: Frames that it is made of.
        effective_n: Effective sample size: number of frames, kept with equal probability, that would be as informative.
        frames: Estimated number of all frames that these stand for.
    """

    value: float
    n: int
    effective_n: float
    frames: float

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return score_interval(self.value, self.effective_n)[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return score_interval(self.value, self.effective_n)[1]

    def __str__(self) -> str:
        """`91.2 % (95 % CI 89.5-92.7, n=1265, effective sample size 800)`."""
        interval = f"{100 * self.low:.1f}-{100 * self.high:.1f}"
        counts = f"n={self.n}, effective sample size {self.effective_n:.0f}"
        return f"{100 * self.value:.1f} % ({100 * CONFIDENCE:.0f} % CI {interval}, {counts})"

    def as_json(self) -> dict[str, float | int]:
        """Value, interval and the counts that they come from."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "confidence": CONFIDENCE,
            "n": self.n,
            "effective_n": self.effective_n,
            "frames": self.frames,
        }


def weighted_share(
    holds: NDArray[np.bool_],
    kept_with: NDArray[np.floating],
    *,
    groups: NDArray[np.integer] | None = None,
) -> WeightedShare:
    """Share of all frames on which something holds, from frames that were kept with known probabilities.

    With weights w = 1/π, the estimate is Hájek's p = Σ w y / N, N = Σ w (Hájek 1971; Särndal, Swensson, Wretman 1992,
    section 5.7). Its variance is the linearized Σ w² (y - p)² / N² for frames that were drawn independently; of frames
    in groups, the sums of w (y - p) over each group are squared. Squares of w alone, and not of w less 1, because the
    frames seen are themselves a sample of what the camera may see.

    A rare frame of large weight that was not caught would leave that variance, and the interval, too small. So the
    variance is taken with one more frame (or group) for which y is 1 and one for which it is 0, each of the weight
    u = Σ w²/Σ w; and the interval is Wilson's for the effective number n' = p(1 - p)/variance, as Korn and Graubard
    (1998, Survey Methodology 24:193-201) do it with Clopper and Pearson's.

    Args:
        holds: `(n,)` bool, y: that edge and full model agree on a frame, say.
        kept_with: `(n,)` π, the probability with which each frame was kept, above 0 and up to 1.
        groups: `(n,)` integers, equal for frames of one scene; None where each frame is a scene of its own.

    Raises:
        ValueError: there is no frame, lengths or dtypes differ, or a probability lies outside 0-1.
    """
    _check(holds, kept_with, groups)
    weights = 1 / kept_with.astype(np.float64)
    frames = float(weights.sum())
    of_group = np.arange(len(holds)) if groups is None else np.unique(groups, return_inverse=True)[1]
    totals = np.bincount(of_group, weights)
    held = np.bincount(of_group, weights * holds)
    unit = float((totals**2).sum()) / frames
    smooth = (held.sum() + unit) / (frames + 2 * unit)
    squares = ((held - smooth * totals) ** 2).sum() + unit**2 * (smooth**2 + (1 - smooth) ** 2)
    effective_n = float(smooth * (1 - smooth) * frames**2 / squares)
    return WeightedShare(min(1.0, float(held.sum()) / frames), len(holds), effective_n, frames)


def weighted_shares(
    holds: NDArray[np.bool_],
    kept_with: NDArray[np.floating],
    products: NDArray[np.integer],
    *,
    names: Sequence[str],
) -> dict[str, WeightedShare]:
    """`weighted_share` of each product that has a frame, by name, in the order of class ids.

    Args:
        holds: `(n,)` bool.
        kept_with: `(n,)` probabilities, above 0 and up to 1.
        products: `(n,)` class ids: what the full model says, where there are no labels.
        names: The products, in the order of class ids.

    Raises:
        ValueError: as `weighted_share`.
    """
    rows = {product: products == product for product in np.unique(products).tolist()}
    return {names[product]: weighted_share(holds[row], kept_with[row]) for product, row in rows.items()}


def _check(holds: NDArray[np.bool_], kept_with: NDArray[np.floating], groups: NDArray[np.integer] | None) -> None:
    shapes = {holds.shape, kept_with.shape, holds.shape if groups is None else groups.shape}
    if len(shapes) > 1 or holds.ndim != 1 or not holds.size:
        raise ValueError(f"arrays of shapes {sorted(shapes)}: all must be (n,) with the same n of 1 or more")
    if holds.dtype.kind != "b":
        raise ValueError(f"what holds must be bool, not {holds.dtype}")
    if not (kept_with.min() > 0 and kept_with.max() <= 1):
        raise ValueError(
            f"frames were kept with probabilities {kept_with.min()} to {kept_with.max()}: give above 0, up to 1"
        )
