"""Reports the calibration of an int8 model: its photos, its ranges, and its stability with other photos."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.table import Table

from edgebcnn.report.agreement import Proportion

Between = Literal["linear", "relu6", "product", "square root"]

BRIGHTNESS_BANDS = ("dark", "middling", "bright")
"""Terciles of the brightness of a product's photos."""

MIN_AGREEMENT = 0.97
MAX_DISTANCE = 0.1
"""Several times the difference that real photos give, and a fraction of what noise gives."""


@dataclass(frozen=True)
class TensorRange:
    """An int8 tensor, the values seen in calibration, and its range.

    Attributes:
        name: The layer, and its op as well where the layer has several.
        method: How the range was chosen.
        lowest: Lowest value seen.
        p0_1: The value below which 0.1 % of them lie.
        p99_9: The value below which 99.9 % of them lie.
        highest: Highest value seen.
        low: Lower end of the range, as it is in the file.
        high: Upper end.
        clipped: Share of the values that lie outside.
        sqnr_db: Signal-to-quantization-noise ratio; infinite if nothing is lost.
    """

    name: str
    method: str
    lowest: float
    p0_1: float
    p99_9: float
    highest: float
    low: float
    high: float
    clipped: float
    sqnr_db: float

    def as_json(self) -> dict[str, Any]:
        """Everything; JSON has no infinity, so that is null."""
        return {**asdict(self), "sqnr_db": self.sqnr_db if math.isfinite(self.sqnr_db) else None}


@dataclass(frozen=True)
class EqualizedGroup:
    """A group of tensors whose channels were equalized, by powers of two.

    Attributes:
        tensors: Their names, as those of `TensorRange`.
        between: The ops between the layers before and after, which limit the factors.
        lowest_factor: Of all channels.
        highest_factor: Of all channels.
        unused_bits_before: By how many powers of two a channel ends below the highest one of its tensor, mean of all.
        unused_bits_after: The same of the scaled channels.
    """

    tensors: tuple[str, ...]
    between: Between
    lowest_factor: float
    highest_factor: float
    unused_bits_before: float
    unused_bits_after: float


@dataclass(frozen=True)
class Stability:
    """The difference between two int8 models that were calibrated on different photos.

    Attributes:
        agreement: Of their top-1, on training photos that neither was calibrated on.
        distance: Mean total variation ½ Σ |p - q| of their probabilities on those, 0-1. A model is sure of its training
            photos, so that this moves long before an answer does.
        photos: How many photos the second was calibrated on.
    """

    agreement: Proportion
    distance: float
    photos: int

    @property
    def is_stable(self) -> bool:
        """Whether agreement and distance are those of suitable photos; agreement is low only if its interval is."""
        return self.agreement.high >= MIN_AGREEMENT and self.distance <= MAX_DISTANCE

    def __str__(self) -> str:
        """The agreement, and what it means."""
        said = (
            f"an int8 model calibrated on {self.photos} other photos predicts the same on {self.agreement}, mean "
            f"probability difference {self.distance:.3f}"
        )
        return said if self.is_stable else f"{said}: the calibration photos do not represent the training data"


