"""The result for one frame: its product, or the reason why it has none. `docs/events.md` describes each field."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from edgebcnn.device.classifier import Prediction
from edgebcnn.loop.quality import Fault
from edgebcnn.sources.frames import Frame

CANDIDATES = 3

Reason = Fault | Literal["model failed"]
"""Why a frame has no product."""


def _as_text(value: object) -> object:
    """Escapes the bytes of a file name that are not valid text, as JSON would."""
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_as_text)]
"""Text that may come from a file name, and can always be written as UTF-8."""

Time = Annotated[
    str,
    Field(description="When it happened: ISO 8601, UTC, milliseconds.", json_schema_extra={"format": "date-time"}),
]
SourceName = Annotated[
    Text, Field(description="What `--camera` named; user, password and query of an address are `***`.")
]


@dataclass(frozen=True)
class Candidate:
    """A product that the frame may show, and its probability, 0-1."""

    class_id: int
    label: str
    score: float


class Reading(BaseModel):
    """One frame: its product, or the reason why it has none."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    time: Time
    source: SourceName
    frame: int = Field(description="Number of the frame in its source, from 0. Gaps are dropped or unreadable frames.")
    photo: Text | None = Field(description="Path of the photo within the folder; null for cameras and videos.")
    label: str | None = Field(description="The most probable product; null where there is a `reason`.")
    class_id: int | None = Field(description="Its place in the bundle's `labels.json`, from 0.")
    gtin: str | None = Field(description="Its GTIN/UPC, where the bundle has one.")
    score: float | None = Field(description="Its probability, 0-1, as the model gives it.")
    top3: tuple[Candidate, ...] = Field(
        description="The most probable products, best first. Fewer where the model knows fewer."
    )
    age_ms: float = Field(description="From capture or arrival to the end of its classification, or to its refusal.")
    latency_ms: float | None = Field(description="Preprocessing and inference; null where it was not.")
    truth: str | None = Field(description="What the frame really shows, where the source knows.")
    reason: str | None = Field(default=None, description="Why the frame was skipped; null where it was not.")


def make_reading(
    frame: Frame,
    prediction: Prediction,
    *,
    source: str,
    age_ms: float,
    latency_ms: float | None = None,
) -> Reading:
    """Makes the reading of a frame that was classified.

    Args:
        frame: The frame.
        prediction: What the model predicted.
        source: Name of the source, without credentials.
        labels: Products of the bundle, in the order of class ids.
        age_ms: From the frame's capture to now.
        latency_ms: Preprocessing and inference; None for a slot, which is classified together with others.
    """
    return Reading(
        source=source,
        frame=frame.index,
        photo=frame.photo,
        time=utc(age_ms),
        label=prediction.label,
        class_id=prediction.class_id,
        gtin=prediction.gtin,
        score=_probability(prediction.score),
        top3=tuple(
            Candidate(product.class_id, product.label, _probability(product.score))
            for product in prediction.top(CANDIDATES)
        ),
        age_ms=round(age_ms, 3),
        latency_ms=None if latency_ms is None else round(latency_ms, 3),
        truth=frame.truth,
    )


def skipped_reading(
    frame: Frame, reason: Reason, *, source: str, age_ms: float, latency_ms: float | None = None
) -> Reading:
    """Makes the reading of a frame that was skipped: it was not classified, or its result came too late."""
    return Reading(
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
    """The time at which a frame of that age was captured: ISO 8601, UTC, milliseconds."""
    captured = datetime.now(timezone.utc) - timedelta(milliseconds=age_ms)
    return captured.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _probability(value: float) -> float:
    return round(value, 6)
