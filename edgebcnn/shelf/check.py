"""Checks on one image that slots are drawn where the products are, and draws them on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import write_bytes
from edgebcnn.bundle import Label
from edgebcnn.shelf.draw import enlarged, mark
from edgebcnn.shelf.regions import Region, crop, polygon_region
from edgebcnn.shelf.slots import MIN_SIDE_PX, Point, SlotMap
from edgebcnn.shelf.watch import Classify

_RIGHT, _WRONG, _NEUTRAL = (60, 200, 60), (50, 50, 235), (255, 200, 60)  # BGR


@dataclass(frozen=True)
class SlotCheck:
    """A slot in a picture.

    Attributes:
        shelf: Name of its shelf.
        slot: Its name.
        expected: What belongs there.
        width_px: Width of its bounding box.
        height_px: Height of the same.
        product: What the model says of it in this one picture; None where there is no model.
        score: Its probability, 0-1.
    """

    shelf: str
    slot: str
    expected: str
    width_px: int
    height_px: int
    product: str | None = None
    score: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def check_slots(slots: SlotMap, picture_bgr: NDArray[np.uint8]) -> tuple[SlotCheck, ...]:
    """What the slots file says, in pixels of a picture.

    Raises:
        DataError: the slots do not fit a picture of this size.
    """
    return tuple(
        SlotCheck(shelf.name, slot.name, slot.product or slot.gtin or "", region.mask.shape[1], region.mask.shape[0])
        for (shelf, slot), region in zip(slots.slots(), _regions(slots, picture_bgr), strict=True)
    )


def read_slots(
    slots: SlotMap,
    picture_bgr: NDArray[np.uint8],
    labels: Sequence[Label],
    classify: Classify,
    *,
    width_over_height: float,
) -> tuple[SlotCheck, ...]:
    """The same, with what a model says of each slot in this picture alone: no votes, no empty shelf.

    Raises:
        DataError: the slots do not fit a picture of this size, or the bundle lacks a product.
    """
    expected = slots.class_ids(labels)
    crops = [crop(picture_bgr, region, width_over_height=width_over_height) for region in _regions(slots, picture_bgr)]
    probabilities = classify(crops)
    return tuple(
        replace(
            check,
            expected=labels[wanted].name,
            product=labels[int(of_slot.argmax())].name,
            score=round(float(of_slot.max()), 4),
        )
        for check, wanted, of_slot in zip(check_slots(slots, picture_bgr), expected, probabilities, strict=True)
    )


def see_shapes(
    shapes_px: Sequence[Sequence[Point]],
    picture_bgr: NDArray[np.uint8],
    classify: Classify,
    *,
    width_over_height: float,
) -> list[NDArray[np.float32] | None]:
    """Probabilities of what shapes show that are not slots of a file yet; None where one is too small to be one."""
    height_px, width_px = picture_bgr.shape[:2]
    regions = [polygon_region(corners, width_px=width_px, height_px=height_px) for corners in shapes_px]
    large = [min(region.mask.shape) >= MIN_SIDE_PX for region in regions]
    crops = [crop(picture_bgr, region, width_over_height=width_over_height) for region in compress(regions, large)]
    probabilities = iter(classify(crops) if crops else ())
    return [next(probabilities) if is_large else None for is_large in large]


def draw_slots(picture_bgr: NDArray[np.uint8], slots: SlotMap, checks: Sequence[SlotCheck]) -> NDArray[np.uint8]:
    """The picture with every slot: green where the model agrees, red where not, yellow without a model.

    A small picture is enlarged, so that names can be read.
    """
    drawn = enlarged(picture_bgr)
    for check, region in zip(checks, _regions(slots, drawn), strict=True):
        agrees = check.product == check.expected
        colour = _NEUTRAL if check.product is None else _RIGHT if agrees else _WRONG
        outline, _ = cv2.findContours(region.mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        lines = [check.slot, check.expected] + ([] if check.product is None or agrees else [f"? {check.product}"])
        mark(drawn, outline[0].reshape(-1, 2) + np.array((region.left, region.top)), lines, colour)
    return drawn


def write_png(path: Path, picture_bgr: NDArray[np.uint8]) -> None:
    """Writes a picture as PNG, whatever the name.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    _, encoded = cv2.imencode(".png", picture_bgr)
    write_bytes(path, encoded.tobytes())


def _regions(slots: SlotMap, picture_bgr: NDArray[np.uint8]) -> tuple[Region, ...]:
    height_px, width_px = picture_bgr.shape[:2]
    return slots.regions(width_px=width_px, height_px=height_px)
