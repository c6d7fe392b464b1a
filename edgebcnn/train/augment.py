"""Augments training photos with the viewpoints, light and cameras that a real shelf has.

Flips are off by default, because a mirrored label is a product that does not exist.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class Augmentation(BaseModel):
    """How far a photo may be varied; every strength is the largest value drawn.

    Attributes:
        min_area: Smallest share of the photo that a random crop keeps.
        max_aspect: Largest change of the crop's width-to-height ratio.
        rotation_deg: Largest rotation.
        shear_deg: Largest slant of vertical lines.
        perspective: Largest shift of a corner, as a share of the side.
        brightness: Largest relative change of brightness, and of contrast.
        saturation: Largest relative change of saturation.
        cast: Largest relative change of one colour channel.
        blur_px: Largest standard deviation of a Gaussian blur, applied to a quarter of the photos.
        jpeg_quality: Lowest JPEG quality, applied to a quarter of the photos.
        flip: Whether half of the photos are mirrored.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    min_area: float = Field(default=0.35, gt=0, le=1)
    max_aspect: float = Field(default=1.25, ge=1)
    rotation_deg: float = Field(default=10.0, ge=0, le=180)
    shear_deg: float = Field(default=0.0, ge=0, le=60)
    perspective: float = Field(default=0.05, ge=0, le=0.3)
    brightness: float = Field(default=0.3, ge=0, lt=1)
    saturation: float = Field(default=0.3, ge=0, le=1)
    cast: float = Field(default=0.05, ge=0, lt=1)
    blur_px: float = Field(default=1.2, ge=0)
    jpeg_quality: int = Field(default=40, ge=1, le=100)
    flip: bool = False

    def apply(
        self, photo_bgr: NDArray[np.uint8], size_hw: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        """One random view of a photo.

        Args:
            photo_bgr: `(h, w, 3)` uint8.
            size_hw: Height and width of the result.
            rng: Where the randomness comes from.

        Returns:
            `(*size_hw, 3)` uint8 BGR.
        """
        view = self._viewpoint(photo_bgr, size_hw, rng)
        view = self._light(view, rng)
        return self._camera(view, rng)

    def _viewpoint(
        self, photo: NDArray[np.uint8], size_hw: tuple[int, int], rng: np.random.Generator
    ) -> NDArray[np.uint8]:
        height, width = size_hw
        corners = self._crop_corners(photo.shape[0], photo.shape[1], width / height, rng)
        if self.flip and rng.random() < 0.5:
            corners = corners[[1, 0, 3, 2]]
        target = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
        shrink = float(np.linalg.norm(corners[1] - corners[0])) / width
        if shrink > 2:  # bilinear sampling skips pixels from here on: average them first
            photo = np.asarray(
                cv2.resize(photo, None, fx=2 / shrink, fy=2 / shrink, interpolation=cv2.INTER_AREA), np.uint8
            )
            corners = corners * np.float32(2 / shrink)
        warp = cv2.getPerspectiveTransform(corners.astype(np.float32), target)
        view = cv2.warpPerspective(
            photo, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
        return np.asarray(view, np.uint8)

    def _crop_corners(self, photo_h: int, photo_w: int, aspect: float, rng: np.random.Generator) -> NDArray[np.float32]:
        area = rng.uniform(self.min_area, 1.0) * photo_h * photo_w
        ratio = aspect * np.exp(rng.uniform(-1, 1) * np.log(self.max_aspect))
        crop_w, crop_h = min(np.sqrt(area * ratio), photo_w), min(np.sqrt(area / ratio), photo_h)
        centre = np.array(
            [rng.uniform(crop_w, 2 * photo_w - crop_w) / 2, rng.uniform(crop_h, 2 * photo_h - crop_h) / 2]
        )
        half = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * (crop_w / 2, crop_h / 2)
        angle = np.deg2rad(rng.uniform(-1, 1) * self.rotation_deg)
        rotation = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
        if self.shear_deg:
            slant = np.tan(np.deg2rad(rng.uniform(-1, 1) * self.shear_deg))
            half = half + np.stack([half[:, 1] * slant, np.zeros(4)], axis=1)
        shift = rng.uniform(-1, 1, (4, 2)) * self.perspective * (crop_w, crop_h)
        return np.asarray(centre + half @ rotation + shift, np.float32)

    def _light(self, view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        gain, contrast, saturation = 1 + rng.uniform(-1, 1, 3) * (self.brightness, self.brightness, self.saturation)
        colour = 1 + rng.uniform(-1, 1, 3) * self.cast
        pixels = view.astype(np.float32)
        grey = pixels.mean(axis=2, keepdims=True)
        pixels = (grey + (pixels - grey) * saturation) * colour * gain
        middle = pixels.mean()
        return np.asarray(np.clip(middle + (pixels - middle) * contrast, 0, 255), np.uint8)

    def _camera(self, view: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        blurred, compressed = rng.random(2) < 0.25
        if blurred and self.blur_px > 0:
            view = np.asarray(cv2.GaussianBlur(view, (0, 0), max(0.1, rng.uniform(0, self.blur_px))), np.uint8)
        if compressed and self.jpeg_quality < 100:
            quality = int(rng.integers(self.jpeg_quality, 101))
            _, encoded = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, quality])
            view = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
        return view
