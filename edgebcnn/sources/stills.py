"""Takes single images from a source whenever a person asks for one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from threading import Event

import numpy as np
from numpy.typing import NDArray

from edgebcnn.errors import CameraError, Interrupted
from edgebcnn.sources.frames import Frame, Source

WAIT_S = 10.0  # some cameras give a frame every few seconds


class Stills:
    """Takes a picture from a source whenever it is asked to.

    Args:
        source: Where from; of a live one the next frame is taken, of a video one a second later, of photos the next.
        stop: Ends a wait.
    """

    def __init__(self, source: Source, stop: Event) -> None:
        self._source, self._stop = source, stop
        self._frames: Iterator[Frame] | None = None

    def take(self) -> NDArray[np.uint8]:
        """The next picture, `(h, w, 3)` uint8 BGR.

        Raises:
            CameraError: there is none.
            Interrupted: `stop` was set meanwhile.
        """
        frame = self._next_live() if self._source.is_live else self._next_filed()
        if self._stop.is_set():
            raise Interrupted("stopped before there was a picture")
        if frame is None:
            why = f"gave no picture for {WAIT_S:g} s: {self._source.status()}"
            raise CameraError(f"{self._source.name} {why if self._source.is_live else 'has no further picture'}")
        return frame.image_bgr

    def _next_live(self) -> Frame | None:
        self._source.newest()  # was taken before anybody asked
        give_up_s = time.monotonic() + WAIT_S
        return next(self._source.frames(lambda: self._stop.is_set() or time.monotonic() > give_up_s), None)

    def _next_filed(self) -> Frame | None:
        if self._frames is None:
            self._frames = self._source.frames(self._stop.is_set)
            return next(self._frames, None)
        return next(islice(self._frames, max(0, round(self._source.fps or 1) - 1), None), None)
