"""Edits a slots file on behalf of a person who draws, and keeps the fields that the page does not show."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from edgebcnn.atomic import write_bytes
from edgebcnn.bundle import Label
from edgebcnn.errors import DataError, StorageError
from edgebcnn.shelf.slots import Shelf, Slot, SlotMap, SlotsFile, parse_slots
from edgebcnn.untrusted.files import MAX_TOML_BYTES, read_bytes

_PX_DIGITS, _SHARE_DIGITS = 2, 6  # both finer than a pixel, and short enough to be read


@dataclass(frozen=True)
class Drawn:
    """What a slots file says, for somebody who draws.

    Attributes:
        shelves: Its shelves, in pixels of the picture; none where there is no file yet.
        version: Tells one content of the file from another; None where there is no file.
        has_comments: Whether it holds some, which saving loses.
    """

    shelves: tuple[Shelf, ...] = ()
    version: str | None = None
    has_comments: bool = False


class SlotsEditor:
    """A slots file, as it is drawn on pictures of one size.

    Args:
        path: The file, which need not be there.
        width_px: Of the picture.
        height_px: Of the picture.
        labels: Products of the bundle; where there are none, products are not checked.
    """

    def __init__(self, path: Path, *, width_px: int, height_px: int, labels: Sequence[Label] = ()) -> None:
        self.path = path
        self._size_px = width_px, height_px
        self._labels = labels
        self._saving = Lock()

    def load(self) -> Drawn:
        """What the file says now.

        Raises:
            DataError: it is no slots file, or was drawn on a picture of another aspect.
        """
        content = self._content()
        if content is None:
            return Drawn()
        slots = parse_slots(self.path, content)
        scale = slots.scale(width_px=self._size_px[0], height_px=self._size_px[1])
        # A `#` in a name counts too: better to warn once too often.
        return Drawn(tuple(_scaled(slots.file.shelf, *scale, digits=9)), _version(content), "#" in slots.text)

    def save(self, shelves: Sequence[Shelf], *, version: str | None) -> str:
        """Writes shelves that were drawn; rules and whatever else the file says stay.

        Args:
            shelves: In pixels of the picture.
            version: Of the file on which they were drawn.

        Returns:
            The file's new version.

        Raises:
            SlotsError: something was drawn that cannot be, or the bundle lacks a product; nothing is written.
            StorageError: the file has changed since, or cannot be written.
        """
        with self._saving:
            before = self._content()
            if _version(before) != version:
                raise StorageError(f"{self.path} has changed since it was loaded, and is left as it is: load it again")
            after = as_toml(self._replaced(before, shelves)).encode()
            self._check(parse_slots(self.path, after))
            write_bytes(self.path, after)
            return str(_version(after))

    def _content(self) -> bytes | None:
        try:
            return read_bytes(self.path, max_bytes=MAX_TOML_BYTES)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DataError(f"cannot read the slots file {self.path} ({error.strerror}): check the path") from error

    def _replaced(self, content: bytes | None, shelves: Sequence[Shelf]) -> SlotsFile:
        """The file with other shelves, in its own units; pixels are those of the picture on which they were drawn."""
        width_px, height_px = self._size_px
        known = None if content is None else parse_slots(self.path, content).file
        if known is not None and known.units == "share":
            scaled = tuple(_scaled(shelves, 1 / width_px, 1 / height_px, digits=_SHARE_DIGITS))
            return known.model_copy(update={"shelf": scaled})
        rounded = tuple(_scaled(shelves, 1, 1, digits=_PX_DIGITS))
        if known is None:
            return SlotsFile(units="px", frame_px=self._size_px, shelf=rounded)
        return known.model_copy(update={"shelf": rounded, "frame_px": self._size_px})

    def _check(self, slots: SlotMap) -> None:
        width_px, height_px = self._size_px
        slots.regions(width_px=width_px, height_px=height_px)
        if self._labels:
            slots.class_ids(self._labels)
            slots.empty_class_id(self._labels)
            slots.unknown_class_id(self._labels)


def as_toml(file: SlotsFile) -> str:
    """A slots file as text: what `load_slots` reads as the same."""
    top = file.model_dump(mode="json", exclude_none=True, exclude_unset=True)
    shelves, rules = top.pop("shelf"), top.pop("rules", {})
    lines = [*_pairs(top), *(["", "[rules]", *_pairs(rules)] if rules else [])]
    for shelf in shelves:
        slots = shelf.pop("slot")
        lines += ["", "[[shelf]]", *_pairs(shelf)]
        for slot in slots:
            lines += ["", "[[shelf.slot]]", *_pairs(slot)]
    return "\n".join([*lines, ""])


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    """TOML writes numbers and strings as JSON does, but for one character that it wants escaped."""
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _scaled(shelves: Iterable[Shelf], across: float, down: float, *, digits: int) -> Iterable[Shelf]:
    def point(x: float, y: float) -> tuple[float, float]:
        return round(x * across, digits), round(y * down, digits)

    def scaled(slot: Slot) -> Slot:
        if slot.box is not None:
            return slot.model_copy(update={"box": (*point(*slot.box[:2]), *point(*slot.box[2:]))})
        return slot.model_copy(update={"polygon": tuple(point(*corner) for corner in slot.polygon or ())})

    for shelf in shelves:
        yield shelf.model_copy(update={"slot": tuple(map(scaled, shelf.slot))})


def _version(content: bytes | None) -> str | None:
    return None if content is None else hashlib.sha256(content).hexdigest()
