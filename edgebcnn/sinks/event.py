"""The events of a run: one flat JSON object each, which `docs/events.md` describes.

`python -m edgebcnn.sinks.event` prints `docs/events.schema.json`. A new kind of event is a subclass in `KINDS`.
"""

from __future__ import annotations

import itertools
import json
import secrets
from collections.abc import Iterator
from functools import cached_property
from typing import Any, ClassVar, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from edgebcnn.atomic import json_bytes
from edgebcnn.loop.reading import Reading, SourceName, Text, Time
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.shelf.watch import Compliance, SlotChange

SCHEMA_VERSION: Literal[2] = 2
RUN_ID_BYTES = 6  # a chance of one in a million that two of 20,000 runs share an id


class Event(BaseModel):
    """Something that happened in front of the camera."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, json_schema_serialization_defaults_required=True
    )

    holds_until_next: ClassVar[bool] = False
    """Whether it reports a state that lasts, which an MQTT broker retains for later subscribers."""

    schema_version: Literal[2] = Field(
        SCHEMA_VERSION, description="Version of this record. Grows when a field changes its meaning or goes."
    )
    kind: str = Field(description="What happened. Pass over kinds that you do not know.")
    id: str = Field(description="`RUN-NUMBER`: no other event has it. Within a run, numbers go up by one from 0.")
    time: Time
    device: Text = Field(
        description="Name of the device: `events.device_id` of the configuration, by default the machine's."
    )
    bundle: str = Field(description="Which bundle ran: the first 16 characters of the `digest` in its `bundle.json`.")
    source: SourceName

    @property
    def subtopic(self) -> str:
        """Its topic below the device's MQTT topic; kinds with a state per item have a level for each item."""
        return self.kind

    @cached_property
    def json_line(self) -> bytes:
        """The event as one line of JSON, with its newline."""
        return json.dumps(self.model_dump(), ensure_ascii=False, allow_nan=False).encode() + b"\n"

    def for_people(self) -> str:
        """The event as one line for a terminal."""
        return f"{self.time}  {self.kind}"


class ReadingEvent(Reading, Event):
    """One frame: its product, or the reason why it has none."""

    kind: Literal["reading"] = Field("reading", description="What happened.")

    def for_people(self) -> str:
        """`frame 12  Oatly Oat Milk  98.4 %  delay 21 ms  inference 1.9 ms`."""
        name = self.photo or f"frame {self.frame}"
        if self.label is None or self.score is None or self.latency_ms is None:
            return f"{name}  skipped: {self.reason}  delay {self.age_ms:.0f} ms"
        wrong = f"  (actually {self.truth})" if self.truth not in (None, self.label) else ""
        times = f"delay {self.age_ms:.0f} ms  inference {self.latency_ms:.1f} ms"
        return f"{name}  {self.label}  {100 * self.score:.1f} %  {times}{wrong}"


class SlotEvent(Event):
    """The state of a slot settled."""

    holds_until_next: ClassVar[bool] = True

    kind: Literal["slot"] = Field("slot", description="What happened.")
    frame: int = Field(description="Number of the frame with which the state settled, from 0.")
    shelf: str = Field(description="Name of the shelf.")
    slot: str = Field(description="Name of the slot.")
    state: Literal["right", "wrong", "empty", "unknown", "occluded"] = Field(description="What is settled now.")
    previous: Literal["right", "wrong", "empty", "unknown", "occluded"] | None = Field(
        description="The state before; null for the first of a run."
    )
    expected: str = Field(description="Product that belongs there.")
    expected_gtin: str | None = Field(description="Its GTIN/UPC, where the bundle has one.")
    product: str | None = Field(description="Product that is there, where it is right or wrong.")
    gtin: str | None = Field(description="GTIN/UPC of the product that is there, where the bundle has one.")
    score: float | None = Field(description="Voted probability of the state, 0-1; null where it is occluded.")
    reason: str | None = Field(
        description="Why nothing was seen, where frames had no reading; null for what stands in the way."
    )
    shelf_right: int = Field(description="Slots of the shelf that are right now.")
    shelf_judged: int = Field(description="Slots of the shelf that were seen: neither occluded nor unsettled.")
    compliance: float | None = Field(
        description="Planogram compliance, `shelf_right / shelf_judged`; null where none was seen."
    )

    @property
    def subtopic(self) -> str:
        """`slot/SHELF/SLOT`."""
        return slot_subtopic(self.shelf, self.slot)

    def for_people(self) -> str:
        """`frame 31  Top A2: wrong, Oat-Yoghurt instead of Oat-Milk, 91.2 %  was right  (3 of 4 right)`."""
        found = f", {self.product} instead of {self.expected}" if self.state == "wrong" else ""
        score = "" if self.score is None else f", {100 * self.score:.1f} %"
        why = f", {self.reason}" if self.reason else ""
        before = f"  was {self.previous}" if self.previous else ""
        line = f"frame {self.frame}  {self.shelf} {self.slot}: {self.state}{found}{score}{why}{before}"
        return f"{line}  ({self.shelf_right} of {self.shelf_judged} right)"


