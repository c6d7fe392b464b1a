"""The camera loop: takes the next frame, checks it, runs inference, and passes the reading to the sinks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol, TypeVar

from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import DeviceError, first_line
from edgebcnn.loop.frame_rate import FrameRateLimit
from edgebcnn.loop.pipeline import InferencePipeline, PendingFrame
from edgebcnn.loop.quality import EVERY_FRAME, Fault, FrameCheck, FrameLimits
from edgebcnn.loop.reading import Reading, make_reading, skipped_reading
from edgebcnn.loop.shelf_reading import ShelfReader, ShelfReading
from edgebcnn.loop.summary import Summary, Tally
from edgebcnn.loop.supervise import Watchdog
from edgebcnn.sources.open import Done, Frame, Source

MAX_FAILURES = 5  # of the model within `FAILURES_WITHIN_S`: a hiccup of a driver passes, a broken delegate does not
FAILURES_WITHIN_S = 60.0
RETRY_PAUSE_S = 0.2
POLL_S = 0.25  # how soon a resting loop notices that it should end

_UNLIMITED = FrameRateLimit()
Result = TypeVar("Result")


class _Closing(Protocol):
    def close(self) -> None:
        """Finishes; called once, however the loop ended."""
        ...


class ReadingSink(_Closing, Protocol):
    """Takes each reading, without delaying the loop."""

    def write(self, reading: Reading) -> None:
        """Takes one reading."""
        ...


class FrameSink(_Closing, Protocol):
    """Takes each frame with its reading, without delaying the loop; it may keep the frame but not change it."""

    def write(self, frame: Frame, reading: Reading) -> None:
        """Takes one frame."""
        ...


class ShelfSink(_Closing, Protocol):
    """Takes each frame with the states of its slots, without delaying the loop; it may keep both, not change them."""

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Takes one frame."""
        ...


