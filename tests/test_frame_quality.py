"""Frames that show nothing are refused with the reason, and frames that a model can use are not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.loop.quality import EVERY_FRAME, FrameCheck, FrameLimits, sharpness, small_grey
from edgebcnn.sources.frames import Frame


def shelf(seed: int = 1, *, height_px: int = 360, width_px: int = 640) -> NDArray[np.uint8]:
    """Boxes with print on them, before a plain wall, as a sensor sees them."""
    rng = np.random.default_rng(seed)
    picture = np.full((height_px, width_px, 3), 140, np.uint8)
    for _ in range(40):
        left, top = rng.integers((width_px, height_px))
        corner = (int(left + rng.integers(20, 120)), int(top + rng.integers(20, 120)))
        cv2.rectangle(picture, (int(left), int(top)), corner, rng.integers(0, 220, 3).tolist(), -1)
        cv2.putText(picture, "oat", (int(left), int(top) + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (235, 235, 235), 1)
    return np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def fault(image_bgr: NDArray[np.uint8]) -> str | None:
    return FrameCheck(FrameLimits()).fault(Frame(0, image_bgr, 0.0), 0.0)


def exposed(factor: float) -> NDArray[np.uint8]:
    return np.asarray(np.clip(shelf().astype(np.float32) * factor, 0, 255), np.uint8)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (shelf(), None),
        (shelf(height_px=1080, width_px=1920), None),
        (shelf(height_px=48, width_px=64), None),
        (exposed(0.4), None),
        (exposed(1.5), None),
        (exposed(0.05), "black"),
        (np.zeros((360, 640, 3), np.uint8), "black"),
        (exposed(6), "overexposed"),
        (np.full((360, 640, 3), 255, np.uint8), "overexposed"),
        (cv2.GaussianBlur(shelf(), (0, 0), 6), "blurred"),
        (cv2.blur(shelf(), (45, 1)), "blurred"),
        (cv2.GaussianBlur(shelf(height_px=1080, width_px=1920), (0, 0), 18), "blurred"),
        (np.full((360, 640, 3), 120, np.uint8), "blurred"),
    ],
)
def test_each_fault_is_named_and_a_usable_frame_has_none(image: NDArray[np.uint8], expected: str | None) -> None:
    assert fault(image) == expected


def test_sharpness_falls_with_blur_and_hardly_depends_on_contrast() -> None:
    grey = small_grey(shelf())
    blurred = [sharpness(np.asarray(cv2.GaussianBlur(grey, (0, 0), sigma), np.uint8)) for sigma in (0.8, 1.5, 3, 6)]
    assert sharpness(grey) > blurred[0] > blurred[1] > blurred[2] > blurred[3]
    assert sharpness(grey // 2) == pytest.approx(sharpness(grey), abs=0.1)


def test_a_picture_that_stays_the_same_freezes_after_a_while_and_thaws_at_a_change() -> None:
    check = FrameCheck(FrameLimits(frozen_after_s=2))
    still, other = shelf(1), shelf(2)
    shown = [(0.0, still), (1.0, still), (2.0, still), (2.1, still), (9.0, still), (9.1, other), (11.0, other)]
    faults = [check.fault(Frame(0, image, at_s), at_s) for at_s, image in shown]
    assert faults == [None, None, None, "frozen", "frozen", None, None]


def test_a_frame_that_waited_too_long_is_stale() -> None:
    check = FrameCheck(FrameLimits(max_age_s=0.5))
    assert check.fault(Frame(0, shelf(), 10.0), 10.4) is None
    assert check.fault(Frame(0, shelf(), 10.0), 10.6) == "stale"


def test_every_frame_is_taken_where_that_is_asked() -> None:
    check = FrameCheck(EVERY_FRAME)
    black = np.zeros((48, 64, 3), np.uint8)
    assert [check.fault(Frame(0, black, at_s), at_s) for at_s in (0.0, 1e6)] == [None, None]
