"""Chooses the range that the 256 steps of an int8 tensor cover.

| method       | range                                                                                              |
|--------------|----------------------------------------------------------------------------------------------------|
| `minmax`     | From the lowest to the highest value seen: nothing is clipped, and one extreme photo costs all      |
| `percentile` | From the (100 - p)th to the p-th percentile of the values                                          |
| `mse`        | The one that minimizes Σ (x - Q(x))² over the values seen: clipping weighed against coarse steps   |

Where a signed square root s follows, `mse` minimizes Σ (s(x) - s(Q(x)))² instead: the root magnifies small errors of
small values. Every range holds zero, because padding and ReLU need a step that is exactly zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from edgebcnn.errors import DataError

RangeMethod = Literal["minmax", "percentile", "mse"]

Values: TypeAlias = NDArray[np.float64]

BINS = 8192
"""Of a histogram on either side of zero: a dozen or more for each step of a range as wide as the values."""

_SHRINK = tuple(np.geomspace(1, 0.02, 32).tolist())
"""Shares of the lowest and highest value that `mse` tries, for both ends at once and then for each."""

_REFINE = tuple(np.linspace(0.88, 1.12, 13).tolist())
"""Factors of the best ends so far that it tries after that."""


class RangeChoice(BaseModel):
    """How a range is chosen from the values seen.

    Attributes:
        range_method: `minmax`, `percentile` or `mse`.
        percentile: For `percentile` alone: the share of the values, in %, that lies below the upper end, and likewise
            above the lower one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    range_method: RangeMethod = "minmax"
    percentile: float | None = Field(default=None, gt=50, le=100, validate_default=True)

    @field_validator("percentile")
    @classmethod
    def _belongs_to_its_method(cls, percentile: float | None, info: ValidationInfo) -> float | None:
        method = info.data.get("range_method")
        if method == "percentile" and percentile is None:
            raise ValueError("range_method percentile needs one, such as 99.9")
        if method in ("minmax", "mse") and percentile is not None:
            raise ValueError(f"range_method {method} takes none")
        return percentile


class LayerRanges(RangeChoice):
    """Another choice for some layers.

    Attributes:
        layer: Name of a layer, or a pattern of names such as `block_1_*`.
    """

    layer: str = Field(min_length=1)

    def fits(self, names: Iterable[str]) -> bool:
        """Whether one of these names is meant."""
        return any(fnmatchcase(name, self.layer) for name in names)


class Int8Rules(RangeChoice):
    """How a model becomes int8.

    Attributes:
        layers: Exceptions from the range method; the first that fits a layer counts.
        bias_correction: Whether biases make up for what rounding the weights adds.
        equalization: Whether channels are scaled to fill the range that they share.
        outliers_apart: Whether the few largest weights of a dense layer become one of their own, where that helps.
    """

    layers: Annotated[tuple[LayerRanges, ...], Field(strict=False)] = ()
    bias_correction: bool = True
    equalization: bool = False
    outliers_apart: bool = True

    @property
    def passes(self) -> int:
        """How often the calibration photos go through the float model."""
        return 2 if self.equalization else 1

    def of(self, names: Iterable[str]) -> RangeChoice:
        """The choice for a layer that has these names."""
        names = tuple(names)
        return next((rule for rule in self.layers if rule.fits(names)), self)

    def check_layers(self, names: Iterable[str]) -> None:
        """Checks that every exception fits a layer.

        Raises:
            DataError: one fits none.
        """
        known = sorted(set(names))
        for rule in self.layers:
            if not rule.fits(known):
                likely = ", ".join(get_close_matches(rule.layer, known, cutoff=0.4)) or f"{known[0]} to {known[-1]}"
                raise DataError(f"the recipe names the layer {rule.layer!r}, which the model lacks: it has {likely}")


@dataclass(frozen=True)
class Range:
    """Lowest and highest value that an int8 tensor can hold; zero lies between them."""

    low: float
    high: float

    @property
    def scale(self) -> float:
        """Width of a step."""
        return (self.high - self.low) / 255

    def quantized(self, values: Values) -> Values:
        """The values that are left of `values`: clipped, and rounded to a step, of which one is zero."""
        scale = self.scale or 1.0
        zero = round(-128 - self.low / scale)
        kept: Values = (np.clip(np.rint(values / scale) + zero, -128, 127) - zero) * scale
        return kept