class CameraLoop:
    """Reads frames from a source, classifies them, and passes the readings to sinks.

    The summary is available however the run ended: a camera that is unplugged after a day leaves the day's figures.

    Args:
        source: Where frames come from.
        classifier: Classifies the frames.
        sinks: Where readings go.
        frame_sinks: Where frames go, with their readings.
        shelf: Reads each frame slot by slot instead of as a whole.
        shelf_sinks: Where frames go that were read slot by slot; the other sinks get nothing then.
        frame_rate: Limit of frames per second; by default none.
        limits: Quality that a frame needs to be classified; by default none.
        watchdog: Informed of each stage that begins.
    """

    def __init__(
        self,
        source: Source,
        classifier: Classifier,
        sinks: Sequence[ReadingSink] = (),
        *,
        frame_sinks: Sequence[FrameSink] = (),
        shelf: ShelfReader | None = None,
        shelf_sinks: Sequence[ShelfSink] = (),
        frame_rate: FrameRateLimit = _UNLIMITED,
        limits: FrameLimits = EVERY_FRAME,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._source = source
        self._classifier = classifier
        self._sinks = sinks
        self._frame_sinks = frame_sinks
        self._shelf = shelf
        self._shelf_sinks = shelf_sinks
        self._frame_rate = frame_rate
        self._check = FrameCheck(limits)
        self._pipeline = InferencePipeline(source, self._check, classifier)
        self._watchdog = watchdog or Watchdog(on_hang=lambda stage, took_s: None)
        self._failures_s: list[float] = []
        self._tally = Tally()
        self._elapsed_s = 0.0

    def run(
        self, *, stop: threading.Event | None = None, max_frames: int | None = None, duration_s: float | None = None
    ) -> None:
        """Takes every reading of `readings`, whose arguments and errors it has."""
        for _ in self.readings(stop=stop, max_frames=max_frames, duration_s=duration_s):
            pass

    def readings(
        self, *, stop: threading.Event | None = None, max_frames: int | None = None, duration_s: float | None = None
    ) -> Generator[Reading | ShelfReading]:
        """Reads until the source ends, `stop` is set, or a limit is reached; the current frame is finished.

        Each reading is yielded once all sinks have it. The sinks are closed at the end, also where nobody takes the
        remaining readings.

        Args:
            stop: Set from a signal handler or another thread.
            max_frames: Frames to classify.
            duration_s: Seconds to run.

        Raises:
            CameraError: a live source was lost for good, or nothing could be read.
            DeviceError: inference failed repeatedly.
            StorageError: a sink cannot write.
        """
        started_s = time.monotonic()
        deadline_s = math.inf if duration_s is None else started_s + duration_s
        stop = stop or threading.Event()
        end = _End(stop, math.inf if max_frames is None else max_frames, deadline_s)
        done = self._until(end)
        try:
            for frame in self._source.frames(done):
                begun_s = time.monotonic()
                yield from self._take(frame, end)
                self._watchdog.enter("wait for a frame")
                self._rest(begun_s, stop, done)
        finally:
            self._elapsed_s = time.monotonic() - started_s
            self._watchdog.enter("close")
            with ExitStack() as closing:
                closing.callback(self._pipeline.close)
                sinks: list[_Closing] = [*self._sinks, *self._frame_sinks, *self._shelf_sinks]
                for sink in reversed(sinks):
                    closing.callback(sink.close)

    def summary(self) -> Summary:
        """The figures so far."""
        return Summary(
            source=self._source.name,
            dropped=self._source.dropped + self._pipeline.superseded,
            unreadable=self._source.unreadable,
            classified=self._tally.classified,
            refused=dict(self._tally.refused),
            restarts=self._source.restarts,
            outage_s=self._source.outage_s,
            elapsed_s=self._elapsed_s,
            latency_p50_ms=self._tally.latency.quantile(0.50),
            latency_p95_ms=self._tally.latency.quantile(0.95),
            age_p50_ms=self._tally.age.quantile(0.50),
            age_p95_ms=self._tally.age.quantile(0.95),
            receipt=self._classifier.receipt,
            accuracy=self._tally.accuracy,
        )

    def _until(self, end: _End) -> Done:
        def done() -> bool:
            # A source calls this while it waits, so that an hour of reconnecting to a camera does not look like a hang.
            self._watchdog.enter("wait for a frame")
            return end.has_come(self._tally.classified)

        return done

    def _rest(self, begun_s: float, stop: threading.Event, done: Done) -> None:
        last_change_s = self._shelf.last_change_s if self._shelf else None
        until_s = time.monotonic() + self._frame_rate.pause_s(begun_s, time.monotonic(), last_change_s=last_change_s)
        while (left_s := until_s - time.monotonic()) > 0 and not done():
            stop.wait(min(left_s, POLL_S))

    def _take(self, frame: Frame, end: _End) -> Iterator[Reading | ShelfReading]:
        self._watchdog.enter("check")
        if self._shelf is None:
            yield from self._take_whole(frame, end)
            return
        fault = self._check.fault(frame, time.monotonic())
        self._watchdog.enter("classify")
        yield self._pass_on_slots(frame, self._read_slots(self._shelf, frame, fault, end.stop))

    def _take_whole(self, frame: Frame, end: _End) -> Iterator[Reading]:
        """Reads a frame, and then those that were prepared while inference ran."""

        def may_follow() -> bool:
            return self._frame_rate.fps is None and not end.has_come(self._tally.classified + 1)

        turn: PendingFrame | None = self._pipeline.begin(frame)
        while turn is not None:
            self._watchdog.enter("classify")  # until there is a prediction, whatever else is done meanwhile
            following = self._pipeline.following(turn, may_follow)
            yield self._pass_on(turn.frame, self._read(turn, end.stop))
            turn = following

    def _pass_on(self, frame: Frame, reading: Reading) -> Reading:
        self._tally.add(reading)
        self._watchdog.enter("write")
        for sink in self._sinks:
            sink.write(reading)
        for frame_sink in self._frame_sinks:
            frame_sink.write(frame, reading)
        return reading

    def _pass_on_slots(self, frame: Frame, reading: ShelfReading) -> ShelfReading:
        self._tally.add(reading)
        self._watchdog.enter("write")
        for sink in self._shelf_sinks:
            sink.write_shelf(frame, reading)
        return reading

    def _read_slots(self, shelf: ShelfReader, frame: Frame, fault: Fault | None, stop: threading.Event) -> ShelfReading:
        if fault is not None:
            return shelf.skip(frame, fault)
        # A state that settles rests on a second of frames: it is reported, however old the last of them has become.
        return self._inferred(lambda: shelf.read(frame), stop) or shelf.skip(frame, "model failed")

    def _read(self, turn: PendingFrame, stop: threading.Event) -> Reading:
        frame, name = turn.frame, self._source.name
        age_ms, latency_ms = _age_ms(frame), turn.latency_ms
        if turn.prediction is None:
            assert turn.fault is not None
            return skipped_reading(frame, turn.fault, source=name, age_ms=age_ms)
        prediction = self._inferred(turn.prediction.result, stop)
        if prediction is None:
            return skipped_reading(frame, "model failed", source=name, age_ms=age_ms)
        if self._check.is_stale(frame, time.monotonic()):
            return skipped_reading(frame, "stale", source=name, age_ms=age_ms, latency_ms=latency_ms)
        return make_reading(frame, prediction, source=name, age_ms=age_ms, latency_ms=latency_ms)

    def _inferred(self, infer: Callable[[], Result], stop: threading.Event) -> Result | None:
        """The result of an inference; None where it failed and the next frame may be tried."""
        try:
            return infer()
        except (DeviceError, RuntimeError) as error:  # runtimes raise RuntimeError when a delegate fails
            now_s = time.monotonic()
            self._failures_s = [*_since(now_s - FAILURES_WITHIN_S, self._failures_s), now_s]
            if len(self._failures_s) >= MAX_FAILURES:
                raise DeviceError(
                    f"inference failed on {MAX_FAILURES} frames within {FAILURES_WITHIN_S:g} s ({first_line(error)}): "
                    f"check the delegate ({self._classifier.receipt}), or run without it"
                ) from error
            stop.wait(RETRY_PAUSE_S)
            return None


@dataclass(frozen=True)
class _End:
    stop: threading.Event
    max_frames: float
    deadline_s: float

    def has_come(self, classified: int) -> bool:
        return self.stop.is_set() or classified >= self.max_frames or time.monotonic() >= self.deadline_s


def _age_ms(frame: Frame) -> float:
    return 1000 * (time.monotonic() - frame.captured_monotonic_s)


def _since(start_s: float, times_s: Iterable[float]) -> list[float]:
    return [time_s for time_s in times_s if time_s >= start_s]
