"""Reads the slots file: which product belongs where in the camera image. `docs/slots.md` describes each field."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError, SlotsError
from edgebcnn.shelf.regions import Region, polygon_region
from edgebcnn.shelf.toml_lines import Place, line_of
from edgebcnn.untrusted.files import MAX_TOML_BYTES, read_bytes, text_of, toml_of

MIN_SIDE_PX = 12  # a smaller slot holds no print that could be read
_ASPECT_TOLERANCE = 0.01  # sizes that a camera offers round to whole pixels
_GTIN_DIGITS = 14  # shorter ones are the same number with zeros in front

MAX_CORNERS = 1000  # the check for crossing edges compares each with each
MAX_SLOTS = 2000  # of a file; each takes a mask of the whole frame while it is measured

Point = tuple[float, float]
Points = NDArray[np.float64]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


MIN_SCORE = 0.6
"""Score from which a product is named where the slots file has none and the bundle no lower one."""


class Rules(_Strict):
    """When a slot's state is believed.

    Attributes:
        min_score: Voted probability from which a product is named; below it the slot is unknown. None for
            `MIN_SCORE`, or the lower one that the bundle chose on photos of known products.
        margin: How much more it takes to change a settled state than to keep it, as a probability.
        settle_s: How long a new state must hold before it counts.
        occluded_after_s: How long something must be in the way before the slot counts as occluded.
    """

    min_score: float | None = Field(default=None, ge=0.0, le=1.0)
    margin: float = Field(default=0.15, ge=0.0, lt=1.0)
    settle_s: float = Field(default=1.0, ge=0.0, le=3600.0)
    occluded_after_s: float = Field(default=3.0, ge=0.0, le=3600.0)

    @property
    def needed_score(self) -> float:
        """`min_score`, or `MIN_SCORE` where there is none."""
        return MIN_SCORE if self.min_score is None else self.min_score

    def with_default(self, min_score: float | None) -> Rules:
        """These rules with the bundle's `min_score`, where the slots file has none and it is lower than `MIN_SCORE`.

        A higher one is left alone: it comes from whole photos, and a slot shows less of a pack than they do.
        """
        if self.min_score is not None or min_score is None:
            return self
        return self.model_copy(update={"min_score": min(MIN_SCORE, min_score)})


class Slot(_Strict):
    """One place on a shelf, and what belongs there.

    Attributes:
        name: Unique on its shelf.
        product: Name of the product, as the bundle has it; or
        gtin: its GTIN/UPC.
        box: Left, top, right and bottom; or
        polygon: three corners or more.
    """

    name: str = Field(min_length=1)
    product: str | None = None
    gtin: str | None = Field(default=None, pattern=r"^\d{8,14}$")
    box: tuple[float, float, float, float] | None = None
    polygon: tuple[Point, ...] | None = Field(default=None, max_length=MAX_CORNERS)

    @property
    def corners(self) -> tuple[Point, ...]:
        """Its corners, in the file's units."""
        if self.box is None:
            return self.polygon or ()
        left, top, right, bottom = self.box
        return (left, top), (right, top), (right, bottom), (left, bottom)


class Shelf(_Strict):
    """A row of slots that is judged as one planogram."""

    name: str = Field(min_length=1)
    slot: tuple[Slot, ...] = Field(min_length=1)


class SlotsFile(_Strict):
    """A slots file.

    Attributes:
        units: Whether coordinates are pixels of a frame of `frame_px`, or shares, 0-1, of any frame.
        frame_px: Width and height of the picture on which pixels were counted.
        empty_picture: Photo of the shelf with every slot empty, from the same camera; relative to the file.
        empty_product: A product of the bundle that means that nothing is there.
        unknown_product: A product of the bundle that stands for all other packs.
        rules: When a state is believed.
        shelf: Shelves.
    """

    units: Literal["px", "share"]
    frame_px: tuple[int, int] | None = None
    empty_picture: str | None = None
    empty_product: str | None = None
    unknown_product: str | None = None
    rules: Rules = Rules()
    shelf: tuple[Shelf, ...] = Field(min_length=1)


