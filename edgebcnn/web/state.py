"""Defines `/api/state`: everything that the page of a run shows, except the image.

`docs/web.schema.json` is its JSON Schema.

`python -m edgebcnn.web.state` prints that file.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgebcnn.atomic import json_bytes
from edgebcnn.device.classifier import Receipt
from edgebcnn.loop.reading import Candidate, Text
from edgebcnn.shelf.watch import SlotState
from edgebcnn.sinks.outlet import Counts

SCHEMA_VERSION: Literal[1] = 1


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)


class Share(_Value):
    """A share of all that was counted, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int = Field(description="How many were counted.")


class Liveness(_Value):
    """Whether what is known is current."""

    status: Literal["starting", "live", "lost", "silent", "unusable", "stuck"] = Field(
        description="`live`: frames come and are read. `lost`: the source is lost and reconnecting. `silent`: no new "
        "frame. `unusable`: frames are skipped, black for example. `stuck`: the loop does not respond."
    )
    reason: str | None = Field(description="Why nothing is current, for people; null where it is.")
    since: str | None = Field(description="Time of the last frame that was read, where nothing is current.")
    last_frame_age_s: float | None = Field(description="Since the newest frame was read or skipped; null: none yet.")
    stale_after_s: float = Field(
        description="A client that has no newer frame than this must not show states as current."
    )
    loop_alive: bool = Field(description="Whether the loop turns.")


class Problem(_Value):
    """A slot that is not right."""

    shelf: str
    slot: str
    state: SlotState
    text: str = Field(description="What is wrong there, for people.")
    since: str | None = Field(description="When its state settled; null: before this run's page began.")


class Verdict(_Value):
    """What to show first."""

    level: Literal["right", "problem", "unsure", "product", "stale"] = Field(
        description="`problem`: a slot is wrong or empty. `unsure`: slots are unknown, occluded or not settled, or no "
        "product is clear. `product`: whole frames show a product. `stale`: nothing is current."
    )
    headline: str = Field(description="In one line, for people: `6 of 8 slots right · 1 wrong · 1 empty`.")
    last_known: str | None = Field(default=None, description="What the headline was before, where nothing is current.")
    since: str | None = Field(default=None, description="Since when it holds.")
    problems: tuple[Problem, ...] = Field(default=(), description="The most urgent first.")


class FrameNow(_Value):
    """The newest frame."""

    frame: int = Field(description="Its number in the source, from 0.")
    time: str = Field(description="When it was captured: ISO 8601, UTC, milliseconds.")
    width_px: int
    height_px: int
    age_ms: float = Field(description="From its capture to the end of its classification, or to its refusal.")
    latency_ms: float | None
    reason: str | None = Field(description="Why the frame was skipped.")
    top3: tuple[Candidate, ...] = Field(description="Its products, best first; of a shelf, each slot has its own.")


class SlotNow(_Value):
    """A slot, as it is settled."""

    shelf: str
    slot: str
    corners: tuple[tuple[float, float], ...] = Field(description="Shares, 0-1, of the picture's width and height.")
    state: SlotState | None = Field(description="null: not settled.")
    expected: str
    product: str | None
    score: float | None = Field(description="Voted probability of the state when it settled.")
    guess: Candidate | None = Field(default=None, description="Of an unknown slot: the product it resembles most.")
    contradicted: bool = Field(
        default=False, description="Whether the newest frames do not show this state: it may change."
    )
    since: str | None = Field(default=None, description="When it settled; null where that was before.")
    top3: tuple[Candidate, ...] = Field(description="Mean of the votes now.")


class ShelfNow(_Value):
    """How a shelf stands."""

    shelf: str
    right: int
    judged: int
    compliance: float | None


class Speed(_Value):
    """Times of the whole run, and how many frames were classified in each of the last seconds."""

    fps: float = Field(description="Frames classified per second, over the last ten seconds.")
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    age_p50_ms: float | None
    age_p95_ms: float | None
    fps_by_second: tuple[int, ...] = Field(description="Oldest first, up to the last full second.")
    latency_ms_by_second: tuple[float | None, ...] = Field(description="The longest of each second.")
    age_ms_by_second: tuple[float | None, ...] = Field(description="The longest of each second.")


class Health(_Value):
    """Losses of the source, skipped frames and the delivery of events."""

    source: Text = Field(description="What the source does now.")
    restarts: int = Field(description="How often it was lost and came back.")
    outage_s: float = Field(description="For how long it was away.")
    seen: int
    classified: int
    dropped: int
    unreadable: int
    refused: dict[str, int] = Field(description="Frames without a product, by reason.")
    sinks: tuple[Counts, ...] = Field(description="What became of the events.")


class State(_Value):
    """Everything that the page shows but the picture. Later versions may add fields."""

    schema_version: Literal[1] = SCHEMA_VERSION
    time: str = Field(description="Now: ISO 8601, UTC, milliseconds.")
    device: Text
    source: Text = Field(description="What `--camera` named, without credentials.")
    bundle: str = Field(description="First 16 characters of its digest.")
    run: str = Field(description="Id of the run, as events have it.")
    running_s: float
    live: Liveness
    verdict: Verdict
    frame: FrameNow | None = Field(description="null: none yet.")
    slots: tuple[SlotNow, ...]
    shelves: tuple[ShelfNow, ...]
    accuracy: Share | None = Field(description="Of the labelled frames; null: none was labelled.")
    agreement: dict[str, Share] = Field(description="By what was compared; empty: nothing was.")
    speed: Speed
    receipt: Receipt = Field(description="What runs the model.")
    health: Health
    events: tuple[dict[str, Any], ...] = Field(
        description="The newest first, as `docs/events.md` describes them. Of readings, those that say something else "
        "than the one before."
    )
    newest_change: str | None = Field(
        default=None, description="Id of the newest change of a slot in `/api/history`; null: none."
    )


def json_schema() -> dict[str, Any]:
    """JSON Schema of `/api/state`."""
    schema = State.model_json_schema(mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_open(schema)}


def _open(tree: Any) -> Any:
    """Drops the ban on fields that a later edgebcnn may add, and titles that repeat names."""
    if isinstance(tree, list):
        return [_open(item) for item in tree]
    if isinstance(tree, dict):
        banned = {"additionalProperties"} if tree.get("additionalProperties") is False else set()
        titled = {"title"} if isinstance(tree.get("title"), str) else set()
        return {key: _open(value) for key, value in tree.items() if key not in banned | titled}
    return tree


if __name__ == "__main__":
    print(json_bytes(json_schema()).decode(), end="")
