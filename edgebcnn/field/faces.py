"""Finds faces in a frame with a MediaPipe detector, on the whole frame and on enlarged parts for small faces.

The user provides the file: BlazeFace for faces within about five meters. Its input is so small that it mostly misses a
face that takes a tenth of the frame, which would still be recognizable in a sample; hence the enlarged parts
(`benchmarks/blurred_faces.py` counts what they find).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.interpreter import find_package
from edgebcnn.errors import DeviceError

FILE_NAME = "face_detection_full_range.tflite"

CLOSER = 0.4  # side of an enlarged part, as a share of the frame's shorter side
OVERLAP = 0.2  # of two neighbours; at a third two thirds more looks find no more

_INPUT_PX = 192
_CELL_PX = 4  # each cell of the input proposes one box
_CELLS = _INPUT_PX // _CELL_PX
_FACE_LOGIT = 0.0  # a probability of 1/2, which is where MediaPipe draws the line
_SAME_FACE = 0.5  # share of a box within a larger one, from which both show the same face

_INPUT = (1, _INPUT_PX, _INPUT_PX, 3)
_BOXES = (1, _CELLS**2, 16)  # centre, size, and six points of the face, which nobody needs here
_LOGITS = (1, _CELLS**2, 1)


class FaceFinder:
    """A loaded face detector, for use by one thread.

    Args:
        model: MediaPipe's `face_detection_full_range.tflite`, or its sparse form.

    Raises:
        DeviceError: no runtime is installed, the file cannot be read, or it is no such detector.
    """

    def __init__(self, model: Path) -> None:
        self._model = model
        package = find_package("any")
        try:
            with model.open("rb"):
                self._interpreter = package.module.Interpreter(model_path=str(model), num_threads=1)
            self._interpreter.allocate_tensors()
        except OSError as error:
            raise DeviceError(f"{model} cannot be read ({error.strerror}): give the path of {FILE_NAME}") from error
        except (ValueError, RuntimeError) as error:
            raise DeviceError(f"{model} is not a model that {package.name} can load: give {FILE_NAME}") from error
        tensors = [*self._interpreter.get_input_details(), *self._interpreter.get_output_details()]
        self._index = {tuple(each["shape"].tolist()): int(each["index"]) for each in tensors}
        if self._index.keys() != {_INPUT, _BOXES, _LOGITS} or {each["dtype"] for each in tensors} != {np.float32}:
            raise DeviceError(f"{model} is another model than MediaPipe's full-range face detector: give {FILE_NAME}")

    def boxes(self, frame_bgr: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the face boxes of a frame, forehead to chin.

        Args:
            frame_bgr: `(h, w, 3)` uint8 BGR.

        Returns:
            `(n, 4)` float64: left, top, right and bottom of each face in pixels; they may lie outside of the frame.

        Raises:
            DeviceError: the detector returned NaN or infinity.
        """
        found = [
            self._look(frame_bgr[top : top + height, left : left + width]) + np.array([left, top, left, top])
            for top, left, height, width in looks(*frame_bgr.shape[:2])
        ]
        return _one_for_each_face(np.concatenate(found))

    def _look(self, picture_bgr: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Returns the boxes in one image, several per face."""
        square, scale = _fitted(picture_bgr)
        self._interpreter.set_tensor(self._index[_INPUT], square[None])
        self._interpreter.invoke()
        boxes, logits = (self._interpreter.get_tensor(self._index[each])[0] for each in (_BOXES, _LOGITS))
        if not (
            np.isfinite(logits).all() and np.isfinite(boxes).all()
        ):  # NaN exceeds no threshold: faces would be missed silently
            raise DeviceError(f"{self._model} returns NaN or infinity: give another copy of {FILE_NAME}")
        rows = np.flatnonzero((logits[:, 0] > _FACE_LOGIT) & (boxes[:, 2:4] > 0).all(axis=1))
        cells = np.stack([rows % _CELLS, rows // _CELLS], axis=1)
        centres, halves = (cells + 0.5) * _CELL_PX + boxes[rows, :2], boxes[rows, 2:4] / 2
        return np.concatenate([centres - halves, centres + halves], axis=1).astype(np.float64) / scale


def looks(height_px: int, width_px: int) -> Iterator[tuple[int, int, int, int]]:
    """Yields top, left, height and width of each part that is searched: the whole frame, then squares that cover it."""
    yield 0, 0, height_px, width_px
    side = math.ceil(CLOSER * min(height_px, width_px))
    for top in _starts(height_px, side):
        for left in _starts(width_px, side):
            yield top, left, side, side


def _starts(length_px: int, side_px: int) -> list[int]:
    """Returns where squares begin that cover a length, the first at its start and the last at its end."""
    count = 1 + math.ceil((length_px - side_px) / (side_px * (1 - OVERLAP)))
    return [round(start) for start in np.linspace(0, length_px - side_px, count)]


def _fitted(picture_bgr: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """The detector's input `(192, 192, 3)` float32 RGB, the image in its upper left; and its scale factor."""
    scale = _INPUT_PX / max(picture_bgr.shape[:2])
    height, width = (max(1, round(side * scale)) for side in picture_bgr.shape[:2])
    small = cv2.resize(picture_bgr, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    square = np.zeros((_INPUT_PX, _INPUT_PX, 3), np.float32)
    square[:height, :width] = small[..., ::-1] / np.float32(127.5) - 1
    return square, scale


def _one_for_each_face(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Merges each box that lies mostly within a larger one into that one.

    The usual non-maximum suppression would drop what only a less likely box covers.
    """
    faces: list[NDArray[np.float64]] = []
    for box in boxes[np.argsort(-_areas(boxes), kind="stable")]:
        for face in faces:
            within = np.concatenate([np.maximum(box[:2], face[:2]), np.minimum(box[2:], face[2:])])
            if _areas(within) > _SAME_FACE * _areas(box):
                face[:] = [*np.minimum(box[:2], face[:2]), *np.maximum(box[2:], face[2:])]
                break
        else:
            faces.append(box.copy())
    return np.array(faces).reshape(-1, 4)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """`(..., 4)` to `(...)`; 0 of what ends before it begins."""
    return np.asarray(np.prod(np.maximum(boxes[..., 2:] - boxes[..., :2], 0), axis=-1))
