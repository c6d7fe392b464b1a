"""Prepares the next frame while the model still runs inference on the one before.

Inference has its own thread. Meanwhile the newest frame of a live source is checked and preprocessed, as late as the
timing of earlier frames allows, so that it is fresh when its inference begins; a newer frame replaces it where
inference takes longer than usual. OpenCV and the runtimes release Python's lock, so that both really run in parallel.
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

REMEMBERED = 16  # inferences whose time predicts the next: few, because a board that heats up slows down
SLACK = 2.0  # preparing a frame may take this many times as long as usual before inference waits for it
CHECKS = 4  # per inference, for a frame that is newer than the prepared one
SHORTEST_WAIT_S = 0.001


@dataclass(eq=False)
class PendingFrame:
    """A frame on its way through the model.

    Attributes:
        frame: The frame.
        fault: Why it is skipped; None where it is classified.
        prepare_s: Time of its preprocessing.
        prediction: The model's prediction, once it is there; None where there is a fault.
        begun_s: Start of its inference, by `time.monotonic()`.
        model_s: Time of its inference.
    """

    frame: Frame
    fault: Fault | None
    prepare_s: float = 0.0
    prediction: Future[Prediction] | None = None
    begun_s: float | None = None
    model_s: float = 0.0

    @property
    def latency_ms(self) -> float:
        """Time of preprocessing and inference, once there is a prediction."""
        return 1000 * (self.prepare_s + self.model_s)


class InferencePipeline:
    """A model with its own thread, and the frame that is prepared next.

    Attributes:
        superseded: Frames that were prepared and then replaced by a newer one.
    """

    def __init__(self, source: Source, check: FrameCheck, classifier: Classifier) -> None:
        self.superseded = 0
        self._source, self._check, self._classifier = source, check, classifier
        self._thread = ThreadPoolExecutor(1, "model")
        self._model_s: deque[float] = deque(maxlen=REMEMBERED)
        self._ready_s: deque[float] = deque(maxlen=REMEMBERED)

    def begin(self, frame: Frame) -> PendingFrame:
        """Checks a frame and starts its inference, unless it has a fault; no other inference may be running."""
        turn, pixels = self._prepared(frame)
        self._hand_over(turn, pixels)
        return turn

    def following(self, turn: PendingFrame, may_follow: Done) -> PendingFrame | None:
        """Waits for the prediction of one frame; returns the next frame, if a newer one came and was prepared.

        Args:
            turn: The frame whose inference runs.
            may_follow: Whether another frame is wanted; called before each is taken.
        """
        following: PendingFrame | None = None
        wait_s = self._first_wait_s(turn)
        while turn.prediction is not None and wait((turn.prediction,), wait_s).not_done and may_follow():
            wait_s = max(SHORTEST_WAIT_S, min(self._model_s) / CHECKS)
            if frame := self._source.newest():
                following = self._replaced(following, *self._prepared(frame))
        if turn.prediction is not None and turn.prediction.exception() is None:  # waits for it
            self._model_s.append(turn.model_s)
        return following

    def close(self) -> None:
        """Waits for the inference that runs."""
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
            turn.prediction = self._thread.submit(self._predicted, turn, pixels)

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
            if older.prediction is not None and not older.prediction.cancel():  # its inference has just begun
                return older
        self._hand_over(newer, pixels)
        return newer

    def _first_wait_s(self, turn: PendingFrame) -> float | None:
        """Seconds until the next frame should be prepared; None before the time of an inference is known."""
        if not self._model_s:
            return None
        now_s = time.monotonic()
        begun_s = turn.begun_s or now_s
        return max(0.0, begun_s + min(self._model_s) - SLACK * median(self._ready_s) - now_s)
