"""Checks whether a frame is fit to be classified: neither stale, frozen, black, overexposed nor blurred.

The check uses the gray levels of the frame, shrunk until its shorter side has about `SIDE_PX`: what is invisible there
is invisible to the model too. The limits were chosen on shop photos that were darkened, overexposed, defocused and
shaken (`benchmarks/frame_quality.py`): no unchanged photo is skipped; of the photos that the model no longer classifies
correctly, all dark and defocused ones are skipped, most shaken ones, and half of the overexposed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.sources.frames import Frame

Fault = Literal["stale", "frozen", "black", "overexposed", "blurred"]

SIDE_PX = 256
BLACK_LEVEL = 32  # the brightest percent of a black frame is darker
WHITE_LEVEL = 250
OVEREXPOSED_SHARE = 0.5  # of the frame is white; packs on a white background still cover more than the rest
SHARPNESS_BOX_PX = 9
MIN_SHARPNESS = 0.2
NOISE_LEVELS = 2  # by which neighbors differ through rounding and compression alone
FROZEN_AFTER_S = 10.0  # a still scene that a camera compresses can repeat to the bit, until its next key frame

_BRIGHTEST_SHARE = 0.01


@dataclass(frozen=True)
class FrameLimits:
    """Quality that a frame needs to be classified.

    Attributes:
        max_age_s: Longest delay from a frame's capture to its result.
        frozen_after_s: Longest time for which the image may stay identical; infinity for no limit.
        min_sharpness: Lowest `sharpness`; 0 for no limit.
        exposed: Whether black and overexposed frames are skipped.
    """

    max_age_s: float = math.inf
    frozen_after_s: float = FROZEN_AFTER_S
    min_sharpness: float = MIN_SHARPNESS
    exposed: bool = True


EVERY_FRAME = FrameLimits(frozen_after_s=math.inf, min_sharpness=0, exposed=False)


class FrameCheck:
    """Checks the frames of one source, in their order."""

    def __init__(self, limits: FrameLimits) -> None:
        self._limits = limits
        self._small = np.empty((0, 0), np.uint8)
        self._changed_s = -math.inf

    def fault(self, frame: Frame, now_s: float) -> Fault | None:
        """Returns why the frame is skipped; None where it is classified, as every photo file is.

        Args:
            frame: The frame.
            now_s: `time.monotonic()`.
        """
        if frame.photo is not None:
            return None
        if self.is_stale(frame, now_s):
            return "stale"
        grey = small_grey(frame.image_bgr)
        if self._is_frozen(grey, frame.captured_monotonic_s):
            return "frozen"
        if self._limits.exposed and (fault := badly_exposed(grey)):
            return fault
        return "blurred" if self._limits.min_sharpness and sharpness(grey) < self._limits.min_sharpness else None

    def is_stale(self, frame: Frame, now_s: float) -> bool:
        """Returns whether the frame is older than allowed."""
        return now_s - frame.captured_monotonic_s > self._limits.max_age_s

    def _is_frozen(self, grey: NDArray[np.uint8], captured_s: float) -> bool:
        if not np.array_equal(grey, self._small):
            self._small, self._changed_s = grey, captured_s
        return captured_s - self._changed_s > self._limits.frozen_after_s


def small_grey(image_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the gray levels of a frame, shrunk until its shorter side has `SIDE_PX`; smaller frames keep their size.

    Halving first costs a tenth of an exact average, and aliases less than interpolation alone.
    """
    grey = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2GRAY)
    while min(grey.shape) >= 2 * SIDE_PX:
        grey = cv2.resize(grey, (grey.shape[1] // 2, grey.shape[0] // 2), interpolation=cv2.INTER_AREA)
    shrink = SIDE_PX / min(grey.shape)
    if shrink < 1:
        grey = cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_LINEAR)
    return np.asarray(grey, np.uint8)


def badly_exposed(grey: NDArray[np.uint8]) -> Fault | None:
    """Returns `black`, `overexposed` or None for `(h, w)` uint8 gray levels."""
    counts = cv2.calcHist([grey], [0], None, [256], [0, 256])
    if counts[BLACK_LEVEL:].sum() < _BRIGHTEST_SHARE * grey.size:
        return "black"
    return "overexposed" if counts[WHITE_LEVEL:].sum() > OVEREXPOSED_SHARE * grey.size else None


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Returns the share of the differences between neighbors that a further blur removes, 0 (blurred) to 1 (sharp).

    The smaller of both directions counts, because a shake blurs in one direction only. Blurring a blurred image changes
    little, whatever it shows: unlike the variance of the Laplacian, this distinguishes a plain shelf from a blurred one
    (Crété et al., "The blur effect", SPIE 6492, 2007). A uniform surface has 0.

    Args:
        grey: `(h, w)` uint8.
    """
    blurred = cv2.blur(grey, (SHARPNESS_BOX_PX, SHARPNESS_BOX_PX))
    down = _taken_share(*(cv2.absdiff(levels[1:], levels[:-1]) for levels in (grey, blurred)))
    across = _taken_share(*(cv2.absdiff(levels[:, 1:], levels[:, :-1]) for levels in (grey, blurred)))
    return min(down, across)


def _taken_share(before: cv2.typing.MatLike, after: cv2.typing.MatLike) -> float:
    before = cv2.subtract(before, NOISE_LEVELS)  # type: ignore[call-overload]  # a number is allowed
    differences = cv2.sumElems(before)[0]
    return cv2.sumElems(cv2.subtract(before, after))[0] / differences if differences else 0.0
