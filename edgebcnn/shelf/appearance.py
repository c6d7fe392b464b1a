"""Detects whether a part of the image still looks the same, apart from light and camera noise.

A part is averaged to a coarse grid, which takes the noise away, and compared cell by cell after the light was made
equal. What counts is the share of cells that differ: a swapped pack changes many, noise and drift change none.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.shelf.regions import Region

MAX_CELLS = 24  # a side; the smallest print that tells packs apart still covers several cells
MIN_CELL_PX = 4.0  # the mean of 16 pixels has a quarter of their noise
CELL_TOLERANCE = 14.0  # grey levels of 255 by which a cell may differ, where the camera is not noisier than that
MAX_CELL_TOLERANCE = 40.0  # with a camera so noisy that more would be needed, slots are drawn too small
_NOISE_DEVIATIONS = 3.5  # of 576 cells in three colours, noise moves less than one by more than that
_NORMAL_MAD = 1.4826  # standard deviation of normal noise over the median of its absolute values
LIGHT_GAIN = 1.25  # light that drifts changes by less between two looks; a lamp that is switched is worth a second look
ANY_LIGHT_GAIN = 2.5  # between pictures of different days
_MAX_CAST = 1.1  # how much more one colour of the light may change than another; more is another thing
_BRIGHT = 225.0  # some pixels of a cell as bright as this are cut off at 255
_DARK = 8.0  # grey levels, so that a ratio of two dark cells means little


@dataclass(frozen=True)
class Look:
    """A part of a picture on a coarse grid: `(cells, 3)` float32, grey levels of the cells inside of a region."""

    cells: NDArray[np.float32]


class Grid:
    """A region's coarse grid: made once, used for every frame."""

    def __init__(self, region: Region) -> None:
        height, width = region.mask.shape
        self._region = region
        self._size = tuple(int(np.clip(side / MIN_CELL_PX, 1, MAX_CELLS)) for side in (width, height))
        cover = cv2.resize(region.mask, self._size, interpolation=cv2.INTER_AREA)
        self._inside = cover > 127

    def look(self, frame_bgr: NDArray[np.uint8]) -> Look:
        """The region in a frame, `(h, w, 3)` uint8 BGR of the size that the region was made for."""
        cells = cv2.resize(self._region.of(frame_bgr), self._size, interpolation=cv2.INTER_AREA)
        return Look(np.asarray(cells[self._inside], np.float32))


def noise_tolerance(before: Look, after: Look) -> float:
    """By how many grey levels a cell may differ, judged by two looks at the same thing: 3.5 deviations of the noise.

    The noise is that of the quieter half of the cells, so that the other half may have changed.
    """
    if not len(before.cells):
        return CELL_TOLERANCE
    deviation = _NORMAL_MAD * float(np.median(np.abs(after.cells - before.cells)))
    return float(np.clip(_NOISE_DEVIATIONS * deviation, CELL_TOLERANCE, MAX_CELL_TOLERANCE))


def changed_share(
    before: Look, after: Look, *, tolerance: float = CELL_TOLERANCE, max_gain: float = LIGHT_GAIN
) -> float:
    """Share of cells, 0-1, that differ by more than light and noise explain; 0 where there is no cell.

    The light is a gain per channel, the median over the cells of (after + d) / (before + d): as long as less than half
    of the cells changed, the others say how the light did. It is limited, or a plain coat in front of a plain wall
    would pass for another light.
    """
    if not len(before.cells):
        return 0.0
    ratio = np.median((after.cells + _DARK) / (before.cells + _DARK), axis=0)
    light = np.clip(np.median(ratio), 1 / max_gain, max_gain)
    gain = np.clip(ratio, light / _MAX_CAST, light * _MAX_CAST)
    expected = np.minimum((before.cells + _DARK) * gain - _DARK, 255.0)
    # The brighter of two pictures shows the same difference with more grey levels.
    allowed = tolerance * np.maximum(gain, 1.0)
    difference = after.cells - expected
    # Of an overexposed cell it is not known how bright it was, only that it was at least so bright.
    too_bright = (difference > allowed) & (before.cells < _BRIGHT)
    return float(((difference < -allowed) | too_bright).any(axis=1).mean())
