"""Turns frames into settled states of slots, and these into a planogram's compliance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.preprocessing import read_photo
from edgebcnn.shelf.appearance import Grid
from edgebcnn.shelf.regions import Region, closer, crop, surroundings
from edgebcnn.shelf.slots import SlotMap
from edgebcnn.shelf.tracker import ChangeGate, SlotTracker
from edgebcnn.shelf.voting import Content

Classify = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]
"""Takes BGR pictures of any size and gives the probabilities, `(pictures, classes)` float32."""


class SlotState(str, Enum):
    """What is to be done about a slot."""

    RIGHT = "right"
    WRONG = "wrong"
    EMPTY = "empty"
    UNKNOWN = "unknown"
    OCCLUDED = "occluded"


@dataclass(frozen=True)
class SlotReading:
    """A slot's settled state.

    Attributes:
        shelf: Name of its shelf.
        slot: Its name.
        expected: The product that belongs there.
        state: None before anything is settled.
        product: What is there, where it is a product of the bundle.
        score: Its voted probability when it settled, 0-1; None where it is occluded.
    """

    shelf: str
    slot: str
    expected: Label
    state: SlotState | None = None
    product: Label | None = None
    score: float | None = None


@dataclass(frozen=True)
class SlotChange:
    """A state that settled, after another or, with `previous` None, for the first time."""

    now: SlotReading
    previous: SlotState | None


@dataclass(frozen=True, eq=False)
class SeenSlot:
    """A slot that was classified.

    Attributes:
        shelf: Name of its shelf.
        slot: Its name.
        crop_bgr: `(h, w, 3)` uint8 BGR: what the model was given, before its preprocessing; no part of the frame.
        probabilities: `(classes,)` float32: what it answered, before any vote.
        labels: The products, in the same order.
    """

    shelf: str
    slot: str
    crop_bgr: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    labels: Sequence[Label]


@dataclass(frozen=True, eq=False)
class ShelfLook:
    """What one frame brought.

    Attributes:
        changes: States that settled with it.
        seen: Slots that were classified, in the order of the slots file; the watch keeps none of them.
    """

    changes: tuple[SlotChange, ...]
    seen: tuple[SeenSlot, ...]


@dataclass(frozen=True)
class Compliance:
    """How many slots of a shelf are in which state.

    Attributes:
        shelf: Its name.
        unsettled: Slots of which nothing is known yet.
    """

    shelf: str
    right: int
    wrong: int
    empty: int
    unknown: int
    occluded: int
    unsettled: int

    @property
    def judged(self) -> int:
        """Slots that were seen: all but the occluded and the unsettled."""
        return self.right + self.wrong + self.empty + self.unknown

    @property
    def share(self) -> float | None:
        """Share of the judged slots that are right, 0-1; None where none was judged."""
        return self.right / self.judged if self.judged else None

    def as_json(self) -> dict[str, Any]:
        """Every count by name, and the share."""
        return {**asdict(self), "judged": self.judged, "share": None if self.share is None else round(self.share, 4)}

    def __str__(self) -> str:
        """`Board 1: 3 of 4 right (75.0 %) · 1 wrong`; states without a slot are left out."""
        share = "nothing seen yet" if self.share is None else f"{100 * self.share:.1f} %"
        others = ("wrong", "empty", "unknown", "occluded", "unsettled")
        counts = [f"{getattr(self, name)} {name}" for name in others if getattr(self, name)]
        return " · ".join([f"{self.shelf}: {self.right} of {self.judged} right ({share})", *counts])


class ShelfWatch:
    """The slots of one camera.

    Attributes:
        slot_map: The slots file.
        names: Of shelf and slot, for each slot.
        invokes: Slots that were classified so far.
        looks: Slots that were looked at so far: what a watch without a gate would have classified.
        last_change_s: When pixels of a slot last moved or a state last changed; None before the first frame.

    Raises:
        DataError: the bundle lacks a product of the slots file, or a slot expects the unknown one.
        UnreadablePhotoError: the picture of the empty shelf cannot be read.
    """

    def __init__(
        self,
        slots: SlotMap,
        labels: Sequence[Label],
        classify: Classify,
        *,
        width_over_height: float,
        gate: ChangeGate,
        min_score: float | None = None,
    ) -> None:
        self.names = tuple((shelf.name, slot.name) for shelf, slot in slots.slots())
        self.slot_map, self._labels, self._classify = slots, labels, classify
        self._aspect, self._gate = width_over_height, gate
        self._rules = slots.file.rules.with_default(min_score)
        self._expected = slots.class_ids(labels)
        self._empty_class, self._unknown_class = slots.empty_class_id(labels), slots.unknown_class_id(labels)
        self._empty_picture = read_photo(slots.empty_picture) if slots.empty_picture else None
        self._size: tuple[int, int] | None = None
        self._views: list[tuple[Region, Region]] = []
        self._grids: list[tuple[Grid, Grid]] = []
        self._trackers: list[SlotTracker] = []
        self.invokes = self.looks = 0
        self.last_change_s: float | None = None

    def look(self, frame_bgr: NDArray[np.uint8], *, at_s: float) -> ShelfLook:
        """Takes in one frame and gives the states that settled with it, and what was classified for that.

        Args:
            frame_bgr: `(h, w, 3)` uint8 BGR. When its size changes, everything starts anew.
            at_s: When it was taken, on a clock that never goes back.

        Raises:
            DataError: the slots do not fit frames of this size.
        """
        self.fit(*frame_bgr.shape[1::-1])
        wanted = [
            index
            for index, (tracker, (slot, around)) in enumerate(zip(self._trackers, self._grids, strict=True))
            if tracker.look(slot.look(frame_bgr), partial(around.look, frame_bgr), at_s=at_s)
        ]
        seen = self._seen(frame_bgr, wanted)
        self.looks += len(self._trackers)
        self.invokes += len(wanted)
        for index, each in zip(wanted, seen, strict=True):
            self._trackers[index].vote(self._vote(each.probabilities), at_s=at_s)
        changes = self._changes(lambda tracker: tracker.settle(at_s=at_s))
        if changes or self.last_change_s is None or any(tracker.is_busy for tracker in self._trackers):
            self.last_change_s = at_s
        return ShelfLook(changes, seen)

    def miss(self, *, at_s: float) -> tuple[SlotChange, ...]:
        """Takes in that a frame shows nothing, and gives the slots that have been out of sight for too long by now."""
        return self._changes(lambda tracker: tracker.miss(at_s=at_s))

    def readings(self) -> tuple[SlotReading, ...]:
        """The settled state of every slot, in the order of the slots file."""
        states: Sequence[tuple[Content | None, float | None]]
        states = [(tracker.state, tracker.score) for tracker in self._trackers] or [(None, None)] * len(self._expected)
        return tuple(
            SlotReading(shelf, slot, self._labels[expected], *self._as_state(content, expected), score)
            for (shelf, slot), expected, (content, score) in zip(self.names, self._expected, states, strict=True)
        )

    def candidates(self, count: int) -> tuple[tuple[tuple[int, str, float], ...], ...]:
        """What the votes on each slot say at the moment: place, name and probability of the best products, best first.

        May be asked from any thread; a slot without a vote has none.
        """
        votes = [tracker.votes for tracker in self._trackers] or [None] * len(self._expected)
        return tuple(
            ()
            if mean is None
            else tuple((int(i), self._labels[i].name, float(mean[i])) for i in np.argsort(-mean[:-1])[:count])
            for mean in votes
        )

    def contradicted(self) -> tuple[bool, ...]:
        """Whether the newest frames do not show what is settled, of each slot; may be asked from any thread."""
        return tuple(tracker.is_contradicted for tracker in self._trackers) or (False,) * len(self._expected)

    def compliance(self) -> tuple[Compliance, ...]:
        """How every shelf stands."""
        states: dict[str, list[SlotState | None]] = {}
        for reading in self.readings():
            states.setdefault(reading.shelf, []).append(reading.state)
        return tuple(
            Compliance(shelf, **{state.value: found.count(state) for state in SlotState}, unsettled=found.count(None))
            for shelf, found in states.items()
        )

    def as_json(self) -> dict[str, Any]:
        """Slots looked at and classified, how every shelf stands, and the state of every slot."""
        slots = [
            {
                "shelf": reading.shelf,
                "slot": reading.slot,
                "expected": reading.expected.name,
                "state": reading.state.value if reading.state else None,
                "product": reading.product.name if reading.product else None,
            }
            for reading in self.readings()
        ]
        shelves = [shelf.as_json() for shelf in self.compliance()]
        return {"slot_looks": self.looks, "slot_invokes": self.invokes, "shelves": shelves, "slots": slots}

    def __str__(self) -> str:
        """A line for the work that was done, and one a shelf."""
        share = f" ({100 * self.invokes / self.looks:.1f} %)" if self.looks else ""
        lines = [f"{'slots':<10}{self.looks} looked at · {self.invokes} classified{share}"]
        return "\n".join(lines + [f"{'shelf':<10}{shelf}" for shelf in self.compliance()])

    def _changes(self, has_changed: Callable[[SlotTracker], bool]) -> tuple[SlotChange, ...]:
        before = self.readings()
        changed = [index for index, tracker in enumerate(self._trackers) if has_changed(tracker)]
        after = self.readings()
        return tuple(SlotChange(after[index], before[index].state) for index in changed)

    def _as_state(self, content: Content | None, expected: int) -> tuple[SlotState | None, Label | None]:
        if content is None:
            return None, None
        if content.class_id is None:
            return SlotState(content.kind.value), None
        return SlotState.RIGHT if content.class_id == expected else SlotState.WRONG, self._labels[content.class_id]

    def fit(self, width_px: int, height_px: int) -> None:
        """Lays the slots over frames of that size, and begins anew where they had another.

        Raises:
            DataError: the slots do not fit.
        """
        if self._size == (width_px, height_px):
            return
        regions = self.slot_map.regions(width_px=width_px, height_px=height_px)
        around = [surroundings(region, regions, width_px=width_px, height_px=height_px) for region in regions]
        self._views = [(region, closer(region)) for region in regions]
        self._grids = [(Grid(region), Grid(nearby)) for region, nearby in zip(regions, around, strict=True)]
        empty = self._fitted_empty_picture(width_px, height_px)
        self._trackers = [
            SlotTracker(
                len(self._labels),
                self._rules,
                gate=self._gate,
                empty=None if empty is None else grid.look(empty),
            )
            for grid, _ in self._grids
        ]
        self._size = width_px, height_px

    def _fitted_empty_picture(self, width_px: int, height_px: int) -> NDArray[np.uint8] | None:
        picture = self._empty_picture
        if picture is not None and picture.shape[:2] != (height_px, width_px):
            raise DataError(
                f"{self.slot_map.empty_picture} has {picture.shape[1]} × {picture.shape[0]} pixels and the frames have "
                f"{width_px} × {height_px}: take the picture of the empty shelf with this camera"
            )
        return picture

    def _seen(self, frame_bgr: NDArray[np.uint8], wanted: Sequence[int]) -> tuple[SeenSlot, ...]:
        if not wanted:
            return ()
        views = (self._views[i][self._trackers[i].from_closer] for i in wanted)
        crops = [crop(frame_bgr, view, width_over_height=self._aspect) for view in views]
        answers = self._classify(crops)
        names = (self.names[i] for i in wanted)
        return tuple(
            SeenSlot(shelf, slot, seen, answer, self._labels)
            for (shelf, slot), seen, answer in zip(names, crops, answers, strict=True)
        )

    def _vote(self, probabilities: NDArray[np.float32]) -> NDArray[np.float64]:
        """`(classes + 1,)`: the model's probabilities, that of the empty product moved to the last place.

        That of the unknown product speaks for no product, so that where it is high, none reaches its `min_score`.
        """
        vote = np.append(probabilities.astype(np.float64), 0.0)
        if self._unknown_class is not None:
            vote[self._unknown_class] = 0.0
        if self._empty_class is not None:
            vote[-1], vote[self._empty_class] = vote[self._empty_class], 0.0
        return vote