@dataclass(frozen=True)
class SlotMap:
    """A slots file that was read and makes sense in itself.

    Attributes:
        path: The file.
        text: Its content.
        file: Its values.
    """

    path: Path
    text: str
    file: SlotsFile

    def slots(self) -> Iterator[tuple[Shelf, Slot]]:
        """Every slot with its shelf, in the order of the file."""
        for shelf in self.file.shelf:
            for slot in shelf.slot:
                yield shelf, slot

    def outlines(self) -> list[tuple[Point, ...]]:
        """Each slot's corners, in shares of the picture."""
        width, height = self.file.frame_px or (1, 1)
        return [tuple((x / width, y / height) for x, y in slot.corners) for _, slot in self.slots()]

    @property
    def empty_picture(self) -> Path | None:
        """Where the picture of the empty shelf lies."""
        return self.path.parent / self.file.empty_picture if self.file.empty_picture else None

    def class_ids(self, labels: Sequence[Label]) -> tuple[int, ...]:
        """Place of each slot's product in a bundle's labels.

        Raises:
            DataError: the bundle lacks a product, or several have its GTIN.
        """
        return tuple(self._class_id(labels, slot, place) for place, slot in self._placed())

    def empty_class_id(self, labels: Sequence[Label]) -> int | None:
        """Place of the product that means that nothing is there, where the file names one.

        Raises:
            DataError: the bundle lacks it.
        """
        return self._class_id_of(labels, "empty_product", self.file.empty_product)

    def unknown_class_id(self, labels: Sequence[Label]) -> int | None:
        """Place of the product that stands for all other packs, where the file names one.

        Raises:
            DataError: the bundle lacks it, or a slot expects it.
        """
        class_id = self._class_id_of(labels, "unknown_product", self.file.unknown_product)
        for place, slot in self._placed():
            if class_id is not None and self._class_id(labels, slot, place) == class_id:
                raise self._error(place, "no slot can expect the unknown_product: name what belongs there")
        return class_id

    def regions(self, *, width_px: int, height_px: int) -> tuple[Region, ...]:
        """Each slot's pixels in frames of that size.

        Raises:
            DataError: frames have another aspect than the picture on which pixels were counted, or a slot is too small.
        """
        scale = self.scale(width_px=width_px, height_px=height_px)
        regions = []
        for row, shelf in enumerate(self.file.shelf):
            for column, slot in enumerate(shelf.slot):
                corners = [(x * scale[0], y * scale[1]) for x, y in slot.corners]
                region = polygon_region(corners, width_px=width_px, height_px=height_px)
                if min(region.mask.shape) < MIN_SIDE_PX:
                    height, width = region.mask.shape
                    raise self._error(
                        ("shelf", row, "slot", column, "polygon" if slot.box is None else "box"),
                        f"in a frame of {width_px} × {height_px} it has {width} × {height} pixels, and fewer than "
                        f"{MIN_SIDE_PX} a side show no product; draw it larger, or let the camera give larger frames",
                    )
                regions.append(region)
        return tuple(regions)

    def scale(self, *, width_px: int, height_px: int) -> tuple[float, float]:
        """How many pixels of frames of that size a unit of the file is, across and down.

        Raises:
            DataError: frames have another aspect than the picture on which pixels were counted.
        """
        if self.file.frame_px is None:
            return float(width_px), float(height_px)
        width, height = self.file.frame_px
        if abs(width * height_px / (height * width_px) - 1) > _ASPECT_TOLERANCE:
            raise self._error(
                ("frame_px",),
                f"slots were drawn on {width} × {height}, and frames of {width_px} × {height_px} have another aspect; "
                "draw them on a picture of this camera",
            )
        return width_px / width, height_px / height

    def _class_id(self, labels: Sequence[Label], slot: Slot, place: Place) -> int:
        if slot.product is not None:
            return self._by_name(labels, slot.product, (*place, "product"))
        gtin = (slot.gtin or "").zfill(_GTIN_DIGITS)
        found = [i for i, label in enumerate(labels) if label.gtin and label.gtin.zfill(_GTIN_DIGITS) == gtin]
        if len(found) == 1:
            return found[0]
        why = "no product has" if not found else f"{len(found)} products have"
        known = [label.gtin for label in labels if label.gtin]
        near = _nearest(slot.gtin or "", known) if known else "its products have no GTIN, so give product instead"
        raise self._error((*place, "gtin"), f"in the bundle {why} GTIN {slot.gtin}; {near}")

    def _placed(self) -> Iterator[tuple[Place, Slot]]:
        for row, shelf in enumerate(self.file.shelf):
            for column, slot in enumerate(shelf.slot):
                yield ("shelf", row, "slot", column), slot

    def _class_id_of(self, labels: Sequence[Label], field: str, name: str | None) -> int | None:
        return None if name is None else self._by_name(labels, name, (field,))

    def _by_name(self, labels: Sequence[Label], name: str, place: Place) -> int:
        names = [label.name for label in labels]
        if name not in names:
            raise self._error(place, f"the bundle has no product {name!r}; {_nearest(name, names)}")
        return names.index(name)

    def _error(self, place: Place, reason: str) -> SlotsError:
        return _slots_error(self.path, self.text, place, reason)


