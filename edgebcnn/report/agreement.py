"""Computes accuracy and agreement of models with confidence intervals and significance tests.

Accuracy needs labels. Agreement compares the top-1 of two models on the same photos and needs none. Both carry their
number of photos and an interval. A difference in accuracy between two models on the same photos carries McNemar's exact
test, a drop its paired interval.

It needs only NumPy and the standard library, because it runs on the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95

_HALVINGS = 53  # as many as a double has bits

_CORNER, _FEW = 3, 50  # counts from either end where Wilson's interval is corrected; one less up to `_FEW` photos


def wilson_interval(successes: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of a binomial proportion (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    With p = successes / n and z the normal quantile at (1 + confidence) / 2, the ends are
    (p + z²/2n ± z √(p(1 - p)/n + z²/4n²)) / (1 + z²/n).

    Returns:
        Lower and upper end, in 0-1; exactly 0 if nothing succeeded and exactly 1 if everything did.

    Raises:
        ValueError: n is below 1, successes lies outside 0-n, or
            confidence outside 0-1.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} of {n} is not a proportion: n must be 1 or more and successes between 0 and n")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return score_interval(successes / n, n, confidence=confidence)


def score_interval(share: float, n: float, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """`wilson_interval` of a share, 0-1, of so many photos, above 0; an effective number need not be a whole one."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return (centre - half) / scale if share > 0 else 0.0, (centre + half) / scale if share < 1 else 1.0


def share_interval(successes: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's interval, corrected at both ends (Brown, Cai, DasGupta 2001, doi:10.1214/ss/1009213286).

    Where two models differ on 1 to 3 photos only (1 or 2 up to n = 50), Wilson's interval ends too early, and covers a
    share near 1 as seldom as 85 times in 100. There its far end becomes 1 - λ/n, with λ the mean of the Poisson
    variable that reaches the count with probability 1 - confidence; near 0 likewise. Everywhere else it is Wilson's.

    From n = 20 to 5,000 and shares from 0.5 to 0.999 it covers 95.5 % on average and never less than 91.9 %. Photos are
    whole, so coverage of every interval jumps from share to share: for half of the shares at n = 20 none can have 94 to
    96 %, and this one errs to the safe side. `benchmarks/simulations.py` measures it beside five others.

    Args:
        successes: 0 to n.
        n: 1 or more.
        confidence: 0-1.

    Returns:
        Lower and upper end, in 0-1.

    Raises:
        ValueError: as `wilson_interval`.
    """
    low, high = wilson_interval(successes, n, confidence=confidence)
    corner = min(_CORNER if n > _FEW else _CORNER - 1, n // 2)
    if 1 <= successes <= corner:
        low = _poisson_mean(successes, 1 - confidence) / n
    if 1 <= n - successes <= corner:
        high = 1 - _poisson_mean(n - successes, 1 - confidence) / n
    return low, high


@dataclass(frozen=True)
class Proportion:
    """Successes out of n, with the 95 % interval of `share_interval`.

    Raises:
        ValueError: n is below 1, or successes lies outside 0-n.
    """

    successes: int
    n: int

    def __post_init__(self) -> None:
        """Refuses counts that are not a proportion."""
        share_interval(self.successes, self.n)

    @property
    def value(self) -> float:
        """Successes / n."""
        return self.successes / self.n

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return share_interval(self.successes, self.n)[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return share_interval(self.successes, self.n)[1]

    def __str__(self) -> str:
        """`91.2 % (95 % CI 89.5-92.7, n=1265)`."""
        interval = f"{100 * self.low:.1f}-{100 * self.high:.1f}"
        return f"{100 * self.value:.1f} % ({100 * CONFIDENCE:.0f} % CI {interval}, n={self.n})"

    def as_json(self) -> dict[str, float | int]:
        """Value, interval and the counts that they come from."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "confidence": CONFIDENCE,
            "successes": self.successes,
            "n": self.n,
        }


@dataclass(frozen=True)
class McNemar:
    """Two models on the same photos: how often only one was right, and whether chance explains it.

    Attributes:
        only_first: Photos that only the first model got right.
        only_second: Photos that only the second model got right.
        p_value: Two-sided; small if the accuracies differ by more than chance.
    """

    only_first: int
    only_second: int
    p_value: float

    def as_json(self) -> dict[str, float | int]:
        """The two counts and the p-value."""
        return {"only_first": self.only_first, "only_second": self.only_second, "p_value": self.p_value}


