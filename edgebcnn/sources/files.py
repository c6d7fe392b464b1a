"""Reads videos and folders of photos frame by frame, without dropping any."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np

from edgebcnn.camera_view import AS_IT_IS, View
from edgebcnn.errors import CameraError, UnreadablePhotoError
from edgebcnn.preprocessing import PHOTO_SUFFIXES, read_photo
from edgebcnn.progress import Reporter
from edgebcnn.sources.frames import Done, Frame, Source
from edgebcnn.sources.truth import photo_truth, video_truth

_NUMBER = re.compile(r"%0?(\d*)d")


class PhotoFolder(Source):
    """Photos of one folder and its subfolders, one after the other.

    Args:
        name: What was asked for.
        photos: Their paths, see `photos_below` and `photos_like`.
        root: The folder that their names are relative to.
        labels: Names of the bundle's products.
    """

    def __init__(
        self,
        name: str,
        photos: Sequence[Path],
        *,
        root: Path,
        labels: Collection[str],
        reporter: Reporter,
        view: View = AS_IT_IS,
    ) -> None:
        super().__init__(name, reporter, total=len(photos), view=view)
        self._root, self._photos, self._labels = root, photos, labels

    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields every photo; one that cannot be read is named, counted and passed over."""
        for index, path in enumerate(self._photos):
            if done():
                return
            try:
                image = read_photo(path)
            except UnreadablePhotoError as error:
                self.unreadable += 1
                self._reporter.say(f"skipped {error}")
                continue
            photo = path.relative_to(self._root)
            truth = photo_truth(self._root.name / photo, self._labels)
            yield Frame(index, self._view.upright(image), time.monotonic(), photo.as_posix(), truth)
        if self.unreadable == len(self._photos):
            raise CameraError(f"none of the {len(self._photos)} photos of {self.name} can be read: replace them")


class VideoFile(Source):
    """Every frame of a video file, in order.

    Raises:
        CameraError: the file is not a video that OpenCV can read.
        DataError: its truth file is malformed.
    """

    def __init__(self, path: Path, labels: Collection[str], *, reporter: Reporter, view: View = AS_IT_IS) -> None:
        # Absolute, because FFmpeg takes what stands before a colon for a protocol.
        self._capture = cv2.VideoCapture(os.path.abspath(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise CameraError(f"{path} is not a video that OpenCV can read, or is cut short: convert or copy it again")
        self._truth = video_truth(path, labels) if labels else {}
        promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        super().__init__(str(path), reporter, total=promised if promised > 0 else None, view=view)
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS)) or None

    def size_px(self) -> tuple[int, int] | None:
        """Width and height of its frames, turned; None where its header does not say."""
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        width_px, height_px = (int(self._capture.get(side)) for side in sides)
        if not (width_px and height_px):
            return None
        return (height_px, width_px) if self._view.rotate in (90, 270) else (width_px, height_px)

    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields every frame; frames that the header promises and that do not come are counted as unreadable."""
        index = 0
        while not done():
            ok, image = self._capture.read()
            if not ok:
                self._count_missing(index)
                return
            upright = self._view.upright(np.asarray(image, np.uint8))
            yield Frame(index, upright, time.monotonic(), truth=self._truth.get(index))
            index += 1

    def close(self) -> None:
        """Closes the file."""
        self._capture.release()

    def _count_missing(self, read: int) -> None:
        if not read:
            raise CameraError(f"no frame of {self.name} can be read: convert the video or copy it again")
        self.unreadable = max(0, (self.total or 0) - read)
        if self.unreadable:
            self._reporter.say(
                f"{self.name} promises {self.total} frames and {read} can be read: it is damaged, and frame numbers "
                "may be shifted"
            )


def photos_below(folder: Path) -> list[Path]:
    """Photos at any depth, in the order of their paths; hidden ones are passed over, as in training.

    Raises:
        CameraError: there is none, or a folder cannot be read.
    """

    def refuse(error: OSError) -> NoReturn:
        raise CameraError(f"{error.filename} cannot be read ({error.strerror}): allow reading it") from error

    names = (Path(parent, name) for parent, _, files in os.walk(folder, onerror=refuse) for name in files)
    photos = sorted(path for path in names if _is_photo(path) and not path.name.startswith("."))
    if not photos:
        raise CameraError(f"there is no photo in {folder}: put {', '.join(sorted(PHOTO_SUFFIXES))} files there")
    return photos


def is_pattern(spec: str) -> bool:
    """Whether that means several files: `shelf/*.jpg`, `shelf/**/*.jpg` or `shelf/%04d.jpg`."""
    return glob.has_magic(spec) or _NUMBER.search(Path(spec).name) is not None


def photos_like(pattern: str) -> list[Path]:
    """Photos that a pattern names: those of `*`, `?`, `[]` and `**` in the order of their paths, `%04d` by number.

    Raises:
        CameraError: there is none.
    """
    number = _NUMBER.search(Path(pattern).name)
    found = _numbered(Path(pattern), number) if number else sorted(map(Path, glob.glob(pattern, recursive=True)))
    photos = [path for path in found if _is_photo(path) and path.is_file()]
    if not photos:
        raise CameraError(f"no photo has a name like {pattern}: correct the pattern, in quotes")
    return photos


def _numbered(pattern: Path, number: re.Match[str]) -> list[Path]:
    before, after = map(re.escape, (pattern.name[: number.start()], pattern.name[number.end() :]))
    name = re.compile(f"{before}([0-9]{{{number[1] or 1},}}){after}")
    by_number = {int(match[1]): path for path in pattern.parent.glob("*") if (match := name.fullmatch(path.name))}
    return [path for _, path in sorted(by_number.items())]


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES
