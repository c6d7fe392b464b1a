"""Finds photos that show the same image although their bytes differ.

A photo's fingerprint is the perceptual hash pHash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image
Hash Functions") with 256 bits instead of 64: which of the 16 × 16 lowest frequencies of its cosine transform lie above
their median. Two photos are near-duplicates if few bits differ. `docs/photos.md` has measurements.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.errors import DataError
from edgebcnn.progress import Reporter

MAX_DISTANCE = 32
"""Bits that near-duplicates differ in at most: more than nearly all changed copies do, fewer than other photos."""

MAX_PAIRS = 5_000_000  # 60 MB; so many pairs come from a camera that stood still, and no person could look at them

_FREQUENCIES = 16
BITS = _FREQUENCIES**2
_THUMBNAIL_PX = 4 * _FREQUENCIES
_BLOCK = 2048  # 16 MB of distances at once, which stay in the cache of a server


def fingerprint(grey: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """The perceptual hash of one photo.

    Args:
        grey: `(h, w)` uint8.

    Returns:
        `(BITS,)` bool.
    """
    thumbnail = cv2.resize(grey, (_THUMBNAIL_PX, _THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    lowest = cv2.dct(thumbnail.astype(np.float32))[:_FREQUENCIES, :_FREQUENCIES].ravel()
    lowest[0] = np.median(lowest[1:])  # the mean brightness says nothing about what is shown
    return np.asarray(lowest > np.median(lowest[1:]), np.bool_)


def find_pairs(fingerprints: NDArray[np.bool_], max_distance: int, *, reporter: Reporter) -> NDArray[np.int32]:
    """All pairs of near-duplicates.

    With bits written as ±1, the distance of two fingerprints is (BITS - a·b)/2, so that a matrix product compares all
    with all: quadratic, but at the speed of the processor's multiplications.

    Args:
        fingerprints: `(n, BITS)` bool.
        max_distance: Bits that may differ.
        reporter: Receives progress.

    Returns:
        `(pairs, 3)` int32: the first photo, the second, greater one, and their distance; in that order.

    Raises:
        DataError: there are more than `MAX_PAIRS`.
    """
    signs = np.where(fingerprints, np.float32(1), np.float32(-1))
    starts = range(0, len(signs), _BLOCK)
    found: list[NDArray[np.int32]] = []
    with reporter.progress("comparing photos", len(starts) * (len(starts) + 1) // 2) as advance:
        for row in starts:
            for column in range(row, len(signs), _BLOCK):
                found.append(_pairs_of_blocks(signs, row, column, max_distance))
                if sum(map(len, found)) > MAX_PAIRS:
                    raise DataError(
                        f"more than {MAX_PAIRS:,} pairs of the photos are near-duplicates: thin out the frames of "
                        "cameras that stood still, or lower --max-distance"
                    )
                advance(1)
    pairs = np.concatenate([np.empty((0, 3), np.int32), *found])
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def joined(count: int, links: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Groups of what is linked, directly or through others (union-find).

    Args:
        count: How many things there are.
        links: Pairs of them that belong together.

    Returns:
        `(count,)` int64: the lowest member of each one's group.
    """
    parents = list(range(count))

    def root(member: int) -> int:
        while parents[member] != member:
            parents[member] = parents[parents[member]]
            member = parents[member]
        return member

    for first, second in links:
        low, high = sorted((root(first), root(second)))
        parents[high] = low
    return np.array([root(member) for member in range(count)], np.int64)


def _pairs_of_blocks(signs: NDArray[np.float32], row: int, column: int, max_distance: int) -> NDArray[np.int32]:
    products = signs[row : row + _BLOCK] @ signs[column : column + _BLOCK].T
    # Of the flat array: NumPy is several times slower in two dimensions, and nearly all blocks hold nothing.
    near = np.flatnonzero(products.ravel() >= BITS - 2 * max_distance)
    firsts, seconds = np.divmod(near, products.shape[1])
    distances = (BITS - products.ravel()[near]) / 2
    pairs = np.stack([firsts + row, seconds + column, distances], axis=1).astype(np.int32)
    return pairs[pairs[:, 0] < pairs[:, 1]]
