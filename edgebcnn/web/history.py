"""Keeps the changes on a shelf, with a small image of each slot after its new state settled.

The newest changes are kept in memory and, where there is a folder for them, on the disk, so that they outlive the run:

    DIR/history.jsonl       a line per change, oldest first
    DIR/RUN-NUMBER.jpg      the slot as it was when that state settled

A change is shown with the picture of the one before it as "before". What stands in the way of a slot may be a person:
no picture of an occluded slot is kept.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebcnn.atomic import replacing_file, storage_errors
from edgebcnn.errors import StorageError
from edgebcnn.shelf.watch import SlotState
from edgebcnn.worker import WhenFull, Worker

if TYPE_CHECKING:
    from edgebcnn.loop.shelf_reading import ShelfReading
    from edgebcnn.sources.frames import Frame

MAX_CHANGES = 500  # a day of a busy shelf, and about 3 MB of pictures
MAX_SHOWN = 100
MAX_FILE_BYTES = 4 << 20  # of history.jsonl, far more than the changes that are kept need
PICTURE_PX = 200
MARGIN = 0.08  # around a slot, as a share of its sides: a pack may stick out
JPEG_QUALITY = 80
WAITING = 64  # pictures of changes that settle at once, when a light goes on

FILE_NAME = "history.jsonl"
_ID = r"^[0-9a-f]{4,32}-[0-9]{1,9}$"


class Change(BaseModel):
    """A state of a slot that settled."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: str = Field(pattern=_ID)
    time: str
    shelf: str
    slot: str
    state: str
    previous: str | None
    expected: str
    product: str | None
    score: float | None
    has_picture: bool


@dataclass(frozen=True, eq=False)
class _Settled:
    change: Change
    crop_bgr: NDArray[np.uint8] | None


