"""Turns a photo or camera frame into a model's input: the one function that calibration, evaluation and devices share.

Photos and frames are BGR, as OpenCV delivers them; a model's input is RGB. The swap happens here and nowhere else.
The parameters travel in the bundle, because resize and colour mismatches are the commonest cause of a "bad int8 model".
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from edgebcnn.errors import UnreadablePhotoError
from edgebcnn.untrusted.files import read_bytes
from edgebcnn.untrusted.images import decode

PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})

MAX_PHOTO_BYTES = 512 << 20  # a TIFF of 100 megapixels has 300 MB

Interpolation = Literal["halving", "area", "linear"]

_INTERPOLATION: dict[Interpolation, int] = {
    "halving": cv2.INTER_LINEAR,  # of what is left once no further half is possible
    "area": cv2.INTER_AREA,
    "linear": cv2.INTER_LINEAR,
}


class Preprocessing(BaseModel):
    """Parameters of the path from a BGR photo to a model's input.

    Attributes:
        height_px: Height of the model's input.
        width_px: Width of the model's input.
        fit: `crop` keeps the photo's aspect ratio and cuts the longer side equally at both ends; `stretch` squeezes
            the whole photo.
        interpolation: How pixels become fewer. `area` averages what a smaller pixel covers. `halving` averages two by
            two as long as twice the pixels that are wanted are left, then interpolates: close to `area`, for an eighth
            of its time on a camera's frame, because OpenCV has a fast path for halves and none for other shares.
            `linear` alone skips pixels where it shrinks by more than two, which makes moiré of fine print.
        mean: Subtracted from a pixel (0-255) for models with float input.
        std: Divides what is left, so that a float input is `(pixel - mean) / std`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    height_px: int = Field(ge=8, le=4096)
    width_px: int = Field(ge=8, le=4096)
    fit: Literal["crop", "stretch"] = "crop"
    interpolation: Interpolation = "area"
    mean: float = 127.5
    std: float = Field(default=127.5, gt=0)

    @property
    def width_over_height(self) -> float:
        """Aspect of the model's input."""
        return self.width_px / self.height_px

    def apply(self, photo_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Crops and resizes one photo and puts its colours in the model's order.

        Args:
            photo_bgr: `(h, w, 3)` uint8.

        Returns:
            `(height_px, width_px, 3)` uint8 RGB, contiguous.
        """
        if self.fit == "crop":
            photo_bgr = _crop_to_aspect(photo_bgr, self.width_over_height)
        if self.interpolation == "halving":
            photo_bgr = _halved(photo_bgr, self.height_px, self.width_px)
        if photo_bgr.shape[:2] != (self.height_px, self.width_px):
            enlarges = photo_bgr.shape[0] < self.height_px or photo_bgr.shape[1] < self.width_px
            # INTER_AREA degenerates to nearest-neighbour when it enlarges.
            interpolation = cv2.INTER_LINEAR if enlarges else _INTERPOLATION[self.interpolation]
            size = (self.width_px, self.height_px)
            photo_bgr = np.asarray(cv2.resize(photo_bgr, size, interpolation=interpolation), np.uint8)
        return np.ascontiguousarray(cv2.cvtColor(photo_bgr, cv2.COLOR_BGR2RGB), np.uint8)

    def normalize(self, pixels_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Float input from pixels: `(pixel - mean) / std`, any shape, float32."""
        return (pixels_u8.astype(np.float32) - np.float32(self.mean)) / np.float32(self.std)


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Reads one photo, turned upright as its EXIF orientation says.

    Returns:
        `(h, w, 3)` uint8 BGR.

    Raises:
        UnreadablePhotoError: the file cannot be read, is cut short, is not an image, or claims too many pixels.
    """
    try:
        encoded = read_bytes(path, max_bytes=MAX_PHOTO_BYTES)
    except OSError as error:
        raise UnreadablePhotoError(path, error.strerror or str(error)) from error
    return decode_photo(encoded, path)


def decode_photo(encoded: bytes, path: Path) -> NDArray[np.uint8]:
    """Decodes the content of an image file, turned upright as its EXIF orientation says.

    Args:
        encoded: The content.
        path: What the error names.

    Returns:
        `(h, w, 3)` uint8 BGR.

    Raises:
        UnreadablePhotoError: it is cut short, is not an image, or claims too many pixels.
    """
    try:
        return decode(encoded)
    except ValueError as error:
        raise UnreadablePhotoError(path, str(error)) from error


def _crop_to_aspect(photo: NDArray[np.uint8], width_over_height: float) -> NDArray[np.uint8]:
    height, width = photo.shape[:2]
    new_width = min(width, max(1, round(height * width_over_height)))
    new_height = min(height, max(1, round(width / width_over_height)))
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return photo[top : top + new_height, left : left + new_width]


def _halved(photo: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.uint8]:
    """Halves each side as long as it is at least twice the wanted one."""
    while True:
        height, width = (
            side // 2 if side >= 2 * wanted else side
            for side, wanted in zip(photo.shape, (height_px, width_px), strict=False)
        )
        if (height, width) == photo.shape[:2]:
            return photo
        photo = np.asarray(cv2.resize(photo, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
