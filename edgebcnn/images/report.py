"""Renders an inspection as a self-contained HTML page with the photos it is about."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import cv2
from jinja2 import Environment, StrictUndefined

from edgebcnn.atomic import write_bytes
from edgebcnn.errors import UnreadablePhotoError
from edgebcnn.images.inspection import Case, Inspection
from edgebcnn.preprocessing import read_photo

SHOWN_CASES = 24
"""Cases of a finding that are shown with photos; the others are listed by name."""

NAMED_CASES = 2000  # more would make a page that no browser scrolls; `--json` has all

_THUMBNAIL_PX = 180
_JPEG_QUALITY = 75


@dataclass(frozen=True)
class Picture:
    """One photo on the page: its path, and a `data:` URL, empty if the photo cannot be read."""

    name: str
    address: str


@dataclass(frozen=True)
class Bar:
    """One product's number of photos, by split and in total."""

    name: str
    counts: tuple[int, ...]
    total: int


def write_report(file: Path, inspection: Inspection) -> None:
    """Writes the page, complete or not at all. The photos that it shows are read again.

    Raises:
        StorageError: the disk is full, or the file cannot be written.
    """
    source = files("edgebcnn.images").joinpath("report.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    html = environment.from_string(source).render(
        inspection=inspection,
        splits=list(inspection.counts),
        bars=_bars(inspection),
        photos=sum(map(sum, inspection.counts.values())),
        pictures=lambda case: [_picture(inspection, photo) for photo in case.photos],
        named=lambda case: _named(inspection, case),
        shown=SHOWN_CASES,
        limit=NAMED_CASES,
    )
    write_bytes(file, html.encode(errors="replace"))


def _bars(inspection: Inspection) -> Sequence[Bar]:
    """Products with the most photos first."""
    columns = zip(*inspection.counts.values(), strict=True)
    bars = [Bar(label.name, counts, sum(counts)) for label, counts in zip(inspection.labels, columns, strict=True)]
    return sorted(bars, key=lambda bar: (-bar.total, bar.name))


def _picture(inspection: Inspection, photo: Path) -> Picture:
    name = inspection.name_of(photo)
    try:
        photo_bgr = read_photo(photo)
    except UnreadablePhotoError:
        return Picture(name, "")
    height, width = photo_bgr.shape[:2]
    shrink = min(1.0, _THUMBNAIL_PX / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    thumbnail = cv2.resize(photo_bgr, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", thumbnail, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return Picture(name, f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}")


def _named(inspection: Inspection, case: Case) -> str:
    return " = ".join(map(inspection.name_of, case.photos)) + (f" ({case.remark})" if case.photos else case.remark)
