"""Measures how small a face `run --blur-faces` still finds, what else it blurs, and how long that takes.

    python benchmarks/blurred_faces.py face_detection_full_range.tflite DIR

Photos in DIR, which should show no people, are made frames of 640 × 480. Into each a portrait is put that matplotlib
ships (Grace Hopper, in the public domain): at a random place where the middle of the face is in the frame, turned by up
to 20 degrees, mirrored or not, at 40-120 % of its light. Then faces are looked for in the photos alone.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgebcnn.field.blur import blurred
from edgebcnn.field.faces import FaceFinder, looks
from edgebcnn.preprocessing import PHOTO_SUFFIXES, Preprocessing, read_photo
from edgebcnn.report.agreement import Proportion

HEIGHT_PX, WIDTH_PX = 480, 640
FACE_PX = (16, 20, 24, 32, 48, 80, 160)
FACE = np.array([265.0, 240.0])  # its middle in the portrait
FACE_HEIGHT_PX = 205.0
PERSON_PX = 430  # rows of the portrait down to the shoulders

_FRAME = Preprocessing(height_px=HEIGHT_PX, width_px=WIDTH_PX)


def frame_of(photo: Path) -> NDArray[np.uint8]:
    """`(480, 640, 3)` uint8 BGR."""
    return np.ascontiguousarray(_FRAME.apply(read_photo(photo))[..., ::-1])


def with_face(
    frame_bgr: NDArray[np.uint8], face_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The frame with the portrait in it, and where the middle of its face is."""
    portrait = cv2.imread(str(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"))
    assert portrait is not None
    person = portrait[:PERSON_PX].astype(np.float32)
    scale = face_px / FACE_HEIGHT_PX
    if scale < 0.5:
        person = cv2.GaussianBlur(person, (0, 0), 0.35 / scale)  # warping alone would skip pixels
    place = rng.uniform([0.0, 0.0], [WIDTH_PX, HEIGHT_PX])
    turn = cv2.getRotationMatrix2D(FACE.tolist(), rng.uniform(-20, 20), scale)
    if rng.random() < 0.5:
        turn[:, 2] += turn[:, 0] * 2 * FACE[0]
        turn[:, 0] *= -1
    turn[:, 2] += place - FACE
    lit = np.clip(person * rng.uniform(0.4, 1.2), 0, 255)
    pasted = cv2.warpAffine(lit, turn, (WIDTH_PX, HEIGHT_PX))
    mask = cv2.warpAffine(np.ones(person.shape[:2], np.float32), turn, (WIDTH_PX, HEIGHT_PX))[..., None]
    return (frame_bgr * (1 - mask) + pasted).clip(0, 255).astype(np.uint8), place


def is_found(boxes: NDArray[np.float64], place: NDArray[np.float64]) -> bool:
    """Whether a box holds the middle of the face."""
    return bool(((boxes[:, :2] < place) & (place < boxes[:, 2:])).all(axis=1).any())


def found_table(finder: FaceFinder, frames: list[NDArray[np.uint8]], rng: np.random.Generator) -> Table:
    """By the height of the face: how often it is found, and found again once it was blurred."""
    table = Table(title=f"One portrait in {len(frames)} photos", title_justify="left")
    for heading in ("face, px of 480", "found", "found once blurred"):
        table.add_column(heading)
    for face_px in FACE_PX:
        found = again = 0
        for frame in frames:
            picture, place = with_face(frame, face_px, rng)
            boxes = finder.boxes(picture)
            if is_found(boxes, place):
                found += 1
                again += is_found(finder.boxes(blurred(picture, boxes)), place)
        table.add_row(str(face_px), str(Proportion(found, len(frames))), str(again))
    return table


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--photos", "count", default=100, show_default=True, help="How many photos of DIR.")
def main(model: Path, folder: Path, count: int) -> None:
    """Prints what is found, what else is blurred, and how long one frame takes on one thread."""
    cv2.setNumThreads(1)
    rng, console, finder = np.random.default_rng(0), Console(), FaceFinder(model)
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
    frames = [frame_of(files[row]) for row in rng.permutation(len(files))[:count]]
    console.print(found_table(finder, frames, rng))
    blurs = [(blurred(frame, finder.boxes(frame)) != frame).any(axis=2).mean() for frame in frames]
    hit = Proportion(int(np.count_nonzero(blurs)), len(blurs))
    console.print(f"photos without a face of which something is blurred: {hit}; of all pixels {np.mean(blurs):.2%}")
    for size in ((480, 640), (1080, 1920)):
        large = [cv2.resize(frame, size[::-1]) for frame in frames[:20]]
        times_ms = []
        for frame in large:
            start_s = time.thread_time()  # the detector computes in this thread, and others may need the cores
            finder.boxes(np.asarray(frame, np.uint8))
            times_ms.append(1000 * (time.thread_time() - start_s))
        console.print(
            f"{size[1]} × {size[0]}: {len([*looks(*size)])} looks, {np.median(times_ms):.0f} ms of a core (median)"
        )


if __name__ == "__main__":
    main()
