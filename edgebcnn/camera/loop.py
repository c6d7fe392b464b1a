"""What happens to each frame? Next frame, classify, reading, sinks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence

from edgebcnn.camera.pace import Pace
from edgebcnn.camera.reading import Reading, make_reading
from edgebcnn.camera.shelf import ShelfReader
from edgebcnn.camera.sinks import Sink
from edgebcnn.camera.source import Done, Frame, Source
from edgebcnn.camera.summary import Summary, Tally
from edgebcnn.device.classifier import Classifier


class CameraLoop:
    """A source, a classifier and the sinks between which readings flow.

    The summary can be asked for however the run ended: a camera that is unplugged after a day leaves the day's figures.

    Args:
        source: Where frames come from.
        classifier: What names their products.
        sinks: Where readings go.
        shelf: Reads each frame slot by slot, in place of whole; its events have sinks of their own.
        pace: How many frames a second are read; by default as many as can be.
    """

    def __init__(
        self,
        source: Source,
        classifier: Classifier,
        sinks: Sequence[Sink] = (),
        *,
        shelf: ShelfReader | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._source = source
        self._classifier = classifier
        self._sinks = sinks
        self._shelf = shelf
        self._pace = pace
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
            CameraError: a live source ended or stalled, or nothing could be read.
            StorageError: a sink cannot write.
        """
        started_s = time.monotonic()
        deadline_s = math.inf if duration_s is None else started_s + duration_s
        stop = stop or threading.Event()
        done = self._until(stop, math.inf if max_frames is None else max_frames, deadline_s)
        try:
            for frame in self._source.frames(done):
                begun_s = time.monotonic()
                if self._shelf is None:
                    reading = self._read(frame)
                    self._tally.add(reading)
                    for sink in self._sinks:
                        sink.write(reading)
                else:
                    self._shelf.read(frame)
                    self._tally.add_latency(1000 * (time.monotonic() - begun_s))
                if self._pace is not None and not done():
                    last_change_s = self._shelf.last_change_s if self._shelf else None
                    stop.wait(self._pace.pause_s(begun_s, time.monotonic(), last_change_s=last_change_s))
        finally:
            self._elapsed_s = time.monotonic() - started_s
            for sink in self._sinks:
                sink.close()
            if self._shelf is not None:
                self._shelf.close()

    def summary(self) -> Summary:
        """The figures so far."""
        return Summary(
            source=self._source.name,
            dropped=self._source.dropped,
            unreadable=self._source.unreadable,
            classified=self._tally.classified,
            elapsed_s=self._elapsed_s,
            latency_p50_ms=self._tally.latency.quantile(0.50),
            latency_p95_ms=self._tally.latency.quantile(0.95),
            receipt=self._classifier.receipt,
            accuracy=self._tally.accuracy,
        )

    def _until(self, stop: threading.Event, max_frames: float, deadline_s: float) -> Done:
        return lambda: stop.is_set() or self._tally.classified >= max_frames or time.monotonic() >= deadline_s

    def _read(self, frame: Frame) -> Reading:
        started_s = time.monotonic()
        prediction = self._classifier.classify(frame.image_bgr)
        ended_s = time.monotonic()
        return make_reading(
            frame,
            prediction,
            source=self._source.name,
            labels=self._classifier.labels,
            age_ms=1000 * (ended_s - frame.captured_monotonic_s),
            latency_ms=1000 * (ended_s - started_s),
        )
