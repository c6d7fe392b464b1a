"""Holds the state that the web page of a run shows: frames and events from the loop, and figures read on request."""

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
from edgebcnn.shelf.slots import MIN_SCORE
from edgebcnn.shelf.watch import SlotState
from edgebcnn.sinks.event import Event, ReadingEvent, Stamp
from edgebcnn.sinks.outlet import Counts, EventSink
from edgebcnn.web.state import FrameNow, Health, Share, ShelfNow, SlotNow, Speed, State
from edgebcnn.web.verdict import (
    INTERVALS,
    Pulse,
    SteadyProduct,
    frame_verdict,
    liveness,
    newest_intervals,
    shelf_verdict,
    stale_after_s,
)

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
    """Sources that the board reads on each request; all are safe to call from any thread.

    Attributes:
        stamp: Of the run's events.
        summary: The loop's figures so far.
        status: What the source does now.
        lost_s: For how long the source has been lost; None while it gives frames.
        loop_s: For how long the loop has been in its current stage.
        pace_s: The longest pause that the loop makes between two frames.
        counts: What became of each sink's events.
        min_score: Score from which the product of a whole frame is more than a guess.
        watch: The slots, where some are watched.
        agreements: How often models predicted the same product so far, by comparison; empty while unknown.
    """

    stamp: Stamp
    summary: Callable[[], Summary]
    status: Callable[[], str]
    counts: Callable[[], Sequence[Counts]]
    lost_s: Callable[[], float | None] = lambda: None
    loop_s: Callable[[], float] = lambda: 0.0
    pace_s: float = 0.0
    min_score: float = MIN_SCORE
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
    """Takes frames and events from the loop without delaying it, and serves them to the page."""

    def __init__(self) -> None:
        self._begun_s = time.monotonic()
        self._newest: tuple[Frame, Reading | ShelfReading] | None = None
        self._lock = threading.Lock()  # guards what follows, for the moment of a copy
        self._seconds: deque[_Second] = deque(maxlen=SHOWN_S + 1)
        self._events: deque[Event] = deque(maxlen=SHOWN_EVENTS)
        self._last_said: tuple[str | None, str | None] | None = None
        self._taken_s: deque[float] = deque(maxlen=INTERVALS + 1)
        self._seen: tuple[float, str] | None = None  # when, by the monotonic clock and for people
        self._settled: dict[tuple[str, str], str] = {}
        self._product = SteadyProduct()

    def take(self, frame: Frame, reading: Reading | ShelfReading) -> None:
        """Takes the newest frame; the loop's thread calls it."""
        self._newest = frame, reading  # one assignment, so that a reader always gets a frame with its own reading
        now_s = time.monotonic()
        now = int(now_s)
        with self._lock:
            self._taken_s.append(now_s)
            if reading.reason is None:
                self._seen = now_s, reading.time
            if isinstance(reading, ShelfReading):
                self._settled |= {(each.now.shelf, each.now.slot): reading.time for each in reading.changes}
            else:
                self._product.take(reading, now_s)
            if not self._seconds or self._seconds[-1].number != now:
                self._seconds.append(_Second(now))
            second = self._seconds[-1]
            second.classified += reading.reason is None
            second.age_ms = _longer(second.age_ms, reading.age_ms)
            second.latency_ms = _longer(second.latency_ms, reading.latency_ms)

    def note(self, event: Event) -> None:
        """Takes one event; a reading is kept only if it differs from the previous one."""
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
        """The full state, without the image."""
        summary, newest, now_s = run.summary(), self._newest, time.monotonic()
        live = liveness(self._pulse(run, summary, now_s))
        with self._lock:
            seconds = {each.number: replace(each) for each in self._seconds}
            settled, product = dict(self._settled), self._product.now() if run.watch is None else None
        shelf = newest[1] if newest and isinstance(newest[1], ShelfReading) else None
        slots = _slots(run.watch, shelf, settled) if run.watch and shelf else ()
        return State(
            time=utc(0),
            device=run.stamp.device,
            source=summary.source,
            bundle=run.stamp.bundle,
            run=run.stamp.run,
            running_s=round(now_s - self._begun_s, 1),
            live=live,
            verdict=frame_verdict(product, live, min_score=run.min_score) if product else shelf_verdict(slots, live),
            frame=_frame(*newest) if newest else None,
            slots=slots,
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

    def _pulse(self, run: LiveRun, summary: Summary, now_s: float) -> Pulse:
        with self._lock:
            taken_s, seen, newest = tuple(self._taken_s), self._seen, self._newest
        latency_ms = summary.latency_p95_ms
        return Pulse(
            taken_ago_s=now_s - taken_s[-1] if taken_s else None,
            seen_ago_s=now_s - seen[0] if seen else None,
            seen_at=seen[1] if seen else None,
            lost_s=run.lost_s(),
            loop_s=run.loop_s(),
            skipped=newest[1].reason if newest else None,
            stale_after_s=stale_after_s(newest_intervals(taken_s), pace_s=run.pace_s, latency_p95_ms=latency_ms),
        )


class NewsSink(EventSink):
    """The event sink that feeds the board."""

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


def _slots(watch: ShelfWatch, reading: ShelfReading, settled: Mapping[tuple[str, str], str]) -> tuple[SlotNow, ...]:
    candidates = [
        tuple(Candidate(class_id, name, round(score, 6)) for class_id, name, score in best)
        for best in watch.candidates(CANDIDATES)
    ]
    return tuple(
        SlotNow(
            shelf=slot.shelf,
            slot=slot.slot,
            corners=corners,
            state=slot.state,
            expected=slot.expected.name,
            product=slot.product.name if slot.product else None,
            score=_rounded(slot.score),
            guess=best[0] if best and slot.state is SlotState.UNKNOWN else None,
            contradicted=contradicted,
            since=settled.get((slot.shelf, slot.slot)),
            top3=best,
        )
        for slot, corners, best, contradicted in zip(
            reading.slots, watch.slot_map.outlines(), candidates, watch.contradicted(), strict=True
        )
    )


def _speed(summary: Summary, seconds: Mapping[int, _Second], now: int) -> Speed:
    """Leaves out the current second, which would look slow because it is incomplete."""
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