@dataclass(frozen=True)
class CalibrationReport:
    """The calibration photos of an int8 model, and the ranges that they gave.

    Attributes:
        recipe: Name of the recipe.
        source: Where the photos are from, `train` or `captured`.
        photos: Product and brightness of each photo.
        notes: Notices for the user about the selection.
        tensors: The ranges, in the order of computation.
        stability: None if too few training photos were left to measure it.
        equalized: Tensors whose channels were scaled together, in the order of computation.
        groups: Store, visit or shelf of each photo, where the recipe tells them apart.
    """

    recipe: str
    source: str
    photos: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    tensors: tuple[TensorRange, ...]
    stability: Stability | None
    equalized: tuple[EqualizedGroup, ...] = ()
    groups: tuple[str, ...] = ()

    def equalization(self) -> str | None:
        """One line about equalization; None if nothing was equalized."""
        if not self.equalized:
            return None
        before, after = (
            sum(getattr(group, name) for group in self.equalized) / len(self.equalized)
            for name in ("unused_bits_before", "unused_bits_after")
        )
        return (
            f"channels equalized in {len(self.equalized)} groups of tensors: on average a channel leaves {after:.2f} "
            f"bits of its range unused, instead of {before:.2f}"
        )

    def as_json(self) -> dict[str, Any]:
        """Everything, photos as counts."""
        counts = Counter(self.photos)
        stability = self.stability
        return {
            "recipe": self.recipe,
            "source": self.source,
            "photos": [
                {"product": product, "brightness": brightness, "photos": counts[product, brightness]}
                for product, brightness in sorted(counts)
            ],
            "groups": dict(sorted(Counter(self.groups).items())),
            "notes": list(self.notes),
            "tensors": [tensor.as_json() for tensor in self.tensors],
            "equalized": [asdict(group) for group in self.equalized],
            "stability": None
            if stability is None
            else {
                "agreement": stability.agreement.as_json(),
                "distance": stability.distance,
                "photos": stability.photos,
            },
        }


def calibration_tables(report: CalibrationReport) -> list[Table]:
    """The photos by product and brightness, and by group, the range of each tensor, and what was equalized.

    Args:
        report: What to show.
    """
    tables = [_photos_table(report)]
    if report.groups:
        tables.append(_groups_table(report))
    tables.append(_ranges_table(report))
    return [*tables, _equalized_table(report.equalized)] if report.equalized else tables


def _photos_table(report: CalibrationReport) -> Table:
    counts = Counter(report.photos)
    table = Table(title=f"{len(report.photos)} calibration photos ({report.source}), recipe {report.recipe}")
    table.add_column("product", overflow="fold")
    for column in BRIGHTNESS_BANDS:
        table.add_column(column, justify="right")
    for product in sorted({product for product, _ in report.photos}):
        table.add_row(product, *(str(counts[product, band]) for band in BRIGHTNESS_BANDS))
    return table


def _groups_table(report: CalibrationReport) -> Table:
    table = Table("group", title="Calibration photos by group")
    table.add_column("photos", justify="right")
    for group, photos in sorted(Counter(report.groups).items()):
        table.add_row(group, str(photos))
    return table


def _ranges_table(report: CalibrationReport) -> Table:
    methods = {tensor.method for tensor in report.tensors}
    table = Table(
        title="Values seen; range of each int8 tensor, what it clips, and its SQNR",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("layer", overflow="fold", min_width=20)
    for column in ("lowest", "0.1 %", "99.9 %", "highest", "from", "to", "clip %", "dB"):
        table.add_column(column, justify="right", no_wrap=True)
    if len(methods) > 1:
        table.add_column("method", no_wrap=True)
    for tensor in report.tensors:
        values = (tensor.lowest, tensor.p0_1, tensor.p99_9, tensor.highest, tensor.low, tensor.high)
        cells = [tensor.name, *(f"{value:.2g}" for value in values)]
        cells += [f"{100 * tensor.clipped:.2f}", f"{tensor.sqnr_db:.1f}"]
        table.add_row(*cells, *([tensor.method] if len(methods) > 1 else []))
    return table


def _equalized_table(groups: tuple[EqualizedGroup, ...]) -> Table:
    table = Table(
        title="Tensors whose channels were scaled together; bits that a channel leaves unused, on average",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("tensors", overflow="fold", min_width=20)
    for column in ("between", "factors", "unused bits", "now"):
        table.add_column(column, justify="right", no_wrap=True)
    for group in groups:
        factors = f"{group.lowest_factor:g} to {group.highest_factor:g}"
        bits = (f"{group.unused_bits_before:.2f}", f"{group.unused_bits_after:.2f}")
        table.add_row(", ".join(group.tensors), group.between, factors, *bits)
    return table
