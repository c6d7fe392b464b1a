"""What is told when a slot's state settled? `docs/slots.md` describes each field."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from edgebcnn.shelf.watch import Compliance, SlotChange, SlotState

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class SlotEvent:
    """A slot's new state.

    Attributes:
        schema_version: Version of this record.
        source: Name of the source, without credentials.
        frame: Number of the frame with which it settled.
        time: When that frame arrived, ISO 8601 in UTC.
        shelf: Name of the shelf.
        slot: Name of the slot.
        state: What is settled now.
        previous: What was settled before; None for the first state of a run.
        expected: Product that belongs there.
        expected_gtin: Its GTIN/UPC, where the bundle has one.
        product: Product that is there, where it is one of the bundle's.
        gtin: Its GTIN/UPC.
        score: Voted probability of the state, 0-1; None where it is occluded.
        shelf_right: Slots of the shelf that are right now.
        shelf_judged: Slots of the shelf that were seen: neither occluded nor unsettled.
        compliance: `shelf_right / shelf_judged`; None where none was seen.
    """

    schema_version: int
    source: str
    frame: int
    time: str
    shelf: str
    slot: str
    state: str
    previous: str | None
    expected: str
    expected_gtin: str | None
    product: str | None
    gtin: str | None
    score: float | None
    shelf_right: int
    shelf_judged: int
    compliance: float | None

    @classmethod
    def of(
        cls, change: SlotChange, shelf: Compliance, *, source: str, frame: int, captured_monotonic_s: float
    ) -> SlotEvent:
        """Puts together what is known about a state that just settled."""
        now = change.now
        assert now.state is not None
        age = timedelta(seconds=time.monotonic() - captured_monotonic_s)
        arrived = (datetime.now(timezone.utc) - age).isoformat(timespec="milliseconds")
        return cls(
            schema_version=SCHEMA_VERSION,
            source=source,
            frame=frame,
            time=arrived.replace("+00:00", "Z"),
            shelf=now.shelf,
            slot=now.slot,
            state=now.state.value,
            previous=change.previous.value if change.previous else None,
            expected=now.expected.name,
            expected_gtin=now.expected.gtin,
            product=now.product.name if now.product else None,
            gtin=now.product.gtin if now.product else None,
            score=None if now.score is None else round(now.score, 4),
            shelf_right=shelf.right,
            shelf_judged=shelf.judged,
            compliance=None if shelf.share is None else round(shelf.share, 4),
        )

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)

    def __str__(self) -> str:
        """`frame 31  Top A2: wrong, Oat-Yoghurt in place of Oat-Milk, 91.2 %  was right  (3 of 4 right)`."""
        found = f", {self.product} in place of {self.expected}" if self.state == SlotState.WRONG.value else ""
        score = "" if self.score is None else f", {100 * self.score:.1f} %"
        before = f"  was {self.previous}" if self.previous else ""
        told = f"frame {self.frame}  {self.shelf} {self.slot}: {self.state}{found}{score}{before}"
        return f"{told}  ({self.shelf_right} of {self.shelf_judged} right)"
