"""How does the next frame become ready while the model is busy with the one before?

The model runs in a thread of its own. Meanwhile the newest frame of a live source is checked and prepared, as late as
earlier turns allow, so that it is not old by the time the model takes it; where the model needs longer than usual, a
newer frame replaces it. OpenCV and the runtimes let go of Python's lock, so that both really happen at once.
"""

from __future__ import annotations

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.classifier import Classifier, Prediction
from edgebcnn.loop.quality import Fault, FrameCheck
from edgebcnn.sources.frames import Done, Frame, Source

REMEMBERED = 16  # turns by which the next is judged: few, as a board that heats up becomes slower
SLACK = 2.0  # times as long as usual, a frame may take to be made ready, and the model does not wait for it
LOOKS = 4  # in the time of a turn, for a frame that is newer than the one that waits
SHORTEST_LOOK_S = 0.001


@dataclass(eq=False)
class PendingFrame:
    """A frame on its way through the model.

    Attributes:
        frame: The frame.
        fault: Why it is not classified; None where it is.
        prepare_s: How long it took to prepare it.
        answer: What the model will have said; None where there is a fault.
        begun_s: When the model began with it, by `time.monotonic()`.
        model_s: How long the model took.
    """

    frame: Frame
    fault: Fault | None
    prepare_s: float = 0.0
    answer: Future[Prediction] | None = None
    begun_s: float | None = None
    model_s: float = 0.0

    @property
    def latency_ms(self) -> float:
        """Preprocessing and inference, once there is an answer."""
        return 1000 * (self.prepare_s + self.model_s)


class Ahead:
    """A model with a thread of its own, and the frame that will be next.

    Attributes:
        superseded: Frames that were made ready and gave way to a newer one.
    """

    def __init__(self, source: Source, check: FrameCheck, classifier: Classifier) -> None:
        self.superseded = 0
        self._source, self._check, self._classifier = source, check, classifier
        self._thread = ThreadPoolExecutor(1, "model")
        self._model_s: deque[float] = deque(maxlen=REMEMBERED)
        self._ready_s: deque[float] = deque(maxlen=REMEMBERED)

    def begin(self, frame: Frame) -> PendingFrame:
        """Checks a frame and hands it to the model, which must have nothing else to do, unless it has a fault."""
        turn, pixels = self._prepared(frame)
        self._hand_over(turn, pixels)
        return turn

    def following(self, turn: PendingFrame, may_follow: Done) -> PendingFrame | None:
        """Returns once the model has answered; with the newest frame, if one came in time and was handed over.

        Args:
            turn: What the model is busy with.
            may_follow: Whether another frame is wanted, asked before each is taken.
        """
        following: PendingFrame | None = None
        look_s = self._first_look_s(turn)
        while turn.answer is not None and wait((turn.answer,), look_s).not_done and may_follow():
            look_s = max(SHORTEST_LOOK_S, min(self._model_s) / LOOKS)
            if frame := self._source.newest():
                following = self._replaced(following, *self._prepared(frame))
        if turn.answer is not None and turn.answer.exception() is None:  # waits for it
            self._model_s.append(turn.model_s)
        return following

    def close(self) -> None:
        """Lets the model finish what it has begun."""
        self._thread.shutdown(cancel_futures=True)

    def _prepared(self, frame: Frame) -> tuple[PendingFrame, NDArray[np.uint8] | None]:
        begun_s = time.monotonic()
        if fault := self._check.fault(frame, begun_s):
            return PendingFrame(frame, fault), None
        checked_s = time.monotonic()
        pixels = self._classifier.prepare(frame.image_bgr)
        ready_s = time.monotonic()
        self._ready_s.append(ready_s - begun_s)
        return PendingFrame(frame, None, prepare_s=ready_s - checked_s), pixels

    def _hand_over(self, turn: PendingFrame, pixels: NDArray[np.uint8] | None) -> None:
        if pixels is not None:
            turn.answer = self._thread.submit(self._predicted, turn, pixels)

    def _predicted(self, turn: PendingFrame, pixels: NDArray[np.uint8]) -> Prediction:
        turn.begun_s = begun_s = time.monotonic()
        try:
            return self._classifier.predict(pixels)
        finally:
            turn.model_s = time.monotonic() - begun_s

    def _replaced(
        self, older: PendingFrame | None, newer: PendingFrame, pixels: NDArray[np.uint8] | None
    ) -> PendingFrame:
        if older is not None:
            self.superseded += 1
            if older.answer is not None and not older.answer.cancel():  # the model has just begun with it
                return older
        self._hand_over(newer, pixels)
        return newer

    def _first_look_s(self, turn: PendingFrame) -> float | None:
        """Seconds until the next frame should be made ready; None before the model's speed is known."""
        if not self._model_s:
            return None
        now_s = time.monotonic()
        begun_s = turn.begun_s or now_s
        return max(0.0, begun_s + min(self._model_s) - SLACK * median(self._ready_s) - now_s)
