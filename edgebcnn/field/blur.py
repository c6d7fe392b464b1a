"""Makes faces unrecognizable: each box with a margin becomes a few cells of one color each.

Cells are safer than a soft blur: they reduce a face to a handful of numbers, however sharp the frame was.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.field.faces import FaceFinder
from edgebcnn.field.sampler import Redact

MARGIN = 0.25  # share of the box that is added on each side: ears, chin and hair, which the detector leaves out
CELLS = 4  # across box and margins, so that fewer than three lie across the face


def face_blur(model: Path) -> Redact:
    """Returns a function that blurs every face that a detector finds in a frame.

    Args:
        model: The detector, see `FaceFinder`.

    Raises:
        DeviceError: it cannot be used.
    """
    finder = FaceFinder(model)

    def redact(frame_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], int]:
        boxes = finder.boxes(frame_bgr)
        return blurred(frame_bgr, boxes), len(boxes)

    return redact


def blurred(frame_bgr: NDArray[np.uint8], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Returns a frame whose boxes are unrecognizable.

    Args:
        frame_bgr: `(h, w, 3)` uint8 BGR; it is not modified, because other sinks use it too.
        boxes: `(n, 4)` left, top, right and bottom of each face in pixels.

    Returns:
        `(h, w, 3)` uint8 BGR; `frame_bgr` itself where there is no box.
    """
    if not len(boxes):
        return frame_bgr
    frame_bgr = frame_bgr.copy()
    height, width = frame_bgr.shape[:2]
    for box in boxes:
        margins = MARGIN * (box[2:] - box[:2])
        cell_px = (1 + 2 * MARGIN) * (box[2:] - box[:2]) / CELLS
        left, top = np.clip(np.floor(box[:2] - margins), 0, [width, height]).astype(int)
        right, bottom = np.clip(np.ceil(box[2:] + margins), 0, [width, height]).astype(int)
        face = frame_bgr[top:bottom, left:right]
        if not face.size:
            continue
        cells = [max(1, round(pixels / cell)) for pixels, cell in zip(face.shape[1::-1], cell_px, strict=True)]
        colours = cv2.resize(face, cells, interpolation=cv2.INTER_AREA)
        face[:] = cv2.resize(colours, face.shape[1::-1], interpolation=cv2.INTER_NEAREST)
    return frame_bgr
