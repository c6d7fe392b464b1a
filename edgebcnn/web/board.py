"""What does the web page know of a run? What the loop told it, and what it asks others when somebody looks."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.loop.reading import CANDIDATES, Candidate, Reading, utc
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.report.agreement import Proportion
from edgebcnn.report.sequential import SequentialShare
from edgebcnn.sinks.event import Event, ReadingEvent, Stamp
from edgebcnn.sinks.outlet import Counts, EventSink
from edgebcnn.web.state import FrameNow, Health, Share, ShelfNow, SlotNow, Speed, State

if TYPE_CHECKING:
    from edgebcnn.loop.summary import Summary
    from edgebcnn.shelf.watch import ShelfWatch
    from edgebcnn.sources.frames import Frame

SHOWN_EVENTS = 20
SHOWN_S = 120  # of the plots
FPS_OVER_S = 10
PICTURE_PX = 800  # longer side: sharp on a phone, and a tenth of the bytes of a 1080p frame
JPEG_QUALITY = 75


@dataclass(frozen=True)
class LiveRun:
    """Whom the board asks when somebody looks; all of it may be asked from another thread than the loop's.

    Attributes:
        stamp: Of the run's events.
        summary: The loop's figures so far.
        status: What the source does now.
        counts: What became of each sink's events.
        watch: The slots, where some are watched.
        agreements: How often models gave the same answer so far, by what was compared; empty while nobody knows.
    """

    stamp: Stamp
    summary: Callable[[], Summary]
    status: Callable[[], str]
    counts: Callable[[], Sequence[Counts]]
    watch: ShelfWatch | None = None
    agreements: Callable[[], Mapping[str, Proportion | SequentialShare]] = field(default=lambda: {})


@dataclass
class _Second:
    """What happened within one second of the monotonic clock."""

    number: int
    classified: int = 0
    latency_ms: float | None = None
    age_ms: float | None = None


class Board:
    """Takes frames and events from the loop, which it never keeps waiting, and tells them to whoever looks."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._newest: tuple[Frame, Reading | ShelfReading] | None = None
        self._lock = threading.Lock()  # guards what follows, for the moment of a copy
        self._seconds: deque[_Second] = deque(maxlen=SHOWN_S + 1)
        self._events: deque[Event] = deque(maxlen=SHOWN_EVENTS)
        self._last_said: tuple[str | None, str | None] | None = None

    def take(self, frame: Frame, reading: Reading | ShelfReading) -> None:
        """Takes the newest frame; the loop's thread calls it."""
        self._newest = frame, reading  # one assignment: whoever looks meanwhile has the frame before, with its reading
        now = int(time.monotonic())
        with self._lock:
            if not self._seconds or self._seconds[-1].number != now:
                self._seconds.append(_Second(now))
            second = self._seconds[-1]
            second.classified += reading.reason is None
            second.age_ms = _longer(second.age_ms, reading.age_ms)
            second.latency_ms = _longer(second.latency_ms, reading.latency_ms)

    def note(self, event: Event) -> None:
        """Takes one event; of readings, those alone that say something else than the one before are kept."""
        if isinstance(event, ReadingEvent):
            said = event.label, event.reason
            if said == self._last_said:
                return
            self._last_said = said
        with self._lock:
            self._events.appendleft(event)

    def events(self) -> tuple[Event, ...]:
        """The events that are shown, the newest first."""
        with self._lock:
            return tuple(self._events)

    def newest_frame(self) -> Frame | None:
        """The newest frame; None before the first."""
        return self._newest and self._newest[0]

    def state(self, run: LiveRun) -> State:
        """Everything but the picture."""
        summary, newest, now_s = run.summary(), self._newest, time.monotonic()
        with self._lock:
            seconds = {each.number: replace(each) for each in self._seconds}
        shelf = newest[1] if newest and isinstance(newest[1], ShelfReading) else None
        return State(
            time=utc(0),
            device=run.stamp.device,
            source=summary.source,
            bundle=run.stamp.bundle,
            run=run.stamp.run,
            running_s=round(now_s - self._begun_s, 1),
            frame=_frame(*newest) if newest else None,
            slots=_slots(run.watch, shelf) if run.watch and shelf else (),
            shelves=tuple(
                ShelfNow(shelf=each.shelf, right=each.right, judged=each.judged, compliance=_rounded(each.share))
                for each in (shelf.shelves if shelf else ())
            ),
            accuracy=_share(summary.accuracy) if summary.accuracy else None,
            agreement={name: _share(share) for name, share in run.agreements().items()},
            speed=_speed(summary, seconds, int(now_s)),
            receipt=summary.receipt,
            health=_health(summary, run),
            events=tuple(event.model_dump(mode="json") for event in self.events()),
        )


