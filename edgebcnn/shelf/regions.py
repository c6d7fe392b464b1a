"""Computes which pixels of a frame belong to a slot, and what the model sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SURROUNDINGS = 0.25  # how far around a slot one looks for what stands in its way, as a share of its larger side
CLOSER = 0.86  # of a slot's sides: a second view, as packs that do not fill their slot look to the model
GUARD = 0.06  # how far packs may stick out of their slots, as a share of the same


@dataclass(frozen=True)
class Region:
    """A slot in a frame of a certain size.

    Attributes:
        left: First column.
        top: First row.
        mask: `(h, w)` uint8, 255 inside the slot and 0 outside; its bounding box begins at (left, top).
        is_box: Whether the mask is 255 everywhere.
    """

    left: int
    top: int
    mask: NDArray[np.uint8]
    is_box: bool

    def of(self, frame_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frame's part in the bounding box, `(h, w, 3)`; not a copy."""
        height, width = self.mask.shape
        return frame_bgr[self.top : self.top + height, self.left : self.left + width]


def polygon_region(points_px: Sequence[tuple[float, float]], *, width_px: int, height_px: int) -> Region:
    """A polygon as pixels of a frame; what lies outside of the frame is cut off.

    Args:
        points_px: Corners (x, y); the middle of the first pixel is at (0.5, 0.5).
        width_px: Width of the frame.
        height_px: Height of the frame.
    """
    whole = np.zeros((height_px, width_px), np.uint8)
    corners = np.asarray(points_px, np.float64)
    # OpenCV has pixel centres at whole numbers, and fills up to and including the edges.
    low, high = corners.min(axis=0), corners.max(axis=0)
    cv2.fillPoly(whole, [np.round(corners - 0.5 - 0.5 * (corners > (low + high) / 2)).astype(np.int32)], 255)
    left, top, width, height = cv2.boundingRect(whole)
    mask = np.ascontiguousarray(whole[top : top + height, left : left + width])
    return Region(left, top, mask, bool(mask.all()))


def closer(region: Region) -> Region:
    """The middle of a region, `CLOSER` of its bounding box."""
    rows, columns = (round((1 - CLOSER) / 2 * side) for side in region.mask.shape)
    height, width = region.mask.shape
    mask = np.ascontiguousarray(region.mask[rows : height - rows, columns : width - columns])
    return Region(region.left + columns, region.top + rows, mask, bool(mask.all()))


def surroundings(region: Region, regions: Sequence[Region], *, width_px: int, height_px: int) -> Region:
    """What is near a slot and not close to any: shelf, rail, gaps. Its mask is empty where slots fill everything."""
    height, width = region.mask.shape
    margin, guard = (round(share * max(height, width)) for share in (SURROUNDINGS, GUARD))
    left, top = max(0, region.left - margin), max(0, region.top - margin)
    right, bottom = min(width_px, region.left + width + margin), min(height_px, region.top + height + margin)
    free = np.full((height_px, width_px), 255, np.uint8)
    for other in regions:
        rows, columns = other.mask.shape
        free[other.top : other.top + rows, other.left : other.left + columns] &= ~other.mask
    free = np.asarray(cv2.erode(free, np.ones((2 * guard + 1, 2 * guard + 1), np.uint8)), np.uint8)
    return Region(left, top, np.ascontiguousarray(free[top:bottom, left:right]), is_box=False)


def crop(frame_bgr: NDArray[np.uint8], region: Region, *, width_over_height: float) -> NDArray[np.uint8]:
    """What the model sees of a slot: the region whole, and its own mean colour around it up to the model's aspect.

    Cutting a tall slot down to a square would lose what tells products apart, and filling the square up with what
    stands beside the slot would let neighbours in. `docs/slots.md` has the measurement.

    Returns:
        `(h, w, 3)` uint8 BGR with w / h as asked for, to a pixel.
    """
    seen = region.of(frame_bgr)
    fill = cv2.mean(seen, region.mask)
    if not region.is_box:
        outside = region.mask == 0
        seen = seen.copy()
        seen[outside] = np.round(fill[:3])
    height, width = seen.shape[:2]
    rows = max(0, round(width / width_over_height) - height)
    columns = max(0, round(height * width_over_height) - width)
    sides = (rows // 2, rows - rows // 2, columns // 2, columns - columns // 2)
    return np.asarray(cv2.copyMakeBorder(seen, *sides, cv2.BORDER_CONSTANT, value=fill), np.uint8)
