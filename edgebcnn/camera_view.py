"""Describes the resolution, frame rate and rotation that a source is asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Rotation = Literal[0, 90, 180, 270]

_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}


@dataclass(frozen=True)
class View:
    """What is asked of a source.

    Attributes:
        size_px: Width and height that a camera shall film in; None leaves it as it is.
        rate_fps: Frames a second that a camera shall give; None leaves it as it is.
        rotate: Degrees clockwise that every frame is turned, so that the shelf stands upright; None for 0 where
            nobody else says more.
    """

    size_px: tuple[int, int] | None = None
    rate_fps: float | None = None
    rotate: Rotation | None = None

    @property
    def asks_the_camera(self) -> bool:
        """Whether anything is asked that only a camera can do."""
        return self.size_px is not None or self.rate_fps is not None

    def over(self, usual: View) -> View:
        """This view, with what `usual` asks where this one asks nothing."""
        return View(
            self.size_px or usual.size_px,
            self.rate_fps or usual.rate_fps,
            usual.rotate if self.rotate is None else self.rotate,
        )

    def upright(self, image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame, turned; `(h, w, 3)` or `(w, h, 3)` uint8."""
        return np.asarray(cv2.rotate(image_bgr, _TURNS[self.rotate]), np.uint8) if self.rotate else image_bgr


AS_IT_IS = View()


def size_from(text: str) -> tuple[int, int]:
    """Width and height that `1280x720` names.

    Raises:
        ValueError: it names none.
    """
    if not re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", text):
        raise ValueError(f"{text!r} is not WIDTHxHEIGHT in pixels, such as 1280x720")
    width_px, _, height_px = text.partition("x")
    return int(width_px), int(height_px)
