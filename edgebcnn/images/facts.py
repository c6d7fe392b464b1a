"""Measures what can be measured in a photo without its label: size, sharpness, exposure and fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.errors import UnreadablePhotoError
from edgebcnn.images.dataset import read_photos
from edgebcnn.images.near_duplicates import BITS, find_pairs, fingerprint
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Reporter

SHARPNESS_PX = 256  # the side that models look at by default: blur that is invisible there does no harm

_BLANK_STD = 8.0  # grey levels; the flattest of 4,201 photos from shops has 29
_DARK, _BRIGHT = 5, 95  # percentiles of the grey levels
_NIGHT_LEVEL = 64  # a photo whose brightest parts are darker than that
_WASHED_OUT_LEVEL = 200  # a photo whose darkest parts are brighter than that; a pack before white has darker ones


@dataclass(frozen=True)
class PhotoFacts:
    """One photo.

    Attributes:
        width_px: Its width, upright.
        height_px: Its height, upright.
        sharpness: Variance of the Laplacian of its grey levels, after shrinking its shorter side to `SHARPNESS_PX`;
            smaller photos are taken as they are.
        fault: `dark`, `washed out` or `blank` (lens covered, or nothing but a flat surface), None if it is neither.
        fingerprint: `(BITS,)` bool, see `edgebcnn.images.near_duplicates`.
    """

    width_px: int
    height_px: int
    sharpness: float
    fault: str | None
    fingerprint: NDArray[np.bool_]


def facts_of(photo_bgr: NDArray[np.uint8]) -> PhotoFacts:
    """The facts of one photo, `(h, w, 3)` uint8 BGR."""
    height, width = photo_bgr.shape[:2]
    grey = np.asarray(cv2.cvtColor(photo_bgr, cv2.COLOR_BGR2GRAY), np.uint8)
    shrink = SHARPNESS_PX / min(height, width)
    if shrink < 1:
        size = (round(width * shrink), round(height * shrink))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)
    sharpness = float(cv2.Laplacian(grey, cv2.CV_32F).var())
    return PhotoFacts(width, height, sharpness, _fault(grey), fingerprint(grey))


def read_facts(
    paths: Sequence[Path], *, reporter: Reporter
) -> tuple[dict[Path, PhotoFacts], list[UnreadablePhotoError]]:
    """Reads the facts of photos on all cores.

    Returns:
        The facts of each photo by its path, and an error for each that cannot be read.
    """
    with reporter.progress("reading photos", len(paths)) as advance:
        return read_photos(paths, lambda path: facts_of(read_photo(path)), on_photo=lambda done, total: advance(1))


def near_duplicates(facts: Sequence[PhotoFacts], max_distance: int, *, reporter: Reporter) -> NDArray[np.int32]:
    """Pairs of near-duplicates as `near_duplicates.find_pairs` gives them; blank photos are like no other.

    Raises:
        DataError: there are too many.
    """
    shown = np.flatnonzero([photo.fault != "blank" for photo in facts])
    fingerprints = np.array([photo.fingerprint for photo in facts], np.bool_).reshape(-1, BITS)[shown]
    pairs = find_pairs(fingerprints, max_distance, reporter=reporter)
    return np.column_stack([shown[pairs[:, :2]], pairs[:, 2]]).astype(np.int32)


def _fault(grey: NDArray[np.uint8]) -> str | None:
    if grey.std() < _BLANK_STD:
        return "blank"
    dark, bright = np.percentile(grey, (_DARK, _BRIGHT))
    if bright < _NIGHT_LEVEL:
        return "dark"
    return "washed out" if dark > _WASHED_OUT_LEVEL else None
