"""Readings of frames that nobody took, for tests of what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgebcnn.loop.reading import Candidate, Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.shelf.watch import SeenSlot
from edgebcnn.sinks.event import ReadingEvent, Stamp
from edgebcnn.sources.frames import Frame

READING = Reading(
    source="shelf.avi",
    frame=0,
    photo=None,
    time="2025-03-01T09:30:00.125Z",
    label="Oatly-Oat-Milk",
    class_id=51,
    gtin=None,
    score=0.984375,
    top3=(Candidate(51, "Oatly-Oat-Milk", 0.984375), Candidate(52, "Oatly-Natural-Oatghurt", 0.007812)),
    age_ms=21.4,
    latency_ms=1.912,
    truth=None,
)


def reading(frame: int = 0, **changes: Any) -> Reading:
    """The reading of one frame."""
    return Reading(**{**dict(READING), "frame": frame, **changes})


def shelf_reading(seen: Sequence[SeenSlot]) -> tuple[Frame, ShelfReading]:
    """A dark frame in which these slots were classified all the same, and its reading."""
    frame = Frame(7, np.zeros((48, 128, 3), np.uint8), time.monotonic())
    known = {"source": READING.source, "frame": frame.index, "time": READING.time, "age_ms": 3.0, "latency_ms": 2.0}
    return frame, ShelfReading(changes=(), slots=(), shelves=(), seen=tuple(seen), **known)  # type: ignore[arg-type]


def stamp() -> Stamp:
    """That of a new run."""
    return Stamp(device="shelf-3", bundle_digest="0123456789abcdef" * 4)


def events(count: int) -> list[ReadingEvent]:
    """The first events of one run."""
    stamped = stamp()
    return [stamped.reading(reading(frame)) for frame in range(count)]
