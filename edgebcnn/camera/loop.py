"""What happens to each frame? Next frame, check, classify, reading, sinks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Protocol

from edgebcnn.camera.quality import EVERY_FRAME, FrameCheck, Limits
from edgebcnn.camera.reading import Reading, make_reading, no_reading
from edgebcnn.camera.source import Done, Frame, Source
from edgebcnn.camera.summary import Summary, Tally
from edgebcnn.camera.watchdog import Watchdog
from edgebcnn.device.classifier import Classifier, Prediction
from edgebcnn.errors import DeviceError

MAX_FAILURES = 5  # of the model within `FAILURES_WITHIN_S`: a hiccup of a driver passes, a broken delegate does not
FAILURES_WITHIN_S = 60.0
RETRY_PAUSE_S = 0.2


class Sink(Protocol):
    """Takes each reading as it comes, without keeping the loop waiting."""

    def write(self, reading: Reading) -> None:
        """Takes one reading."""
        ...

    def close(self) -> None:
        """Finishes; the loop calls it once, however it ended."""
        ...


class FrameSink(Protocol):
    """Takes each frame with its reading, without keeping the loop waiting; it may keep the frame, not change it."""

    def write(self, frame: Frame, reading: Reading) -> None:
        """Takes one frame."""
        ...

    def close(self) -> None:
        """Finishes; the loop calls it once, however it ended."""
        ...


class CameraLoop:
    """A source, a classifier and the sinks between which readings flow.

    The summary can be asked for however the run ended: a camera that is unplugged after a day leaves the day's figures.

    Args:
        source: Where frames come from.
        classifier: What names their products.
        sinks: Where readings go.
        frame_sinks: Where frames go, with their readings.
        limits: What a frame must keep to be classified; by default nothing.
        watchdog: Told which stage begins.
    """

    def __init__(
        self,
        source: Source,
        classifier: Classifier,
        sinks: Sequence[Sink] = (),
        *,
        frame_sinks: Sequence[FrameSink] = (),
        limits: Limits = EVERY_FRAME,
        watchdog: Watchdog | None = None,
    ) -> None:
        self._source = source
        self._classifier = classifier
        self._sinks = sinks
        self._frame_sinks = frame_sinks
        self._check = FrameCheck(limits)
        self._watchdog = watchdog or Watchdog(on_hang=lambda stage, took_s: None)
        self._failures_s: list[float] = []
        self._tally = Tally()
        self._elapsed_s = 0.0

    def run(
        self, *, stop: threading.Event | None = None, max_frames: int | None = None, duration_s: float | None = None
    ) -> None:
        """Reads until the source ends, `stop` is set, or a limit is reached; a frame that was begun is finished.

        The sinks are closed at the end.

        Args:
            stop: Set from a signal handler or another thread.
            max_frames: Frames to classify.
            duration_s: Seconds to run.

        Raises:
            CameraError: a live source was lost for good, or nothing could be read.
            DeviceError: the model failed again and again.
            StorageError: a sink cannot write.
        """
        started_s = time.monotonic()
        deadline_s = math.inf if duration_s is None else started_s + duration_s
        stop = stop or threading.Event()
        done = self._until(stop, math.inf if max_frames is None else max_frames, deadline_s)
        try:
            for frame in self._source.frames(done):
                reading = self._read(frame, stop)
                self._tally.add(reading)
                self._watchdog.enter("write")
                for sink in self._sinks:
                    sink.write(reading)
                for frame_sink in self._frame_sinks:
                    frame_sink.write(frame, reading)
                self._watchdog.enter("wait for a frame")
        finally:
            self._elapsed_s = time.monotonic() - started_s
            self._watchdog.enter("close")
            with ExitStack() as closing:
                for frame_sink in reversed(self._frame_sinks):
                    closing.callback(frame_sink.close)
                for sink in reversed(self._sinks):
                    closing.callback(sink.close)

    def summary(self) -> Summary:
        """The figures so far."""
        return Summary(
            source=self._source.name,
            dropped=self._source.dropped,
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

    def _until(self, stop: threading.Event, max_frames: float, deadline_s: float) -> Done:
        def done() -> bool:
            # A source asks while it waits, so that a camera that is sought for an hour does not look like a hang.
            self._watchdog.enter("wait for a frame")
            return stop.is_set() or self._tally.classified >= max_frames or time.monotonic() >= deadline_s

        return done

    def _read(self, frame: Frame, stop: threading.Event) -> Reading:
        started_s = time.monotonic()
        self._watchdog.enter("check")
        fault = self._check.fault(frame, started_s)
        if fault is not None:
            return no_reading(frame, fault, source=self._source.name, age_ms=_age_ms(frame))
        self._watchdog.enter("classify")
        begun_s = time.monotonic()
        prediction = self._predicted(frame, stop)
        latency_ms = 1000 * (time.monotonic() - begun_s)
        age_ms = _age_ms(frame)
        if prediction is None:
            return no_reading(frame, "model failed", source=self._source.name, age_ms=age_ms)
        if self._check.is_stale(frame, time.monotonic()):
            return no_reading(frame, "stale", source=self._source.name, age_ms=age_ms, latency_ms=latency_ms)
        labels = self._classifier.labels
        name = self._source.name
        return make_reading(frame, prediction, source=name, labels=labels, age_ms=age_ms, latency_ms=latency_ms)

    def _predicted(self, frame: Frame, stop: threading.Event) -> Prediction | None:
        """What the model says, or None where it failed and may try the next frame."""
        try:
            return self._classifier.classify(frame.image_bgr)
        except (DeviceError, RuntimeError) as error:  # runtimes raise RuntimeError where a delegate fails
            now_s = time.monotonic()
            self._failures_s = [*_since(now_s - FAILURES_WITHIN_S, self._failures_s), now_s]
            if len(self._failures_s) >= MAX_FAILURES:
                reason = str(error).strip().partition("\n")[0]
                raise DeviceError(
                    f"the model failed on {MAX_FAILURES} frames within {FAILURES_WITHIN_S:g} s ({reason}): check the "
                    f"delegate ({self._classifier.receipt}), or run without it"
                ) from error
            stop.wait(RETRY_PAUSE_S)
            return None


def _age_ms(frame: Frame) -> float:
    return 1000 * (time.monotonic() - frame.captured_monotonic_s)


def _since(start_s: float, times_s: Iterable[float]) -> list[float]:
    return [time_s for time_s in times_s if time_s >= start_s]
