"""Draws `demo-shelf.jpg` of the docs' first page: the packs of the demo, and photos of them.

python docs/demo_shelf.py
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.demo.products import PRODUCTS, Product, pack_picture
from edgebcnn.demo.shelf import draw_photo

CELL_PX, COLUMNS, BACKGROUND = 166, 6, 235


def pack(product: Product) -> NDArray[np.uint8]:
    """The clean pack on a light background."""
    picture = cv2.resize(pack_picture(product), (CELL_PX, CELL_PX), interpolation=cv2.INTER_AREA)
    opacity = picture[..., 3:] / 255
    return np.asarray(picture[..., :3] * opacity + BACKGROUND * (1 - opacity), np.uint8)


def photo(product: Product) -> NDArray[np.uint8]:
    """A photo of it on a shelf."""
    drawn = draw_photo(product, np.random.default_rng(int(product.gtin)))
    return np.asarray(cv2.resize(drawn, (CELL_PX, CELL_PX), interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == "__main__":
    variants = len(PRODUCTS) // COLUMNS
    rows = [np.hstack([draw(p) for p in PRODUCTS[v::variants]]) for draw in (pack, photo) for v in range(variants)]
    sheet = np.vstack(rows)
    cv2.imwrite(str(Path(__file__).with_name("demo-shelf.jpg")), sheet, [cv2.IMWRITE_JPEG_QUALITY, 85])