class Histogram:
    """How often a tensor takes which value.

    Bins are as wide as a power of two and begin at zero. So two of them make one of the next width, and neither the
    order of the values nor the bound that was needed at first changes the result.

    Attributes:
        low: The lowest value.
        high: The highest value.
        counts: `(2 · BINS,)` int64, from -`bound` to `bound`.
        bound: A power of two.
    """

    def __init__(self) -> None:
        self.low, self.high = math.inf, -math.inf
        self.counts = np.zeros(2 * BINS, np.int64)
        self.bound = 0.0

    def add(self, values: NDArray[np.float32], counted: NDArray[np.float32] | None = None) -> None:
        """Adds values, not empty.

        Args:
            values: Any shape; `low` and `high` are theirs.
            counted: A sample of them that is counted; all where it is left out.
        """
        low, high = float(values.min()), float(values.max())
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._widen(max(-low, high))
        scaled = np.floor((values if counted is None else counted).ravel() * np.float32(BINS / self.bound))
        bins = np.clip(scaled.astype(np.int32) + BINS, 0, 2 * BINS - 1)
        self.counts += np.bincount(bins, minlength=2 * BINS)

    def values(self) -> tuple[Values, Values]:
        """Centres of the bins that hold something, and their shares of all values."""
        (occupied,) = np.nonzero(self.counts)
        centres = np.clip((occupied - BINS + 0.5) * (self.bound / BINS), self.low, self.high)
        return centres, self.counts[occupied] / self.counts.sum()

    def percentile(self, percent: float) -> float:
        """The value below which that share lies, to the width of a bin."""
        cumulated = np.cumsum(self.counts)
        edge = int(np.searchsorted(cumulated, percent / 100 * cumulated[-1]))
        # A lower end is the lower edge of its bin and an upper end the upper one: nothing more is clipped than chosen.
        value = (edge + (percent > 50) - BINS) * (self.bound / BINS)
        return min(max(value, self.low), self.high)

    def _widen(self, magnitude: float) -> None:
        if not self.bound:
            self.bound = 2.0 ** math.ceil(math.log2(max(magnitude, 2.0**-60)))
        while self.bound < magnitude:
            quarter = BINS // 2
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.pad(merged, quarter)
            self.bound *= 2


def choose_range(seen: Histogram, choice: RangeChoice, *, before_sqrt: float | None = None) -> Range:
    """Chooses the range of a tensor.

    Args:
        seen: Its values.
        choice: How.
        before_sqrt: ε of the signed square root x · (|x| + ε)^-½ that follows; None where none does.
    """
    low, high = seen.low, seen.high
    if choice.range_method == "percentile" and choice.percentile is not None:
        low, high = seen.percentile(100 - choice.percentile), seen.percentile(choice.percentile)
    widest = Range(min(low, 0.0), max(high, 0.0))
    if choice.range_method == "mse" and widest.scale:
        return _least_error(seen, widest, _identity if before_sqrt is None else _signed_sqrt(before_sqrt))
    return widest


def sqnr_db(seen: Histogram, chosen: Range) -> float:
    """Signal-to-quantization-noise ratio, 10 log₁₀ (Σ x² / Σ (x - Q(x))²); infinite where nothing is lost."""
    values, shares = seen.values()
    noise = _error(values, shares, chosen, _identity)
    signal = float(shares @ values**2)
    return 10 * math.log10(signal / noise) if noise and signal else math.inf


def share_clipped(seen: Histogram, chosen: Range) -> float:
    """Share of the values that lie outside a range by more than half a step."""
    values, shares = seen.values()
    margin = chosen.scale / 2
    return float(shares[(values < chosen.low - margin) | (values > chosen.high + margin)].sum())


def _least_error(seen: Histogram, widest: Range, domain: Callable[[Values], Values]) -> Range:
    values, shares = seen.values()

    def best(candidates: Iterable[Range]) -> Range:
        return min(candidates, key=lambda candidate: _error(values, shares, candidate, domain))

    found = best(Range(widest.low * share, widest.high * share) for share in _SHRINK)
    if not widest.low or not widest.high:
        return best(Range(_within(widest, found.low * f), _within(widest, found.high * f)) for f in _REFINE)
    found = best(Range(widest.low * share, found.high) for share in _SHRINK)
    found = best(Range(found.low, widest.high * share) for share in _SHRINK)
    found = best(Range(_within(widest, found.low * factor), found.high) for factor in _REFINE)
    return best(Range(found.low, _within(widest, found.high * factor)) for factor in _REFINE)


def _within(widest: Range, end: float) -> float:
    return min(max(end, widest.low), widest.high)


def _error(values: Values, shares: Values, chosen: Range, domain: Callable[[Values], Values]) -> float:
    difference = domain(values) - domain(chosen.quantized(values))
    return float(shares @ (difference * difference))


def _identity(values: Values) -> Values:
    return values


def _signed_sqrt(epsilon: float) -> Callable[[Values], Values]:
    return lambda values: values / np.sqrt(np.abs(values) + epsilon)