class NewsSink(EventSink):
    """Where events go on their way to the board."""

    name = "web"

    def __init__(self, board: Board) -> None:
        self._board = board

    def write(self, event: Event) -> None:
        """Notes the event."""
        self._board.note(event)


def jpeg_of(image_bgr: NDArray[np.uint8]) -> bytes:
    """A frame as JPEG with at most `PICTURE_PX` a side."""
    shrink = PICTURE_PX / max(image_bgr.shape[:2])
    if shrink < 1:
        image_bgr = np.asarray(
            cv2.resize(image_bgr, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8
        )
    _, jpeg = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()


def _frame(frame: Frame, reading: Reading | ShelfReading) -> FrameNow:
    height_px, width_px = frame.image_bgr.shape[:2]
    return FrameNow(
        frame=frame.index,
        time=reading.time,
        width_px=width_px,
        height_px=height_px,
        age_ms=round(reading.age_ms, 3),
        latency_ms=_rounded(reading.latency_ms),
        reason=reading.reason,
        top3=reading.top3 if isinstance(reading, Reading) else (),
    )


def _health(summary: Summary, run: LiveRun) -> Health:
    return Health(
        source=run.status(),
        restarts=summary.restarts,
        outage_s=round(summary.outage_s, 1),
        seen=summary.seen,
        classified=summary.classified,
        dropped=summary.dropped,
        unreadable=summary.unreadable,
        refused=dict(summary.refused),
        sinks=tuple(run.counts()),
    )


def _slots(watch: ShelfWatch, reading: ShelfReading) -> tuple[SlotNow, ...]:
    candidates = watch.candidates(CANDIDATES)
    return tuple(
        SlotNow(
            shelf=slot.shelf,
            slot=slot.slot,
            corners=corners,
            state=slot.state,
            expected=slot.expected.name,
            product=slot.product.name if slot.product else None,
            score=_rounded(slot.score),
            top3=tuple(Candidate(class_id, name, round(score, 6)) for class_id, name, score in best),
        )
        for slot, corners, best in zip(reading.slots, watch.slot_map.outlines(), candidates, strict=True)
    )


def _speed(summary: Summary, seconds: Mapping[int, _Second], now: int) -> Speed:
    """The second that has not passed yet would look like a slow one, and is left out."""
    shown = [seconds.get(number, _Second(number)) for number in range(now - SHOWN_S, now)]
    first = min(seconds, default=now)
    since_start = [each for each in shown if each.number >= first]
    recent = since_start[-FPS_OVER_S:]
    return Speed(
        fps=round(sum(each.classified for each in recent) / max(1, len(recent)), 2),
        latency_p50_ms=_rounded(summary.latency_p50_ms),
        latency_p95_ms=_rounded(summary.latency_p95_ms),
        age_p50_ms=_rounded(summary.age_p50_ms),
        age_p95_ms=_rounded(summary.age_p95_ms),
        fps_by_second=tuple(each.classified for each in since_start),
        latency_ms_by_second=tuple(_rounded(each.latency_ms) for each in since_start),
        age_ms_by_second=tuple(_rounded(each.age_ms) for each in since_start),
    )


def _share(share: Proportion | SequentialShare) -> Share:
    return Share(value=share.value, low=share.low, high=share.high, n=share.n)


def _longer(known_ms: float | None, new_ms: float | None) -> float | None:
    return max((each for each in (known_ms, new_ms) if each is not None), default=None)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