class GoldenEvent(Event):
    """The golden photos were replayed."""

    holds_until_next: ClassVar[bool] = True

    kind: Literal["golden"] = Field("golden", description="What happened.")
    passed: bool = Field(description="Whether the model answers as it did at export.")
    problem: str | None = Field(description="What is wrong, in one sentence; null where nothing is.")
    photos: int = Field(description="Golden photos that were replayed.")
    same_top1: int = Field(description="Those with the same product as at export.")
    most_steps: float | None = Field(
        description="Largest change of a probability, in 1/256; null where there was no answer."
    )
    typical_steps: float | None = Field(description="Median over photos of the largest change in each.")
    far: int = Field(description="Photos with a change of more than 32/256.")
    n: int = Field(description="Photos that accuracy and agreement count: those that were not chosen as hard.")
    accuracy: float = Field(description="Share of these that are right, 0-1.")
    accuracy_low: float = Field(description="Lower end of its 95 % interval.")
    accuracy_high: float = Field(description="Upper end.")
    agreement: float = Field(description="Share of these on which it says what the full model says, 0-1.")
    agreement_low: float = Field(description="Lower end of its 95 % interval.")
    agreement_high: float = Field(description="Upper end.")
    took_s: float = Field(description="From the first photo to the last.")

    def for_people(self) -> str:
        """`golden photos  match the export: 128 of 128 the same, 0 steps at most  accuracy 91.4 %  …`."""
        steps = "no output" if self.most_steps is None else f"{self.most_steps:.3g} steps at most"
        found = self.problem or f"match the export: {self.same_top1} of {self.photos} the same, {steps}"
        return f"golden photos  {found}  accuracy {100 * self.accuracy:.1f} %  agreement {100 * self.agreement:.1f} %"


class AgreementEvent(Event):
    """How often the full model, in the background, agreed with the edge model so far."""

    holds_until_next: ClassVar[bool] = True

    kind: Literal["agreement"] = Field("agreement", description="What happened.")
    model: Text = Field(description="Name of the full model's file.")
    n: int = Field(description="Scenes that it was asked about, since the start.")
    agreement: float | None = Field(description="Share of them on which both say the same, 0-1.")
    agreement_low: float = Field(description="Lower end of the interval that holds, at 95 %, at all times at once.")
    agreement_high: float = Field(description="Upper end.")
    floor: float = Field(description="Agreement below which there is an alarm.")
    alarm: bool = Field(description="Whether it was raised.")
    restarts: int = Field(description="How often the full model's process had to be started again.")
    problem: Text | None = Field(description="Why the full model does not answer now; null where it does.")

    def for_people(self) -> str:
        """`agreement with full.tflite  93.1 % (82.0-98.0)  58 scenes`."""
        share = "unknown" if self.agreement is None else f"{100 * self.agreement:.1f} %"
        interval = f"{100 * self.agreement_low:.1f}-{100 * self.agreement_high:.1f}"
        problem = f"  {self.problem}" if self.problem else ""
        return f"agreement with {self.model}  {share} ({interval})  {self.n} scenes{problem}"