class History:
    """The newest changes of a shelf; safe to use from any thread.

    Args:
        run: Id of the run, which is the first part of every change's id.
        outlines: Corners of each slot by shelf and name, in shares of the frame.
        folder: Where changes and pictures are kept; None keeps them in memory alone.
        on_failure: Called with the reason when they cannot be written.

    Raises:
        StorageError: the folder cannot be written or read.
    """

    def __init__(
        self,
        run: str,
        outlines: Mapping[tuple[str, str], Sequence[tuple[float, float]]],
        *,
        folder: Path | None,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._run, self._outlines, self._folder, self._on_failure = run, outlines, folder, on_failure
        self._changes: deque[Change] = deque(_read(folder) if folder else (), maxlen=MAX_CHANGES)
        self._pictures: dict[str, bytes] = {}
        self._number = 0
        if folder:
            self._rewrite()
        self._worker = Worker("web history", self._keep, capacity=WAITING, when_full=WhenFull.DROP_OLDEST)

    def take(self, frame: Frame, reading: ShelfReading) -> None:
        """Records the states that settled with a frame; the loop's thread calls it."""
        for each in reading.changes:
            now = each.now
            if now.state is None:
                continue
            shown = now.state is not SlotState.OCCLUDED
            outline = self._outlines.get((now.shelf, now.slot))
            crop_bgr = _cut(frame.image_bgr, outline) if shown and outline else None
            change = Change(
                id=f"{self._run}-{self._number}",
                time=reading.time,
                shelf=now.shelf,
                slot=now.slot,
                state=now.state.value,
                previous=each.previous.value if each.previous else None,
                expected=now.expected.name,
                product=now.product.name if now.product else None,
                score=now.score,
                has_picture=crop_bgr is not None,
            )
            self._number += 1
            self._worker.put(_Settled(change, crop_bgr))

    @property
    def newest(self) -> str | None:
        """Id of the newest change, by which a client sees that there is another."""
        return self._changes[-1].id if self._changes else None

    def changes(self, *, shelf: str = "", slot: str = "", state: str = "") -> list[dict[str, Any]]:
        """Returns the newest changes first, `MAX_SHOWN` at most, each with the id of its pictures.

        Args:
            shelf: Only this shelf's; all where empty.
            slot: Only this slot's.
            state: Only changes to this state.
        """
        pictures: dict[tuple[str, str], str] = {}
        found: deque[dict[str, Any]] = deque(maxlen=MAX_SHOWN)
        for change in tuple(self._changes):
            place = change.shelf, change.slot
            before, after = pictures.get(place), change.id if change.has_picture else None
            if after:
                pictures[place] = after
            wanted = ((shelf, change.shelf), (slot, change.slot), (state, change.state))
            if all(asked in ("", known) for asked, known in wanted):
                found.append({**change.model_dump(exclude={"has_picture"}), "before": before, "after": after})
        return [*reversed(found)]

    def picture(self, change: str) -> bytes | None:
        """Returns a change's image as JPEG; None where there is none."""
        if change in self._pictures:
            return self._pictures[change]
        if self._folder is None or all(each.id != change for each in tuple(self._changes)):
            return None
        try:
            return (self._folder / f"{change}.jpg").read_bytes()
        except OSError:
            return None

    def close(self) -> None:
        """Finishes pending writes, within a short time."""
        self._worker.start_to_close()

    def _keep(self, settled: _Settled) -> None:
        change = settled.change
        oldest = self._changes[0] if len(self._changes) == MAX_CHANGES else None
        jpeg = _jpeg(settled.crop_bgr) if settled.crop_bgr is not None else None
        is_written = False
        try:
            is_written = self._write(change, jpeg, oldest)
        except StorageError as error:  # the changes of this run are still shown
            self._on_failure(error)
        if jpeg is not None and not is_written:
            self._pictures[change.id] = jpeg
        self._changes.append(change)
        if oldest:
            self._pictures.pop(oldest.id, None)

    def _write(self, change: Change, jpeg: bytes | None, oldest: Change | None) -> bool:
        """Writes a change, where there is a folder for it, and returns whether there is."""
        if self._folder is None:
            return False
        if jpeg is not None:
            _write_private(self._folder / f"{change.id}.jpg", jpeg)
        file = self._folder / FILE_NAME
        with storage_errors(file):
            with open(file, "ab", opener=_private) as lines:
                lines.write(change.model_dump_json().encode() + b"\n")
            if oldest:
                (self._folder / f"{oldest.id}.jpg").unlink(missing_ok=True)
            too_large = file.stat().st_size > MAX_FILE_BYTES // 2
        if too_large:
            self._rewrite()
        return True

    def _rewrite(self) -> None:
        """Writes the changes that are kept, and removes the pictures of others."""
        assert self._folder is not None
        with storage_errors(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lines = [each.model_dump_json().encode() + b"\n" for each in self._changes]
            _write_private(self._folder / FILE_NAME, b"".join(lines))
            known = {each.id for each in self._changes}
            for picture in self._folder.glob("*-*.jpg"):
                if picture.stem not in known:
                    picture.unlink(missing_ok=True)


def _read(folder: Path) -> list[Change]:
    """The changes of an earlier run; a line that a kill has cut is passed over."""
    file = folder / FILE_NAME
    if not file.is_file():
        return []
    with storage_errors(file), file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - MAX_FILE_BYTES))
        lines = stream.read(MAX_FILE_BYTES).splitlines()
    found = []
    for line in lines:
        try:
            found.append(Change.model_validate_json(line))
        except ValidationError:
            continue
    return found[-MAX_CHANGES:]


def _write_private(path: Path, content: bytes) -> None:
    """Writes a file that no other user of this machine can read."""
    with replacing_file(path) as part:
        part.touch(mode=0o600)
        part.write_bytes(content)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _cut(frame_bgr: NDArray[np.uint8], outline: Sequence[tuple[float, float]]) -> NDArray[np.uint8]:
    """A copy of the slot's bounding box and a little around it, `(h, w, 3)`."""
    size = np.asarray(frame_bgr.shape[1::-1])
    corners = np.asarray(outline) * size
    low, high = corners.min(axis=0), corners.max(axis=0)
    margin = MARGIN * (high - low)
    left, top = np.maximum(low - margin, 0).astype(int)
    right, bottom = np.minimum(high + margin, size).astype(int)
    return frame_bgr[top : max(bottom, top + 1), left : max(right, left + 1)].copy()


def _jpeg(crop_bgr: NDArray[np.uint8]) -> bytes:
    shrink = PICTURE_PX / max(crop_bgr.shape[:2])
    if shrink < 1:
        crop_bgr = np.asarray(cv2.resize(crop_bgr, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8)
    _, jpeg = cv2.imencode(".jpg", crop_bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return jpeg.tobytes()
