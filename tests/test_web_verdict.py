"""What a page says first: the verdict on a shelf and on whole frames, and when nothing is current any more."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgebcnn.loop.reading import Candidate
from edgebcnn.shelf.watch import SlotState
from edgebcnn.web.state import SlotNow
from edgebcnn.web.verdict import (
    Pulse,
    SteadyProduct,
    frame_verdict,
    liveness,
    shelf_verdict,
    stale_after_s,
)
from tests.readings import reading

LIVE = Pulse(
    taken_ago_s=0.1,
    seen_ago_s=0.1,
    seen_at="2026-11-20T08:00:00.000Z",
    lost_s=None,
    loop_s=0.05,
    skipped=None,
    stale_after_s=2.0,
)


def slot(name: str, state: SlotState | None, **known: object) -> SlotNow:
    fields = {"shelf": "Top", "slot": name, "corners": (), "state": state, "expected": "Milk", "product": None}
    return SlotNow(**{**fields, "score": 0.9, "top3": (), **known})  # type: ignore[arg-type]


def test_a_shelf_on_which_all_is_right_is_one_short_sentence() -> None:
    verdict = shelf_verdict([slot("A1", SlotState.RIGHT), slot("A2", SlotState.RIGHT)], liveness(LIVE))
    assert (verdict.level, verdict.headline, verdict.problems) == ("right", "All 2 slots right", ())


def test_problems_come_in_the_order_in_which_a_person_acts_on_them_and_a_guess_is_called_one() -> None:
    slots = [
        slot("A1", SlotState.OCCLUDED),
        slot("A2", SlotState.UNKNOWN, score=0.41, guess=Candidate(3, "Juice", 0.59)),
        slot("A3", SlotState.EMPTY),
        slot("A4", SlotState.WRONG, product="Yoghurt"),
        slot("A5", SlotState.RIGHT),
        slot("A6", None),
    ]
    verdict = shelf_verdict(slots, liveness(LIVE))
    assert verdict.level == "problem"
    assert verdict.headline == "1 of 6 slots right · 1 wrong · 1 empty · 1 unknown · 1 occluded · 1 not settled yet"
    assert [(each.slot, each.text) for each in verdict.problems] == [
        ("A4", "Yoghurt where Milk belongs"),
        ("A3", "empty, Milk belongs here"),
        ("A2", "unknown · best guess Juice 59 %, Milk belongs here"),
        ("A1", "something is in the way"),
    ]


@pytest.mark.parametrize(
    ("pulse", "status"),
    [
        (LIVE, "live"),
        (replace(LIVE, taken_ago_s=None, seen_ago_s=None, seen_at=None), "starting"),
        (replace(LIVE, lost_s=1.5), "lost"),
        (replace(LIVE, lost_s=0.3), "live"),
        (replace(LIVE, taken_ago_s=2.1, seen_ago_s=2.1), "silent"),
        (replace(LIVE, seen_ago_s=2.1, skipped="black"), "unusable"),
        (replace(LIVE, loop_s=2.1), "stuck"),
    ],
)
def test_no_state_is_current_while_no_frame_is_read(pulse: Pulse, status: str) -> None:
    live = liveness(pulse)
    assert live.status == status
    verdict = shelf_verdict([slot("A1", SlotState.RIGHT)], live)
    assert (verdict.level == "right") == (status == "live")
    if status != "live":
        assert (verdict.level, verdict.last_known) == ("stale", "The slot is right")
        assert verdict.headline == live.reason


def test_a_slow_source_pace_or_model_is_not_taken_for_a_dead_one_and_an_outage_does_not_count() -> None:
    fast = stale_after_s([0.1] * 15, pace_s=0.0, latency_p95_ms=20.0)
    assert fast < 2
    assert stale_after_s([0.1] * 14 + [90.0], pace_s=0.0, latency_p95_ms=20.0) == fast
    assert stale_after_s([4.0] * 15, pace_s=0.0, latency_p95_ms=20.0) > 6
    assert stale_after_s([], pace_s=10.0, latency_p95_ms=None) > 15
    assert stale_after_s([], pace_s=0.0, latency_p95_ms=3000.0) > 9


def test_the_product_of_whole_frames_does_not_flicker_and_a_low_score_is_called_a_guess() -> None:
    product = SteadyProduct()
    for number in range(20):
        odd = number % 5 == 4
        product.take(reading(number, label="Juice" if odd else "Milk", score=0.9), at_s=number / 10)
        assert product.now().label == "Milk"
    assert frame_verdict(product.now(), liveness(LIVE)).headline == "Milk · 90 %"
    assert frame_verdict(product.now(), liveness(LIVE), min_score=0.95).headline == "Not sure · best guess Milk 90 %"
    for number in range(20, 60):
        product.take(reading(number, label=("Milk", "Juice", "Tea")[number % 3], score=0.18), at_s=number / 10)
    verdict = frame_verdict(product.now(), liveness(LIVE))
    assert verdict.level == "unsure" and verdict.headline.startswith("Not sure · best guess ")
    for number in range(60, 90):
        product.take(reading(number, label=None, score=None, top3=(), reason="black"), at_s=number / 10)
    assert frame_verdict(product.now(), liveness(LIVE)).headline == "No product: black"
