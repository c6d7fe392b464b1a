"""Computes the verdict at the top of the page: whether the shelf is right, and whether the data is current.

A state that was settled is shown as current only while frames come and are read. Where the camera is lost, its picture
is unusable or the loop no longer turns, the verdict says so in place of the last states, for every client alike.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median
from typing import Literal

from edgebcnn.loop.reading import Reading
from edgebcnn.shelf.slots import MIN_SCORE
from edgebcnn.shelf.watch import SlotState
from edgebcnn.web.state import Liveness, Problem, SlotNow, Verdict

STALE_S = 1.75  # a page must not show a state for longer than 3 s after the last frame; it gets news twice a second
STALE_INTERVALS = 1.75  # of a source or pace that is slower
STALE_LATENCIES = 4.0  # of a model that is slower
LONGEST_STALE_S = 60.0
LOST_S = 1.0  # shorter interruptions are not shown
INTERVALS = 15  # of which the median counts, so that an outage does not make the source look slow

STEADY_OVER_S = 2.0
STEADY_SHARE, HELD_SHARE = 0.6, 0.4  # of the readings, to become the product shown and to stay it

# What a person has to act on comes first.
_ORDER = (SlotState.WRONG, SlotState.EMPTY, SlotState.UNKNOWN, SlotState.OCCLUDED, None)


@dataclass(frozen=True)
class Pulse:
    """The flow of frames at one moment.

    Attributes:
        taken_ago_s: Since the newest frame was read or skipped; None before the first.
        seen_ago_s: Since the newest frame that could be read; None before the first.
        seen_at: When that was, ISO 8601.
        lost_s: For how long the source has been lost; None while it gives frames.
        loop_s: For how long the loop has been in its current stage.
        skipped: Why the newest frame could not be read; None where it was.
        stale_after_s: Age of a frame from which nothing is current.
    """

    taken_ago_s: float | None
    seen_ago_s: float | None
    seen_at: str | None
    lost_s: float | None
    loop_s: float
    skipped: str | None
    stale_after_s: float


def stale_after_s(intervals_s: Sequence[float], *, pace_s: float, latency_p95_ms: float | None) -> float:
    """Returns the age of a frame from which nothing is current, for a source, pace and model of that speed.

    Args:
        intervals_s: Between the newest frames.
        pace_s: The longest pause that the loop makes between two frames.
        latency_p95_ms: Of the model; None before it ran.
    """
    usual_s = STALE_INTERVALS * max(pace_s, median(intervals_s) if intervals_s else 0.0)
    return min(LONGEST_STALE_S, max(STALE_S, usual_s, STALE_LATENCIES * (latency_p95_ms or 0.0) / 1000))


def liveness(pulse: Pulse) -> Liveness:
    """Returns whether the data is current, and if not, why."""
    status, reason = _status(pulse)
    return Liveness(
        status=status,
        reason=reason,
        since=None if status == "live" else pulse.seen_at,
        last_frame_age_s=None if pulse.taken_ago_s is None else round(pulse.taken_ago_s, 3),
        stale_after_s=round(pulse.stale_after_s, 3),
        loop_alive=pulse.loop_s <= pulse.stale_after_s,
    )


def _status(pulse: Pulse) -> tuple[Literal["starting", "live", "lost", "silent", "unusable", "stuck"], str | None]:
    if pulse.lost_s is not None and pulse.lost_s > LOST_S:
        return "lost", "The camera is lost"
    if pulse.loop_s > pulse.stale_after_s:
        return "stuck", "The camera loop does not respond"
    if pulse.taken_ago_s is None:
        return "starting", "Waiting for the first frame"
    if pulse.taken_ago_s > pulse.stale_after_s:
        return "silent", "No new frame from the camera"
    if pulse.seen_ago_s is None or pulse.seen_ago_s > pulse.stale_after_s:
        return "unusable", f"The picture cannot be used: {pulse.skipped}"
    return "live", None


def shelf_verdict(slots: Sequence[SlotNow], live: Liveness) -> Verdict:
    """Returns the verdict on the slots of a shelf, problems in the order in which a person acts on them."""
    known = _counted([slot.state for slot in slots])
    ranked = sorted(
        (slot for slot in slots if slot.state is not SlotState.RIGHT), key=lambda slot: _ORDER.index(slot.state)
    )
    problems = tuple(
        Problem(shelf=slot.shelf, slot=slot.slot, state=slot.state, text=described(slot), since=slot.since)
        for slot in ranked
        if slot.state is not None
    )
    if live.status != "live":
        last = known if any(slot.state for slot in slots) else None
        return Verdict(level="stale", headline=live.reason or "", last_known=last, since=live.since, problems=problems)
    states = {slot.state for slot in slots}
    if states <= {None}:
        return Verdict(level="unsure", headline=f"Looking at {len(slots)} slots for the first time")
    level: Literal["problem", "unsure", "right"]
    level = "problem" if states & {SlotState.WRONG, SlotState.EMPTY} else "unsure"
    level = "right" if states == {SlotState.RIGHT} else level
    times = [slot.since for slot in ranked if slot.since] or [slot.since for slot in slots if slot.since]
    return Verdict(level=level, headline=known, since=max(times, default=None), problems=problems)


def described(slot: SlotNow) -> str:
    """Returns what is wrong with a slot, in the words of a person in front of it."""
    if slot.state is SlotState.WRONG:
        return f"{slot.product} where {slot.expected} belongs"
    if slot.state is SlotState.EMPTY:
        return f"empty, {slot.expected} belongs here"
    if slot.state is SlotState.UNKNOWN:
        return f"unknown{_guess(slot)}, {slot.expected} belongs here"
    if slot.state is SlotState.OCCLUDED:
        return "something is in the way"
    return slot.expected


def _guess(slot: SlotNow) -> str:
    return f" · best guess {slot.guess.label} {100 * slot.guess.score:.0f} %" if slot.guess else ""


def _counted(states: Sequence[SlotState | None]) -> str:
    """`6 of 8 slots right · 1 wrong · 1 empty`."""
    counts = Counter(states)
    total, noun = len(states), "slot" if len(states) == 1 else "slots"
    if counts[SlotState.RIGHT] == total:
        return f"All {total} slots right" if total > 1 else "The slot is right"
    parts = [f"{counts[SlotState.RIGHT]} of {total} {noun} right"]
    parts += [f"{counts[state]} {state.value}" for state in _ORDER if state is not None and counts[state]]
    parts += [f"{counts[None]} not settled yet"] if counts[None] else []
    return " · ".join(parts)


@dataclass(frozen=True)
class Product:
    """The product that whole frames have shown for a while.

    Attributes:
        label: Its name; None where no frame named one.
        score: Mean of its scores.
        is_steady: Whether most readings name it.
        reason: Why no product is named, where frames were skipped.
    """

    label: str | None = None
    score: float = 0.0
    is_steady: bool = False
    reason: str | None = None


class SteadyProduct:
    """Names the product of whole frames by the readings of the last seconds, so that it does not flicker."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, str | None, float, str | None]] = deque(maxlen=256)
        self._held: str | None = None

    def take(self, reading: Reading, at_s: float) -> None:
        """Takes in one reading."""
        self._readings.append((at_s, reading.label, reading.score or 0.0, reading.reason))

    def now(self) -> Product:
        """Returns the product by the readings of the `STEADY_OVER_S` before the newest one."""
        readings = list(self._readings)
        recent = [each for each in readings if each[0] >= readings[-1][0] - STEADY_OVER_S]
        named = Counter(label for _, label, _, _ in recent if label is not None)
        if not named:
            self._held = None
            return Product(reason=recent[-1][3] if recent else None)
        label, count = named.most_common(1)[0]
        if self._held is not None and named[self._held] >= HELD_SHARE * len(recent):
            label, is_steady = self._held, True
        else:
            is_steady = count >= STEADY_SHARE * len(recent)
        self._held = label if is_steady else None
        return Product(label, fmean(score for _, each, score, _ in recent if each == label), is_steady)


def frame_verdict(product: Product, live: Liveness, *, min_score: float = MIN_SCORE) -> Verdict:
    """Returns the verdict on whole frames: their product, if there is one.

    Args:
        product: By the readings of the last seconds.
        live: Whether they are current.
        min_score: Mean score below which the product is called a guess.
    """
    if product.label is None:
        said = f"No product: {product.reason}" if product.reason else "No product yet"
        level: Literal["unsure", "product"] = "unsure"
    elif product.is_steady and product.score >= min_score:
        said, level = f"{product.label} · {100 * product.score:.0f} %", "product"
    else:
        said, level = f"Not sure · best guess {product.label} {100 * product.score:.0f} %", "unsure"
    if live.status != "live":
        last = said if product.label else None
        return Verdict(level="stale", headline=live.reason or "", last_known=last, since=live.since)
    return Verdict(level=level, headline=said)


def newest_intervals(taken_s: Iterable[float]) -> list[float]:
    """Returns the times between the newest frames, in seconds."""
    return [later - earlier for earlier, later in pairwise(taken_s)]