def load_slots(path: Path) -> SlotMap:
    """Reads a slots file.

    Raises:
        DataError: it cannot be read, is not TOML, has a field too many or too few, or draws a slot that cannot be.
    """
    try:
        content = read_bytes(path, max_bytes=MAX_TOML_BYTES)
    except OSError as error:
        raise DataError(f"cannot read the slots file {path} ({error.strerror}): check the path") from error
    return parse_slots(path, content)


def parse_slots(path: Path, content: bytes) -> SlotMap:
    """The same of the content that a file at `path` has, or shall have.

    Raises:
        DataError: as `load_slots`.
    """
    try:
        text = text_of(content)
        document = toml_of(content)
    except ValueError as error:
        raise DataError(f"{path}: {error}; correct it and try again") from error
    try:
        # Through JSON, because strict models take a list for a tuple there alone.
        file = SlotsFile.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        raise _slots_error(path, text, *first_problem(error)) from error
    for place, reason in _problems(file):
        raise _slots_error(path, text, place, reason)
    slots = SlotMap(path, text, file)
    if slots.empty_picture and not slots.empty_picture.is_file():
        raise _slots_error(path, text, ("empty_picture",), f"there is no file {slots.empty_picture}: correct the path")
    return slots


def first_problem(error: ValidationError) -> tuple[Place, str]:
    """The field that is most worth telling, and what is wrong with it."""
    # A misspelt field is also a missing one, and the misspelling is what helps.
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    reasons = {
        "extra_forbidden": "there is no such field; correct or remove it",
        "missing": "it is missing; add it",
        "too_long": "it has too many entries; remove some",
        "string_pattern_mismatch": "a GTIN has 8 to 14 digits; correct it",  # the only pattern of the file
    }
    return first["loc"], reasons.get(first["type"], f"{first['msg']}; correct it and try again")


def _slots_error(path: Path, text: str, place: Place, reason: str) -> SlotsError:
    words = [f"{key}" if isinstance(key, str) else f"{key + 1}," for key in place]
    field = " ".join(words).rstrip(",")
    sentence = f"{path}, line {line_of(text, place)}, field {field}: {reason}"
    return SlotsError(sentence, place=place, reason=reason)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"the nearest is {' or '.join(map(repr, close))}" if close else "labels.json in the bundle lists them"


