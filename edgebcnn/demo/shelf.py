"""Draws the labelled photos and the video of the demo, without a camera or a download.

A photo is a new scene in one pose; the video keeps a scene while the camera moves, and cuts to the next product.

    folder/train/<product>/0001.jpg ...     val/ and test/ alike
    folder/labels.csv                       name,gtin,coarse
    folder/shelf.json                       what was drawn; a folder that has it is whole

Every photo has a random stream of its own, so that the same seed draws the same pixels in any order (with the same
OpenCV on the same kind of processor).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import json_bytes, replacing_file, replacing_folder, storage_errors
from edgebcnn.demo.products import PRODUCTS, Product
from edgebcnn.demo.scene import PHOTO_PX, photograph, random_pose, random_scene
from edgebcnn.errors import DataError, StorageError
from edgebcnn.sources.truth import truth_path, write_truth
from edgebcnn.untrusted.files import read_json

VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX = 320, 240
LABELS_NAME = "labels.csv"
MARKER_NAME = "shelf.json"

_DRAWING_VERSION = 1  # raise it when the same seed draws other pixels
_SPLITS = ("train", "val", "test")
_VIDEO_STREAM = len(_SPLITS)


@dataclass(frozen=True)
class ShelfSizes:
    """Photos per product in each split."""

    train: int = 50
    val: int = 10
    test: int = 20


DEFAULT_SIZES = ShelfSizes()


def draw_photo(product: Product, rng: np.random.Generator) -> NDArray[np.uint8]:
    """One photo of a product on a shelf, as the sensor sees it before JPEG.

    Returns:
        `(PHOTO_PX, PHOTO_PX, 3)` uint8 BGR.
    """
    scene = random_scene(product, rng, frame_px=PHOTO_PX)
    return photograph(scene, random_pose(product, rng), size_px=(PHOTO_PX, PHOTO_PX), rng=rng)


def draw_shelf(
    folder: Path,
    *,
    seed: int = 0,
    sizes: ShelfSizes = DEFAULT_SIZES,
    on_photo: Callable[[], None] = lambda: None,
) -> None:
    """Draws all photos of the demo shelf, or nothing where `folder` already holds this very shelf.

    Args:
        folder: Appears when the last photo is drawn; another drawn shelf in its place is replaced.
        seed: From 0.
        sizes: Photos per product.
        on_photo: Called after every photo, `len(PRODUCTS) * (train + val + test)` times.

    Raises:
        DataError: `folder` holds something that was not drawn here, or the seed or a size is negative.
        StorageError: the disk is full, or the folder cannot be written.
    """
    _check_not_negative(seed=seed, **asdict(sizes))
    marker = {"drawing_version": _DRAWING_VERSION, "seed": seed, "sizes": asdict(sizes)}
    if _is_drawn(folder, marker):
        return
    with replacing_folder(folder) as part:
        for stream, split in enumerate(_SPLITS):
            for product in PRODUCTS:
                (part / split / product.name).mkdir(parents=True)
                for number in range(1, getattr(sizes, split) + 1):
                    rng = _stream(seed, stream, int(product.gtin), number)
                    photo = draw_photo(product, rng)
                    (part / split / product.name / f"{number:04}.jpg").write_bytes(_jpeg(photo, rng))
                    on_photo()
        (part / LABELS_NAME).write_bytes(_labels_csv())
        (part / MARKER_NAME).write_bytes(json_bytes(marker))


def draw_video(
    path: Path,
    *,
    seed: int = 0,
    seconds_per_product: float = 1.5,
    fps: int = 15,
    on_frame: Callable[[], None] = lambda: None,
) -> None:
    """Draws a video (Motion JPEG) that looks at one product after another, and what it shows in each frame.

    The camera moves smoothly within a product and cuts to the next; the order of the products depends on the seed.
    Its truth, `<path>.truth.csv`, has the columns `frame,label`, a row per frame, counted from 0. It is written last: a
    video without it is unfinished.

    Args:
        path: Ends in `.avi`.
        seed: From 0; the video shares no random stream with the photos of the same seed.
        seconds_per_product: At least one frame each.
        fps: Frames per second.
        on_frame: Called after every frame.

    Raises:
        DataError: the seed is negative, a length is not positive, or the path does not end in `.avi`.
        StorageError: the disk is full, the file cannot be written, or OpenCV cannot write Motion JPEG.
    """
    _check_not_negative(seed=seed)
    if path.suffix != ".avi":
        raise DataError(f"cannot draw a video to {path}: give a name that ends in .avi")
    if fps <= 0 or seconds_per_product <= 0:
        raise DataError(f"cannot draw a video of {seconds_per_product} s a product at {fps} fps: give more than 0")
    order = [PRODUCTS[i] for i in _stream(seed, _VIDEO_STREAM).permutation(len(PRODUCTS))]
    frames_each = max(1, round(seconds_per_product * fps))
    with storage_errors(path):
        truth_path(path).unlink(missing_ok=True)
    with replacing_file(path) as part:
        _write_video(part, _video_frames(order, seed, frames_each), fps, on_frame)
        _check_frames(part, path, frames_each * len(order))
    write_truth(path, (product.name for product in order for _ in range(frames_each)))


def _is_drawn(folder: Path, marker: dict[str, object]) -> bool:
    with storage_errors(folder):
        found = _read_marker(folder / MARKER_NAME)
        if not found and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise DataError(f"{folder} exists and is not a drawn shelf: choose another folder or remove it")
    return found == marker


def _read_marker(file: Path) -> dict[str, object] | None:
    """The content of the marker; None where this module wrote none."""
    try:
        marker = read_json(file) if file.is_file() else None
    except ValueError:
        return None
    return marker if isinstance(marker, dict) and "drawing_version" in marker else None


def _check_not_negative(**values: int) -> None:
    for name, value in values.items():
        if value < 0:
            raise DataError(f"cannot draw a shelf with {name} {value}: give 0 or more")


def _stream(*place: int) -> np.random.Generator:
    return np.random.default_rng(place)


def _jpeg(photo: NDArray[np.uint8], rng: np.random.Generator) -> bytes:
    _, encoded = cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 93))])
    return encoded.tobytes()


def _labels_csv() -> bytes:
    text = io.StringIO()
    rows = ((product.name, product.gtin, product.coarse) for product in PRODUCTS)
    csv.writer(text, lineterminator="\n").writerows([("name", "gtin", "coarse"), *rows])
    return text.getvalue().encode()


def _video_frames(order: Sequence[Product], seed: int, frames_each: int) -> Iterator[NDArray[np.uint8]]:
    for product in order:
        rng = _stream(seed, _VIDEO_STREAM, int(product.gtin))
        scene = random_scene(product, rng, frame_px=VIDEO_HEIGHT_PX)
        start, end = random_pose(product, rng), random_pose(product, rng)
        for share in (1 - np.cos(np.linspace(0, np.pi, frames_each))) / 2:
            pose = start.towards(end, float(share))
            yield photograph(scene, pose, size_px=(VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX), rng=rng)


def _write_video(part: Path, frames: Iterable[NDArray[np.uint8]], fps: int, on_frame: Callable[[], None]) -> None:
    writer = cv2.VideoWriter(str(part), cv2.VideoWriter.fourcc(*"MJPG"), fps, (VIDEO_WIDTH_PX, VIDEO_HEIGHT_PX))
    try:
        if not writer.isOpened():
            raise StorageError(f"OpenCV cannot write Motion JPEG to {part}: choose a path that you can write")
        for frame in frames:
            writer.write(frame)
            on_frame()
    finally:
        writer.release()


def _check_frames(part: Path, path: Path, expected: int) -> None:
    """Counts the frames, because OpenCV silently drops those that do not fit on the disk."""
    capture = cv2.VideoCapture(str(part))
    count = 0
    while capture.grab():
        count += 1
    capture.release()
    if count != expected:
        raise StorageError(f"only {count} of {expected} frames of {path} were written: free disk space and try again")
