"""The figures of a whole run: frames, speed, delay, accuracy."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgebcnn.device.classifier import Receipt
from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.report.agreement import Proportion

SCHEMA_VERSION = 2


class LatencyHistogram:
    """Quantiles of any number of times in constant memory.

    Each bin is `GROWTH` times as wide as the one before, so that a quantile is within 1 % of the exact one whether a
    model takes 0.1 ms or 10 s. A random sample would be as small, but would give another p95 each time.
    """

    LOW_MS, HIGH_MS, GROWTH = 0.01, 100_000.0, 1.02

    def __init__(self) -> None:
        self._counts = np.zeros(1 + math.ceil(math.log(self.HIGH_MS / self.LOW_MS, self.GROWTH)), np.int64)

    def add(self, latency_ms: float) -> None:
        """Counts one time; those outside `LOW_MS` to `HIGH_MS` count as the nearer end."""
        clamped = min(max(latency_ms, self.LOW_MS), self.HIGH_MS)
        self._counts[int(math.log(clamped / self.LOW_MS, self.GROWTH))] += 1

    def quantile(self, q: float) -> float | None:
        """Returns the time in ms that a share `q` (0-1) of all did not exceed; None before the first."""
        total = int(self._counts.sum())
        if not total:
            return None
        bin_index = int(np.searchsorted(self._counts.cumsum(), max(1, math.ceil(q * total))))
        return float(self.LOW_MS * self.GROWTH ** (bin_index + 0.5))


@dataclass(frozen=True)
class Summary:
    """The figures of one run.

    Attributes:
        source: Name of the source, without credentials.
        dropped: Frames of a live source that a newer frame replaced before the loop took them.
        unreadable: Frames or photos that are broken.
        classified: Frames with a product.
        refused: Number of skipped frames, by reason.
        restarts: How often the source reconnected.
        outage_s: Time without the source.
        elapsed_s: From the start of the loop to its end.
        latency_p50_ms: Median time of preprocessing and inference.
        latency_p95_ms: 95th percentile of the same.
        age_p50_ms: Median delay from a frame's capture to its result.
        age_p95_ms: 95th percentile of the same.
        receipt: Runtime and delegate that ran the model.
        accuracy: Share of labeled frames that were right; None where no frame was labeled. Its interval treats frames
            as independent, which those of one video are not: there it is too narrow.
    """

    source: str
    dropped: int
    unreadable: int
    classified: int
    refused: Mapping[str, int]
    restarts: int
    outage_s: float
    elapsed_s: float
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    age_p50_ms: float | None
    age_p95_ms: float | None
    receipt: Receipt
    accuracy: Proportion | None

    @property
    def seen(self) -> int:
        """Frames of the source: classified, skipped, dropped or unreadable."""
        return self.classified + sum(self.refused.values()) + self.dropped + self.unreadable

    @property
    def fps(self) -> float:
        """Frames classified per second."""
        return self.classified / self.elapsed_s if self.elapsed_s > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """Every figure by name."""
        return {
            "schema_version": SCHEMA_VERSION,
            "source": self.source,
            "seen": self.seen,
            "dropped": self.dropped,
            "classified": self.classified,
            "unreadable": self.unreadable,
            "refused": dict(self.refused),
            "restarts": self.restarts,
            "outage_s": round(self.outage_s, 3),
            "elapsed_s": round(self.elapsed_s, 3),
            "fps": round(self.fps, 2),
            "latency_p50_ms": _rounded(self.latency_p50_ms),
            "latency_p95_ms": _rounded(self.latency_p95_ms),
            "age_p50_ms": _rounded(self.age_p50_ms),
            "age_p95_ms": _rounded(self.age_p95_ms),
            "receipt": self.receipt.as_json(),
            "accuracy": self.accuracy.as_json() if self.accuracy else None,
        }

    def __str__(self) -> str:
        """One line per subject, for a terminal."""
        lines = {
            "source": self.source,
            "frames": f"{self.seen} seen · {self.dropped} dropped · {self.classified} classified"
            f" · {self.unreadable} unreadable",
            "speed": f"{self.fps:.1f} frames/s",
            "inference": f"{_ms(self.latency_p50_ms)} p50 · {_ms(self.latency_p95_ms)} p95",
            "delay": f"{_ms(self.age_p50_ms)} p50 · {_ms(self.age_p95_ms)} p95",
            "delegate": str(self.receipt),
            "accuracy": str(self.accuracy or "unknown: no frame was labeled"),
        }
        if self.refused:
            lines["skipped"] = " · ".join(f"{count} {reason}" for reason, count in sorted(self.refused.items()))
        if self.restarts:
            lines["outages"] = f"{self.restarts}, {self.outage_s:.1f} s without the source"
        return "\n".join(f"{subject:<10}{figures}" for subject, figures in lines.items())


class Tally:
    """Counts readings in constant memory."""

    def __init__(self) -> None:
        self.classified = 0
        self.refused: Counter[str] = Counter()
        self.latency = LatencyHistogram()
        self.age = LatencyHistogram()
        self._labeled = 0
        self._right = 0

    def add(self, reading: Reading | ShelfReading) -> None:
        """Counts one reading."""
        self.age.add(reading.age_ms)
        if reading.latency_ms is not None:
            self.latency.add(reading.latency_ms)
        if reading.reason is not None:
            self.refused[reading.reason] += 1
            return
        self.classified += 1
        if isinstance(reading, Reading) and reading.truth is not None:
            self._labeled += 1
            self._right += reading.truth == reading.label

    @property
    def accuracy(self) -> Proportion | None:
        """Share of labeled frames that were right; None where no frame was labeled."""
        return Proportion(self._right, self._labeled) if self._labeled else None


def _rounded(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms, 3)


def _ms(value_ms: float | None) -> str:
    return "-" if value_ms is None else f"{value_ms:.2f} ms"
