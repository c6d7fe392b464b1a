"""Defines a frame, and what every source of frames has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgebcnn.camera_view import AS_IT_IS, View
from edgebcnn.progress import Reporter

Done = Callable[[], bool]


@dataclass(frozen=True)
class Frame:
    """One picture from a source.

    Attributes:
        index: Its number in the source, from 0; dropped and unreadable frames have numbers too.
        image_bgr: `(h, w, 3)` uint8 BGR.
        captured_monotonic_s: `time.monotonic()` when it was taken, where the driver tells; else at its arrival here.
        photo: Path within the folder, for photos.
        truth: Product that it really shows, where the source knows.
        shelf: Shelf of the slot that it is cut out of, for what the model saw of a slot; a whole frame has none.
        slot: Name of that slot.
    """

    index: int
    image_bgr: NDArray[np.uint8]
    captured_monotonic_s: float
    photo: str | None = None
    truth: str | None = None
    shelf: str | None = None
    slot: str | None = None


class Source(ABC):
    """Something that gives frames; `close`, or the end of a `with` block, lets go of the camera or file.

    Attributes:
        name: What was asked for, without user, password and query.
        total: Number of frames, where it is known beforehand.
        dropped: Frames that a newer one replaced before anyone took them.
        unreadable: Frames or photos that are there but broken; the reporter was told of those in files and folders.
        fps: Frames a second at which a video was taken; None where frames come when they are taken, or from photos.
        is_live: Whether frames come when they are taken, and newer ones replace those that nobody takes in time.
        restarts: How often a live source was lost and gave frames again.
        outage_s: For how long a live source gave no frames that it should have given.
    """

    is_live = False

    def __init__(self, name: str, reporter: Reporter, *, total: int | None = None, view: View = AS_IT_IS) -> None:
        self.name = name
        self._reporter = reporter
        self._view = view
        self.total = total
        self.fps: float | None = None
        self.dropped = 0
        self.unreadable = 0
        self.restarts = 0
        self.outage_s = 0.0

    def size_px(self) -> tuple[int, int] | None:
        """Width and height of its frames, turned as they are given; None where only they can tell."""
        return None

    @abstractmethod
    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields frames until the source ends or `done()`, which is asked before each frame and while waiting for one.

        Raises:
            CameraError: a live source is lost for good, or nothing in a file or folder could be read.
        """

    def newest(self) -> Frame | None:
        """The newest frame of a live source, if one is there that nobody took; other sources give theirs in order."""
        return None

    def status(self) -> str:
        """What it does now, for a person."""
        return f"{self.name} gives frames"

    def __enter__(self) -> Source:
        """The source, which the end of the `with` block closes."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes it."""
        self.close()

    def lost_s(self) -> float | None:
        """For how long it has been lost; None while it gives frames."""
        return None

    def close(self) -> None:  # noqa: B027 - photos hold nothing open
        """Lets go of the camera or file."""