def _problems(file: SlotsFile) -> Iterator[tuple[Place, str]]:
    """What no single field shows to be wrong, in the order of the file."""
    if (file.units == "px") != (file.frame_px is not None):
        missing = "pixels need it, the width and height of the picture on which they were counted; add it"
        yield ("frame_px",), missing if file.units == "px" else "shares of the frame need no size; remove it"
        return
    if file.frame_px is not None and min(file.frame_px) < 1:
        yield ("frame_px",), "a picture has 1 pixel or more a side; correct it"
        return
    limit = (1.0, 1.0) if file.frame_px is None else (float(file.frame_px[0]), float(file.frame_px[1]))
    if sum(len(shelf.slot) for shelf in file.shelf) > MAX_SLOTS:
        yield ("shelf",), f"there are more than {MAX_SLOTS} slots; split the file between cameras"
        return
    shelves: set[str] = set()
    for row, shelf in enumerate(file.shelf):
        if shelf.name in shelves:
            yield ("shelf", row, "name"), f"another shelf is called {shelf.name!r}; rename one"
        shelves.add(shelf.name)
        names: set[str] = set()
        for column, slot in enumerate(shelf.slot):
            place = ("shelf", row, "slot", column)
            if slot.name in names:
                yield (*place, "name"), f"another slot of this shelf is called {slot.name!r}; rename one"
            names.add(slot.name)
            yield from (((*place, *field), message) for field, message in _slot_problems(slot, limit))


def _slot_problems(slot: Slot, limit: Point) -> Iterator[tuple[Place, str]]:
    if (slot.product is None) == (slot.gtin is None):
        yield (), "give either product or gtin"
    if (slot.box is None) == (slot.polygon is None):
        yield (), "give either box or polygon"
        return
    field = "polygon" if slot.box is None else "box"
    if any(not 0 <= x <= limit[0] or not 0 <= y <= limit[1] for x, y in slot.corners):
        yield (field,), f"it leaves the picture, which ends at {limit[0]:g} and {limit[1]:g}; move it inside"
    elif slot.box is not None and (slot.box[0] >= slot.box[2] or slot.box[1] >= slot.box[3]):
        yield (field,), "its right and bottom must be beyond its left and top; give left, top, right, bottom"
    elif len(slot.corners) < 3:
        yield (field,), "a polygon has three corners or more; add some"
    elif _crosses_itself(slot.corners):
        yield (field,), "its edges cross or meet; give the corners in the order of a walk around it"


def _crosses_itself(corners: Sequence[Point]) -> bool:
    """Whether two edges of a polygon that are not neighbors have a point in common, or it has no area."""
    starts = np.asarray(corners, np.float64)
    ends = np.roll(starts, -1, axis=0)
    area = float(np.sum(starts[:, 0] * ends[:, 1] - ends[:, 0] * starts[:, 1]))
    first, second = np.triu_indices(len(corners), k=2)
    apart = second - first < len(corners) - 1  # the last edge is a neighbor of the first
    first, second = first[apart], second[apart]
    return abs(area) < 1e-12 or bool(_meet(starts[first], ends[first], starts[second], ends[second]).any())


def _meet(a: Points, b: Points, c: Points, d: Points) -> NDArray[np.bool_]:
    """`(n,)` bool: whether the edges from `a` to `b` and from `c` to `d`, each `(n, 2)`, have a point in common."""

    def side(p: Points, q: Points, r: Points) -> NDArray[np.float64]:
        return np.asarray((q[:, 0] - p[:, 0]) * (r[:, 1] - p[:, 1]) - (q[:, 1] - p[:, 1]) * (r[:, 0] - p[:, 0]))

    def within(p: Points, q: Points, r: Points) -> NDArray[np.bool_]:
        return np.asarray(((np.minimum(p, q) <= r) & (r <= np.maximum(p, q))).all(axis=1))

    sides = [side(a, b, c), side(a, b, d), side(c, d, a), side(c, d, b)]
    meets = (sides[0] * sides[1] < 0) & (sides[2] * sides[3] < 0)
    for turn, points in zip(sides, ((a, b, c), (a, b, d), (c, d, a), (c, d, b)), strict=True):
        meets |= (turn == 0) & within(*points)
    return meets
