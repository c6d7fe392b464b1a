"""What is known about one frame once it was classified? `docs/events.md` describes each field."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from edgebcnn.bundle import Label
from edgebcnn.camera.source import Frame
from edgebcnn.device.classifier import Prediction

SCHEMA_VERSION = 1
CANDIDATES = 3


@dataclass(frozen=True)
class Candidate:
    """A product that the frame may show, and its probability, 0-1."""

    class_id: int
    label: str
    score: float


@dataclass(frozen=True)
class Reading:
    """One classified frame.

    Attributes:
        schema_version: Version of this record.
        source: Name of the source, without credentials.
        frame: Number of the frame in the source, from 0.
        photo: Path within the folder, for photos.
        time: When the frame arrived, ISO 8601 in UTC.
        label: The most probable product.
        class_id: Its place in the bundle's labels.
        gtin: Its GTIN/UPC, where the bundle has one.
        score: Its probability, 0-1.
        top3: The most probable products, best first.
        age_ms: From the frame's arrival to the end of its classification.
        latency_ms: Preprocessing and inference.
        truth: What the frame really shows, where the source knows.
    """

    schema_version: int
    source: str
    frame: int
    photo: str | None
    time: str
    label: str
    class_id: int
    gtin: str | None
    score: float
    top3: tuple[Candidate, ...]
    age_ms: float
    latency_ms: float
    truth: str | None

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def make_reading(
    frame: Frame, prediction: Prediction, *, source: str, labels: Sequence[Label], age_ms: float, latency_ms: float
) -> Reading:
    """Puts together what is known about a frame that was just classified."""
    return Reading(
        schema_version=SCHEMA_VERSION,
        source=source,
        frame=frame.index,
        photo=frame.photo,
        time=_utc(age_ms),
        label=prediction.label,
        class_id=prediction.class_id,
        gtin=labels[prediction.class_id].gtin,
        score=_probability(prediction.score),
        top3=tuple(
            Candidate(class_id, labels[class_id].name, _probability(float(prediction.probabilities[class_id])))
            for class_id in prediction.top(CANDIDATES)
        ),
        age_ms=round(age_ms, 3),
        latency_ms=round(latency_ms, 3),
        truth=frame.truth,
    )


def _utc(age_ms: float) -> str:
    arrived = datetime.now(timezone.utc) - timedelta(milliseconds=age_ms)
    return arrived.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _probability(value: float) -> float:
    return round(value, 6)
