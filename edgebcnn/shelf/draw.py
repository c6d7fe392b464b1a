"""Draws slots, with what is known of them, on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

DRAWN_HEIGHT_PX, MAX_ENLARGED = 960, 4

Colour = tuple[int, int, int]  # BGR

_LINE_PX = 18


def enlarged(picture_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy; that of a small picture is larger, so that names on it can be read."""
    times = min(MAX_ENLARGED, max(1, round(DRAWN_HEIGHT_PX / picture_bgr.shape[0])))
    return np.asarray(cv2.resize(picture_bgr, None, fx=times, fy=times, interpolation=cv2.INTER_LINEAR), np.uint8)


def mark(drawn: NDArray[np.uint8], outline_px: NDArray[Any], lines: Sequence[str], colour: Colour) -> None:
    """Draws a closed outline, `(n, 2)` of any integers, with lines of text in its upper left corner."""
    cv2.polylines(drawn, [outline_px.astype(np.int32)], True, colour, 2)
    left, top = outline_px.min(axis=0)
    write(drawn, lines, (int(left), int(top)), colour)


def write(drawn: NDArray[np.uint8], lines: Sequence[str], corner_px: tuple[int, int], colour: Colour) -> None:
    """Writes lines of text below and right of a corner, on black."""
    left = corner_px[0] + 3
    for row, line in enumerate(lines):
        base = corner_px[1] + _LINE_PX * (row + 1)
        (width, _), below = cv2.getTextSize(line, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        cv2.rectangle(drawn, (left, base - _LINE_PX + below), (left + width, base + below), (0, 0, 0), cv2.FILLED)
        cv2.putText(drawn, line, (left, base), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
