"""Replays the golden photos during a run, and compares the outputs with those at export.

A delegate that was right at the start can go wrong later: heat, a driver, a weak power supply. So the golden photos are
replayed from time to time between two frames, one photo at a time, and only where the loop would have waited for its
next frame anyway. A loop that never waits spends `BUSY_SHARE` of its time on them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.classifier import Classifier
from edgebcnn.device.delegate import why_wrong
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.selftest import Difference, GoldenFile, difference
from edgebcnn.errors import BundleError, DeviceError
from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.loop.supervise import GOLDEN_STAGE, Watchdog
from edgebcnn.report.agreement import Proportion
from edgebcnn.sources.frames import Frame

BUSY_SHARE = 0.01
ROOM = 2.0  # times as long as a photo takes: waits vary, and a late frame is worse than a late photo


@dataclass(frozen=True)
class GoldenResult:
    """The result of one replay.

    Attributes:
        at_export: Difference between its outputs and those of the same file at export.
        accuracy: Share of the photos, without the hard ones, that are right.
        agreement: Share of the same photos on which it predicts the same product as the full model.
        took_s: From the first photo to the last.
        problem: Why the model should not run like this, as `edgebcnn check` reports it; None where there is no problem.
    """

    at_export: Difference
    accuracy: Proportion
    agreement: Proportion
    took_s: float
    problem: str | None

    def as_json(self) -> dict[str, Any]:
        """Every figure by name."""
        return {
            "at_export": self.at_export.as_json(),
            "accuracy": self.accuracy.as_json(),
            "agreement": self.agreement.as_json(),
            "took_s": round(self.took_s, 3),
            "problem": self.problem,
        }

    def __str__(self) -> str:
        """One line, for a terminal."""
        shares = f"accuracy {self.accuracy} · agreement {self.agreement} with the full model"
        return self.problem or f"matches the export: {self.at_export} · {shares}"


class GoldenListener(Protocol):
    """Receives the results of replays."""

    def golden(self, result: GoldenResult) -> None:
        """Takes the result of a finished replay."""
        ...

    def alarm(self, about: str, problem: str) -> None:
        """Takes an alarm: something fell below its threshold; `problem` is one sentence."""
        ...


class GoldenReplay:
    """A frame sink that replays golden photos between frames.

    Args:
        classifier: The classifier of the run.
        profile: The device profile of the run.
        golden: The photos; closed by this replay.
        every_s: From the start of one replay to the start of the next.
        listener: Receives results and alarms.
        watchdog: Informed that a photo begins.
        may_wait: Whether frames wait for the loop, as those of a file do: then there is always room.
        clock: Monotonic clock, in seconds.

    Attributes:
        newest: Result of the last finished replay; None before the first.
        replays: Number of finished replays.
        failed: Number of those that found a problem.
    """

    def __init__(
        self,
        classifier: Classifier,
        profile: DeviceProfile,
        golden: GoldenFile,
        *,
        every_s: float,
        listener: GoldenListener,
        watchdog: Watchdog | None = None,
        may_wait: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.newest: GoldenResult | None = None
        self.replays = self.failed = 0
        self._classifier, self._profile, self._golden = classifier, profile, golden
        self._every_s, self._listener, self._may_wait, self._clock = every_s, listener, may_wait, clock
        self._watchdog = watchdog or Watchdog(on_hang=lambda stage, took_s: None)
        self._waits = _Waits()
        self._due_s = clock()
        self._photo_s = 0.0
        self._photos: Iterator[NDArray[np.uint8]] | None = None

    def write(self, frame: Frame, reading: Reading) -> None:
        """Replays one photo if a replay is running or due, and there is time."""
        self._turn(reading.latency_ms or 0.0)

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Does the same for a frame whose slots were read."""
        self._turn(reading.latency_ms or 0.0)

    def close(self) -> None:
        """Closes the file."""
        self._golden.close()

    def as_json(self) -> dict[str, Any]:
        """Returns the counts, and the figures of the newest replay, null before the first."""
        return {"replays": self.replays, "failed": self.failed, "newest": self.newest and self.newest.as_json()}

    def __str__(self) -> str:
        """`matches the export: same product on 128 of 128 photos, … (replay 3)`."""
        return f"{self.newest} (replay {self.replays})" if self.newest else "not replayed yet"

    def _turn(self, latency_ms: float) -> None:
        now_s = self._clock()
        self._waits.frame_is_over(now_s, latency_ms / 1000)
        if self._photos is None and now_s >= self._due_s:
            self._begin(now_s)
        if self._photos is not None and self._has_room(now_s):
            self._watchdog.enter(GOLDEN_STAGE)
            self._replay_one(self._photos, now_s)
            self._waits.spent()

    def _begin(self, now_s: float) -> None:
        self._photos = self._golden.photos()
        self._outputs = np.full(self._golden.answers.edge.shape, np.nan, np.float32)
        self._done = 0
        self._spent_s = 0.0
        self._began_s = now_s
        self._due_s = now_s + self._every_s

    def _has_room(self, now_s: float) -> bool:
        is_idle = self._waits.last_s > ROOM * self._photo_s
        is_starved = self._spent_s + self._photo_s <= BUSY_SHARE * (now_s - self._began_s)
        return self._may_wait or is_idle or is_starved

    def _replay_one(self, photos: Iterator[NDArray[np.uint8]], begun_s: float) -> None:
        try:
            self._outputs[self._done] = self._output(next(photos))
        except BundleError as error:
            self._photos = None
            self._listener.alarm("golden", str(error))
            return
        self._photo_s = self._clock() - begun_s
        self._spent_s += self._photo_s
        self._done += 1
        if self._done == len(self._outputs):
            self._finish()

    def _output(self, photo: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            (probabilities,) = self._classifier.probabilities(photo[np.newaxis])
        except (DeviceError, RuntimeError):  # the loop notices whether it fails on frames too
            return np.full(len(self._classifier.labels), np.nan, np.float32)
        return np.asarray(probabilities)

    def _finish(self) -> None:
        golden, outputs = self._golden.answers, self._outputs
        problem = why_wrong(outputs, golden, receipt=self._classifier.receipt, profile=self._profile)
        was_right = self.newest is None or self.newest.problem is None
        self.newest = GoldenResult(
            at_export=difference(outputs, golden.edge),
            accuracy=golden.accuracy(outputs),
            agreement=golden.agreement(outputs),
            took_s=self._clock() - self._began_s,
            problem=problem,
        )
        self._photos = None
        self.replays += 1
        self.failed += problem is not None
        self._listener.golden(self.newest)
        if problem and was_right:
            self._listener.alarm("golden", problem)


class _Waits:
    """Measures how long the loop waits for its next frame; only waits in which nothing was done count.

    Attributes:
        last_s: The last wait; 0 where something was done in it, so that the next wait is measured first.
    """

    def __init__(self) -> None:
        self.last_s = 0.0
        self._since_s: float | None = None

    def frame_is_over(self, now_s: float, took_s: float) -> None:
        """Notes that a frame was read, and how long that took."""
        self.last_s = 0.0 if self._since_s is None else now_s - self._since_s - took_s
        self._since_s = now_s

    def spent(self) -> None:
        """Notes that the wait that begins is used for something."""
        self._since_s = None
