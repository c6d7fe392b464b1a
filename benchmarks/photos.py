"""Measures how well and how fast `edgebcnn data inspect` finds near-duplicates and blurred photos.

    python benchmarks/photos.py DIR

Of each photo in DIR a copy is made that is 5-50 % smaller, up to 20 % darker or brighter, and saved as JPEG of quality
40-90; a second one that also lost up to 2 % at each edge; and a third that is blurred (standard deviation 2 px, where
the shorter side has 256 px).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgebcnn.images.dataset import read_photos
from edgebcnn.images.facts import SHARPNESS_PX, PhotoFacts, facts_of
from edgebcnn.images.inspection import BLURRED_SHARE
from edgebcnn.images.layouts import read_layout
from edgebcnn.images.near_duplicates import BITS, MAX_DISTANCE, find_pairs
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Silent

DISTANCES = (16, 24, 32, 40, 48, 64)
FARTHEST = 96
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


def blurred(photo: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A copy that was out of focus."""
    sigma_px = 2 * max(1.0, min(photo.shape[:2]) / SHARPNESS_PX)
    return np.asarray(cv2.GaussianBlur(photo, (0, 0), sigma_px), np.uint8)


def facts_of_copies(path: Path) -> tuple[PhotoFacts, ...]:
    """Of the photo, its changed copy, one that is changed and cropped, and one that is blurred."""
    rng = np.random.default_rng(list(path.name.encode()))
    photo = read_photo(path)
    copies = (photo, changed(photo, rng), cropped(changed(photo, rng), rng), blurred(photo))
    return tuple(facts_of(copy) for copy in copies)


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
    """Measures on the photos of DIR."""
    splits = read_layout(folder).splits
    photos = [(split, photo) for split, of_split in splits.items() for photo in of_split]
    facts, _ = read_photos([photo.path for _, photo in photos], facts_of_copies)
    copies = [facts[photo.path] for _, photo in photos]
    product = np.array([photo.class_id for _, photo in photos])
    split = np.array([split for split, _ in photos])
    console = Console()
    console.print(near_duplicate_table(copies, product, split, title=f"{len(photos)} photos in {folder}"))
    console.print(blur_line(copies, product))
    console.print(*map(search_time, SEARCHED), sep="\n")


def near_duplicate_table(
    copies: Sequence[Sequence[PhotoFacts]], product: NDArray[np.int64], split: NDArray[np.str_], *, title: str
) -> Table:
    """Copies found, and other pairs taken for near-duplicates, by distance."""
    original, changed_copy, cropped_copy = (
        np.stack([facts[copy].fingerprint for facts in copies]) for copy in range(3)
    )
    first, second, distance = find_pairs(original, FARTHEST, reporter=Silent()).T
    other_product, other_split = product[first] != product[second], split[first] != split[second]
    kinds = {"two products": other_product, "two splits": other_split, "one of each": ~other_product & ~other_split}
    table = Table(title=title)
    for column in ("bits", "copies found, %", "cropped copies found, %", *kinds):
        table.add_column(column, justify="right")
    for limit in DISTANCES:
        found = [100 * ((original != copy).sum(axis=1) <= limit).mean() for copy in (changed_copy, cropped_copy)]
        taken = [((distance <= limit) & kind).sum() for kind in kinds.values()]
        table.add_row(str(limit), *(f"{share:.2f}" for share in found), *map(str, taken))
    closest = [distance[kind].min(initial=FARTHEST + 1) for kind in kinds.values()]
    table.add_row("closest", "", "", *map(str, closest))
    return table


def blur_line(copies: Sequence[Sequence[PhotoFacts]], product: NDArray[np.int64]) -> str:
    """How many photos, and how many of their blurred copies, are called blurred."""
    original, blurred_copy = (np.array([facts[copy].sharpness for facts in copies]) for copy in (0, 3))
    usual = np.array([np.median(original[product == class_id]) for class_id in product])
    shares = [100 * (sharpness < BLURRED_SHARE * usual).mean() for sharpness in (original, blurred_copy)]
    return "called blurred: {:.2f} % of the photos, {:.2f} % of their blurred copies".format(*shares)


if __name__ == "__main__":
    main()