def paired_interval(lost: int, gained: int, n: int, *, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of a difference of two proportions on the same photos (Tango 1998, Stat. Med. 17:891-908).

    The difference is (lost - gained)/n. With z the normal quantile at (1 + confidence)/2, Δ lies in the interval when
    |lost - gained - nΔ| ≤ z √(n(2q + Δ(1 - Δ))), where q = (√(B² - 4AC) - B)/2A is the likeliest share of gained
    photos if Δ is true: A = 2n, B = (2n - lost + gained)Δ - lost - gained, C = -gained·Δ(1 - Δ). At Δ = 0 this is
    McNemar's asymptotic test: the interval lies above 0 exactly where (lost - gained)/√(lost + gained) > z.

    Args:
        lost: Photos that only the first model got right.
        gained: Photos that only the second model got right.
        n: All photos.
        confidence: Of the interval, 0-1.

    Returns:
        Lower and upper end, in -1 to 1; as wide as few photos make it even where nothing was lost or gained.

    Raises:
        ValueError: n is below 1, a count is negative, more photos are lost and gained than there are, or confidence
            lies outside 0-1.
    """
    if lost < 0 or gained < 0 or n < max(1, lost + gained):
        raise ValueError(f"{lost} lost and {gained} gained of {n}: counts must be 0 or more, and their sum at most n")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return _tango_low(lost, gained, n, z), -_tango_low(gained, lost, n, z)


class Estimate(Protocol):
    """A figure with an interval: a `Proportion`, or a `WeightedShare`."""

    @property
    def value(self) -> float:
        """The figure."""

    @property
    def low(self) -> float:
        """Lower end of its 95 % interval."""

    @property
    def high(self) -> float:
        """Upper end."""


def difference_interval(first: Estimate, second: Estimate) -> tuple[float, float]:
    """95 % interval of the difference of two figures from different photos, such as export and field.

    The method of variance recovery (Newcombe 1998, Stat. Med. 17:873-890, method 10; Zou, Donner 2008): with d the
    difference and (l, u) each figure's own interval, d - √((p₁ - l₁)² + (u₂ - p₂)²) to d + √((u₁ - p₁)² + (p₂ - l₂)²).
    For figures from the same photos it is too wide: use `paired_interval`.

    Args:
        first: A figure.
        second: The figure that is subtracted.

    Returns:
        Lower and upper end.
    """
    difference = first.value - second.value
    return (
        difference - math.hypot(first.value - first.low, second.high - second.value),
        difference + math.hypot(first.high - first.value, second.value - second.low),
    )


@dataclass(frozen=True)
class AccuracyDrop:
    """How much less often one model is right than another on the same photos, with the 95 % paired interval.

    Attributes:
        lost: Photos that only the other one got right.
        gained: Photos that only this one got right.
        n: All photos.

    Raises:
        ValueError: the counts do not fit together.
    """

    lost: int
    gained: int
    n: int

    def __post_init__(self) -> None:
        """Refuses inconsistent counts."""
        paired_interval(self.lost, self.gained, self.n)

    @property
    def value(self) -> float:
        """(lost - gained) / n; below 0 where accuracy rose."""
        return (self.lost - self.gained) / self.n

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return paired_interval(self.lost, self.gained, self.n)[0]

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return paired_interval(self.lost, self.gained, self.n)[1]

    def __str__(self) -> str:
        """`0.9 points (95 % CI 0.1 to 1.8, n=1265)`."""
        interval = f"{100 * self.low:.1f} to {100 * self.high:.1f}"
        return f"{100 * self.value:.1f} points ({100 * CONFIDENCE:.0f} % CI {interval}, n={self.n})"

    def as_json(self) -> dict[str, float | int]:
        """Value, interval and the counts that they come from."""
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "confidence": CONFIDENCE,
            "lost": self.lost,
            "gained": self.gained,
            "n": self.n,
        }


def accuracy(predicted: NDArray[np.integer], truth: NDArray[np.integer]) -> Proportion:
    """Share of photos whose predicted class id is the labelled one.

    Args:
        predicted: `(n,)` integer class ids, top-1 of one model.
        truth: `(n,)` integer class ids, from labels.

    Raises:
        ValueError: the arrays are empty, not integer, or differ in shape.
    """
    return _share_equal(predicted, truth)


def agreement(edge: NDArray[np.integer], full: NDArray[np.integer]) -> Proportion:
    """Share of photos on which two models have the same top-1, right or wrong.

    Args:
        edge: `(n,)` integer class ids, top-1 of one model.
        full: `(n,)` integer class ids, top-1 of the model that it is compared with.

    Raises:
        ValueError: the arrays are empty, not integer, or differ in shape.
    """
    return _share_equal(edge, full)


def top_k_accuracy(
    probabilities: NDArray[np.floating | np.integer], truth: NDArray[np.integer], *, k: int
) -> Proportion:
    """Share of photos whose labelled class is among the k most probable.

    Equal probabilities (common in uint8 outputs) rank by class id, as argmax does, so that k = 1 is top-1 accuracy.

    Args:
        probabilities: `(n, classes)`, any scale that grows with probability.
        truth: `(n,)` integer class ids.
        k: 1 to classes.

    Raises:
        ValueError: shapes, dtypes or class ids do not fit, a probability is NaN, or k lies outside 1-classes.
    """
    check_probabilities(probabilities, truth)
    classes = probabilities.shape[1]
    if not 1 <= k <= classes:
        raise ValueError(f"k must lie between 1 and the {classes} classes, not {k}")
    of_truth = np.take_along_axis(probabilities, truth[:, None], axis=1)
    ties_before = (probabilities == of_truth) & (np.arange(classes) < truth[:, None])
    rank = ((probabilities > of_truth) | ties_before).sum(axis=1)
    return Proportion(int((rank < k).sum()), len(truth))


def mcnemar_exact(first_right: NDArray[np.bool_], second_right: NDArray[np.bool_]) -> McNemar:
    """McNemar's test (1947, doi:10.1007/BF02295996), exact and two-sided.

    Of the n photos that exactly one model got right, each model gets Binomial(n, 1/2) when they are equally accurate:
    p = min(1, 2 Σ_{i ≤ k} C(n, i) / 2ⁿ) with k the smaller count; 1 when n = 0.

    Args:
        first_right: `(n,)` bool.
        second_right: `(n,)` bool, for the same photos in the same order.

    Raises:
        ValueError: the arrays are empty, not bool, or differ in shape.
    """
    _check_pair(first_right, second_right, kinds="b", content="bool")
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    discordant = only_first + only_second
    tail = _sum_of_binomials(discordant, min(only_first, only_second))
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**discordant))


def check_probabilities(probabilities: NDArray[np.floating | np.integer], truth: NDArray[np.integer]) -> None:
    """Checks that `(n, classes)` probabilities and `(n,)` class ids belong together.

    Raises:
        ValueError: shapes, dtypes or class ids do not fit, or a probability is NaN.
    """
    if truth.ndim != 1 or probabilities.ndim != 2 or len(probabilities) != len(truth) or not probabilities.size:
        raise ValueError(
            f"probabilities of shape {probabilities.shape} and truth of shape {truth.shape}: "
            "they must be (n, classes) and (n,) with the same n of 1 or more"
        )
    if not np.issubdtype(truth.dtype, np.integer):
        raise ValueError(f"truth must hold integer class ids, not {truth.dtype}")
    if truth.min() < 0 or truth.max() >= probabilities.shape[1]:
        raise ValueError(
            f"truth holds class ids {truth.min()} to {truth.max()}, outside 0-{probabilities.shape[1] - 1}"
        )
    if np.isnan(probabilities).any():
        raise ValueError("a probability is NaN: the model is broken, and no rank can be given")


def _share_equal(first: NDArray[np.integer], second: NDArray[np.integer]) -> Proportion:
    _check_pair(first, second, kinds="iu", content="integer class ids")
    return Proportion(int((first == second).sum()), len(first))


def _check_pair(first: NDArray[np.generic], second: NDArray[np.generic], *, kinds: str, content: str) -> None:
    if first.ndim != 1 or first.shape != second.shape or not first.size:
        raise ValueError(f"shapes {first.shape} and {second.shape}: both must be (n,) with the same n of 1 or more")
    for array in (first, second):
        if array.dtype.kind not in kinds:
            raise ValueError(f"the arrays must hold {content}, not {array.dtype}")


def _sum_of_binomials(n: int, k: int) -> int:
    """Σ_{i ≤ k} C(n, i), each term from the one before, since C(n, i) afresh would take hours at 10⁵ photos."""
    term = total = 1
    for i in range(k):
        term = term * (n - i) // (i + 1)
        total += term
    return total


@lru_cache
def _poisson_mean(count: int, probability: float) -> float:
    """The mean λ of the Poisson variable X with P(X ≥ count) = probability, found by halving."""
    low, high = 0.0, float(count + 1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        less = math.exp(-middle) * sum(middle**i / math.factorial(i) for i in range(count))
        low, high = (middle, high) if 1 - less < probability else (low, middle)
    return high


def _tango_low(lost: int, gained: int, n: int, z: float) -> float:
    """The lowest difference that is not rejected. The score falls as the difference grows: halve until it is found."""
    low, high = -1.0, (lost - gained) / n
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        b = (2 * n - lost + gained) * middle - lost - gained
        c = -gained * middle * (1 - middle)
        q = (math.sqrt(b * b - 8 * n * c) - b) / (4 * n)
        deviation = z * math.sqrt(max(0.0, n * (2 * q + middle * (1 - middle))))
        low, high = (middle, high) if lost - gained - n * middle > deviation else (low, middle)
    return high
