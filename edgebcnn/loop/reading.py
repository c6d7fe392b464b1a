"""What is known about one frame once it was judged and classified? `docs/events.md` describes each field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from edgebcnn.bundle import Label
from edgebcnn.device.classifier import Prediction
from edgebcnn.loop.quality import Fault
from edgebcnn.sources.frames import Frame

SCHEMA_VERSION = 2
CANDIDATES = 3

Reason = Fault | Literal["model failed"]
"""Why a frame has no product."""


@dataclass(frozen=True)
class Candidate:
    """A product that the frame may show, and its probability, 0-1."""

    class_id: int
    label: str
    score: float


@dataclass(frozen=True)
class Reading:
    """One frame: its product, or the reason why it has none.

    Attributes:
        schema_version: Version of this record.
        source: Name of the source, without credentials.
        frame: Number of the frame in the source, from 0.
        photo: Path within the folder, for photos.
        time: When the frame arrived, ISO 8601 in UTC.
        label: The most probable product; None where there is a reason.
        class_id: Its place in the bundle's labels.
        gtin: Its GTIN/UPC, where the bundle has one.
        score: Its probability, 0-1.
        top3: The most probable products, best first.
        reason: Why no product is said: the frame is stale, frozen, black, overexposed or blurred, or the model failed.
        age_ms: From the frame's capture to the end of its classification, or to the moment when it was refused.
        latency_ms: Preprocessing and inference; None for a frame that was not classified, and for a slot, which is
            classified together with others.
        truth: What the frame really shows, where the source knows.
    """

    schema_version: int
    source: str
    frame: int
    photo: str | None
    time: str
    label: str | None
    class_id: int | None
    gtin: str | None
    score: float | None
    top3: tuple[Candidate, ...]
    age_ms: float
    latency_ms: float | None
    truth: str | None
    reason: Reason | None = None

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def make_reading(
    frame: Frame,
    prediction: Prediction,
    *,
    source: str,
    labels: Sequence[Label],
    age_ms: float,
    latency_ms: float | None = None,
) -> Reading:
    """Puts together what is known about a frame that was just classified."""
    return Reading(
        schema_version=SCHEMA_VERSION,
        source=source,
        frame=frame.index,
        photo=frame.photo,
        time=utc(age_ms),
        label=prediction.label,
        class_id=prediction.class_id,
        gtin=labels[prediction.class_id].gtin,
        score=_probability(prediction.score),
        top3=tuple(
            Candidate(class_id, labels[class_id].name, _probability(float(prediction.probabilities[class_id])))
            for class_id in prediction.top(CANDIDATES)
        ),
        age_ms=round(age_ms, 3),
        latency_ms=None if latency_ms is None else round(latency_ms, 3),
        truth=frame.truth,
    )


def no_reading(frame: Frame, reason: Reason, *, source: str, age_ms: float, latency_ms: float | None = None) -> Reading:
    """What is known about a frame whose product must not or cannot be said."""
    return Reading(
        schema_version=SCHEMA_VERSION,
        source=source,
        frame=frame.index,
        photo=frame.photo,
        time=utc(age_ms),
        label=None,
        class_id=None,
        gtin=None,
        score=None,
        top3=(),
        age_ms=round(age_ms, 3),
        latency_ms=None if latency_ms is None else round(latency_ms, 3),
        truth=frame.truth,
        reason=reason,
    )


def utc(age_ms: float) -> str:
    """When a frame of that age was captured: ISO 8601, UTC, milliseconds."""
    arrived = datetime.now(timezone.utc) - timedelta(milliseconds=age_ms)
    return arrived.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _probability(value: float) -> float:
    return round(value, 6)
