"""Reads the true product of each frame, where someone wrote it down.

A video `shelf.avi` has its truth in `shelf.avi.truth.csv`, header `frame,label`, frames counted from 0. A photo has it
in the folder around it, where that folder has a product's name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable
from pathlib import Path

from edgebcnn.atomic import write_bytes
from edgebcnn.errors import DataError
from edgebcnn.untrusted.files import csv_of, read_text, refusing, some_cells, whole_number

HEADER = ["frame", "label"]


def truth_path(video: Path) -> Path:
    """Where the truth of `video` is kept: `<video>.truth.csv` beside it."""
    return video.with_name(f"{video.name}.truth.csv")


def write_truth(video: Path, labels: Iterable[str]) -> None:
    """Writes the truth of `video`, one label a frame from frame 0.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([HEADER, *enumerate(labels)])
    write_bytes(truth_path(video), text.getvalue().encode())


def video_truth(video: Path, labels: Collection[str]) -> dict[int, str]:
    """Label by frame; empty where the video has no truth file.

    Raises:
        DataError: a row is malformed or repeated, or names a label that the bundle lacks.
    """
    file = truth_path(video)
    if not file.exists():
        return {}
    with refusing(file, DataError, remedy="write it as UTF-8 CSV with the columns frame,label"):
        rows = list(csv_of(read_text(file)))
    if not rows or rows[0][1] != HEADER:
        raise DataError(f"{file}, line 1: the header must be frame,label")
    truth: dict[int, str] = {}
    for line, row in rows[1:]:
        frame, label = _checked_row(row, labels, where=f"{file}, line {line}")
        if frame in truth:
            raise DataError(f"{file}, line {line}: frame {frame} is there twice, remove one")
        truth[frame] = label
    return truth


def photo_truth(photo: Path, labels: Collection[str]) -> str | None:
    """Name of the nearest folder around `photo` that is a label, or None.

    Args:
        photo: Path below the folder that was asked for; folders above that one do not count.
        labels: Names of the bundle's products.
    """
    return next((folder.name for folder in photo.parents if folder.name in labels), None)


def _checked_row(row: list[str], labels: Collection[str], *, where: str) -> tuple[int, str]:
    try:
        number, label = row
        frame = whole_number(number)
    except ValueError:
        raise DataError(f"{where}: expected a frame number and a label, found {some_cells(row)}: correct it") from None
    if label not in labels:
        raise DataError(f"{where}: the bundle has no product {label!r}, correct the name or export with it")
    return frame, label
