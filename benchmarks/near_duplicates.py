"""How many changed copies of a photo are found as near-duplicates, how many other photos are taken for such, how fast?

    python benchmarks/near_duplicates.py DIR

Of each photo in DIR a copy is made that is 5-50 % smaller, up to 20 % darker or brighter, and saved as JPEG of quality
40-90; and a second one that also lost up to 2 % at each edge.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Silent
from edgebcnn.train.dataset import read_photos
from edgebcnn.train.layouts import read_layout
from edgebcnn.train.near_duplicates import BITS, MAX_DISTANCE, find_pairs
from edgebcnn.train.photo_facts import facts_of

DISTANCES = (16, 24, 32, 40, 48, 64)
SEARCHED = (10_000, 100_000)


def changed(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A smaller, darker or brighter copy that went through JPEG."""
    scale = rng.uniform(0.5, 0.95)
    smaller = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    lit = cv2.convertScaleAbs(smaller, alpha=rng.uniform(0.8, 1.2), beta=rng.uniform(-20, 20))
    _, jpeg = cv2.imencode(".jpg", lit, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 91))])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)


def cropped(photo: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy without up to 2 % at each edge."""
    height, width = photo.shape[:2]
    top, bottom = (rng.uniform(0, 0.02, 2) * height).astype(int)
    left, right = (rng.uniform(0, 0.02, 2) * width).astype(int)
    return photo[top : height - bottom, left : width - right]


def fingerprints_of(path: Path) -> NDArray[np.bool_]:
    """`(3, BITS)`: of the photo, its changed copy, and a copy that is changed and cropped."""
    rng = np.random.default_rng(list(path.name.encode()))
    photo = read_photo(path)
    copies = (photo, changed(photo, rng), cropped(changed(photo, rng), rng))
    return np.stack([facts_of(copy).fingerprint for copy in copies])


def search_time(count: int) -> str:
    """How long the search takes in random fingerprints."""
    fingerprints = np.random.default_rng(0).random((count, BITS)) < 0.5
    start, start_of_process = time.monotonic(), time.process_time()
    find_pairs(fingerprints, MAX_DISTANCE, reporter=Silent())
    elapsed_s, processor_s = time.monotonic() - start, time.process_time() - start_of_process
    return f"search in {count:,} photos: {elapsed_s:.1f} s, {processor_s:.1f} s of processor time"


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Measures near-duplicates on the photos of DIR."""
    splits = read_layout(folder).splits
    photos = [(split, photo) for split, of_split in splits.items() for photo in of_split]
    found, _ = read_photos([photo.path for _, photo in photos], fingerprints_of)
    prints = np.stack([found[photo.path] for _, photo in photos])
    pairs = find_pairs(prints[:, 0], max(DISTANCES), reporter=Silent())
    first, second, distance = pairs.T
    product = np.array([photo.class_id for _, photo in photos])
    split = np.array([split for split, _ in photos])
    other_product = product[first] != product[second]
    other_split = split[first] != split[second]
    copy, crop = ((prints[:, 0] != prints[:, version]).sum(axis=1) for version in (1, 2))
    table = Table(title=f"{len(photos)} photos in {folder}")
    columns = ("bits", "copies found, %", "cropped copies found, %", "pairs, two products", "two splits", "one of each")
    for column in columns:
        table.add_column(column, justify="right")
    for limit in DISTANCES:
        shares = [f"{100 * (distances <= limit).mean():.2f}" for distances in (copy, crop)]
        close = distance <= limit
        counts = [(close & which).sum() for which in (other_product, other_split, ~other_product & ~other_split)]
        table.add_row(str(limit), *shares, *map(str, counts))
    Console().print(table, *map(search_time, SEARCHED), sep="\n")


if __name__ == "__main__":
    main()