class AlarmEvent(Event):
    """The model fell below a threshold that it had kept."""

    kind: Literal["alarm"] = Field("alarm", description="What happened.")
    about: Literal["golden", "agreement"] = Field(
        description="What fell: the answers to the golden photos, or the agreement with the full model."
    )
    problem: Text = Field(description="What is wrong, in one sentence.")
    stops: bool = Field(description='Whether it ends the run: `monitoring.on_alarm = "stop"`.')

    def for_people(self) -> str:
        """`ALARM  the model agrees with full.tflite on 31 of 60 scenes, …`."""
        return f"ALARM  {self.problem}"


def slot_subtopic(shelf: str, slot: str) -> str:
    """The topic of a slot's events: `slot/SHELF/SLOT`, with `%XX` for special characters."""
    return f"slot/{quote(shelf, safe='')}/{quote(slot, safe='')}"


KINDS: tuple[type[Event], ...] = (ReadingEvent, SlotEvent, GoldenEvent, AgreementEvent, AlarmEvent)

AnyEvent = TypeVar("AnyEvent", bound=Event)


class Stamp:
    """Makes the events of a run, with its id, device and bundle; safe to use from several threads.

    Attributes:
        run: Id of the run.
        device: Name of the device.
        bundle: First characters of the bundle's digest.
    """

    def __init__(self, *, device: str, bundle_digest: str) -> None:
        self.device = device
        self.bundle = bundle_digest[:16]
        self.run = secrets.token_hex(RUN_ID_BYTES)
        self._numbers = itertools.count()

    def __call__(self, kind: type[AnyEvent], **fields: Any) -> AnyEvent:
        """Makes the next event of this run."""
        number = f"{self.run}-{next(self._numbers)}"
        return kind(id=number, device=self.device, bundle=self.bundle, **fields)

    def reading(self, reading: Reading) -> ReadingEvent:
        """Makes the event of one reading."""
        return self(ReadingEvent, **dict(reading))

    def slots(self, reading: ShelfReading) -> Iterator[SlotEvent]:
        """Makes the events of the slots whose state settled with one frame."""
        shelves = {shelf.shelf: shelf for shelf in reading.shelves}
        return (self._slot(change, shelves[change.now.shelf], reading) for change in reading.changes)

    def _slot(self, change: SlotChange, shelf: Compliance, reading: ShelfReading) -> SlotEvent:
        now, product = change.now, change.now.product
        return self(
            SlotEvent,
            time=reading.time,
            source=reading.source,
            frame=reading.frame,
            shelf=now.shelf,
            slot=now.slot,
            state=now.state and now.state.value,
            previous=change.previous and change.previous.value,
            expected=now.expected.name,
            expected_gtin=now.expected.gtin,
            product=product and product.name,
            gtin=product and product.gtin,
            score=None if now.score is None else round(now.score, 6),
            reason=reading.reason,
            shelf_right=shelf.right,
            shelf_judged=shelf.judged,
            compliance=None if shelf.share is None else round(shelf.share, 6),
        )


def json_schema() -> dict[str, Any]:
    """Returns the JSON Schema of every event."""
    names, schema = models_json_schema([(kind, "serialization") for kind in KINDS], ref_template="#/$defs/{model}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Events of edgebcnn run, version {SCHEMA_VERSION}",
        "oneOf": list(names.values()),
        "$defs": _without(schema["$defs"], "title", "default", "additionalProperties"),
    }


def _without(tree: Any, *keys: str) -> Any:
    """Removes what pydantic adds: titles that repeat names, and the ban on fields that a later version may add."""
    if isinstance(tree, list):
        return [_without(item, *keys) for item in tree]
    if isinstance(tree, dict):
        return {key: _without(value, *keys) for key, value in tree.items() if key not in keys}
    return tree


if __name__ == "__main__":
    print(json_bytes(json_schema()).decode(), end="")
