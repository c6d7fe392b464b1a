"""A data set that is drawn in a blink, photos whose product is the colour of a block, and a training of seconds."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

COLOURS = {"Blue": (220, 60, 40), "Green": (40, 200, 60), "Red": (40, 50, 220)}
"""BGR."""

QUICK = (
    *("--streams", "small", "--weights", "none", "--train-px", "32", "--input-px", "32", "--rank", "16"),
    *("--copies", "2", "--epochs", "4", "--head-epochs", "2", "--config", "training.backbone_rate = 2e-3"),
    *("--config", "training.full_head_rate = 1e-3"),
)
"""Flags of a training of seconds."""


def draw_blocks(folder: Path, *, per_product: dict[str, int]) -> Path:
    """Writes `folder/<split>/<product>/<n>.png`, `per_product` photos of each product in each split."""
    rng = np.random.default_rng(11)
    for split, count in per_product.items():
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                photo = rng.integers(0, 90, (40, 40, 3), np.uint8)
                top, left = rng.integers(2, 14, 2)
                photo[top : top + 24, left : left + 24] = colour
                cv2.imwrite(str(folder / split / name / f"{number}.png"), photo)
    return folder
