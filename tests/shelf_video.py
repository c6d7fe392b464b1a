"""A tiny shelf of two slots, filmed, with its slots file and a bundle that knows its packs."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.tiny_bundle import coloured, make_tiny_bundle

SLOTS = """\
units = "px"
frame_px = [128, 48]
[[shelf]]
name = "Top"
[[shelf.slot]]
name = "A1"
product = "Red"
box = [0, 0, 60, 48]
[[shelf.slot]]
name = "A2"
product = "Green"
polygon = [[68, 0], [128, 0], [128, 48], [68, 48]]
"""


def make_shelf(folder: Path) -> Path:
    """A bundle, a slots file, and a video in which a blue pack takes the place of the green one after two seconds."""
    make_tiny_bundle(folder / "bundle", ["int8"])
    (folder / "slots.toml").write_text(SLOTS)
    writer = cv2.VideoWriter(str(folder / "shelf.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 10, (128, 48))
    for index in range(60):
        writer.write(picture("Green" if index < 20 else "Blue", index))
    writer.release()
    assert cv2.imwrite(str(folder / "still.png"), picture("Blue", 0))
    return folder


def picture(right: str, seed: int) -> NDArray[np.uint8]:
    """A red pack and another beside it, `(48, 128, 3)` uint8 BGR."""
    rng = np.random.default_rng(seed)
    return np.concatenate([coloured("Red", rng), coloured(right, rng)], axis=1)
