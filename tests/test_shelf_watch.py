"""States of slots: what the votes say, when they settle, and how few classifications that takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from benchmarks import shelf_states
from edgebcnn.bundle import Label
from edgebcnn.demo.products import PRODUCTS
from edgebcnn.demo.watched_shelf import EMPTY, OCCLUDED, ShelfFrame, WatchedShelf
from edgebcnn.errors import DataError
from edgebcnn.shelf.appearance import Grid, Look, changed_share
from edgebcnn.shelf.regions import closer, crop, polygon_region
from edgebcnn.shelf.slots import Rules, SlotMap, load_slots
from edgebcnn.shelf.tracker import CHANGED_SHARE, ChangeGate, SlotTracker
from edgebcnn.shelf.voting import UNKNOWN, Ballot, Content, Kind, elect
from edgebcnn.shelf.watch import ShelfWatch, SlotState

LABELS = tuple(Label(name=product.name, gtin=product.gtin, coarse=product.coarse) for product in PRODUCTS)
RULES = Rules()


class NoisyOracle:
    """Stands in for a model: it knows what each slot shows, is unsure, and is wrong on one look in ten.

    What is occluded or half covered it takes for a certain product, confidently, half of the time.
    """

    def __init__(self, slots: SlotMap, *, width_px: int = 640, height_px: int = 480) -> None:
        self._regions = slots.regions(width_px=width_px, height_px=height_px)
        self._rng = np.random.default_rng(3)
        self._frame: ShelfFrame | None = None

    def see(self, frame: ShelfFrame) -> None:
        self._frame = frame

    def classify(self, crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        assert self._frame is not None
        frame = self._frame
        views = [(slot, view) for slot, region in enumerate(self._regions) for view in (region, closer(region))]
        known = [(slot, crop(frame.image_bgr, view, width_over_height=1.0)) for slot, view in views]
        shown = [next(slot for slot, one in known if np.array_equal(one, seen)) for seen in crops]
        return np.stack([self._answer(frame.truth[slot]) for slot in shown])

    def _answer(self, truth: str | None) -> NDArray[np.float32]:
        names = [label.name for label in LABELS]
        logits = self._rng.normal(0, 0.5, len(LABELS))
        if truth in names:
            logits[names.index(truth)] += self._rng.normal(5, 0.7)
            if self._rng.random() < 0.1:
                logits[self._rng.integers(len(LABELS))] += 7
        elif truth in (None, OCCLUDED) and self._rng.random() < 0.5:
            logits[11] += 6
        odds = np.exp(logits - logits.max())
        return np.asarray(odds / odds.sum(), np.float32)


def watched(
    folder: Path, *, seed: int, gate: ChangeGate, duration_s: float = 62.0, fps: float = 5.0
) -> shelf_states.Score:
    shelf = WatchedShelf(seed=seed, duration_s=duration_s)
    slots = shelf_states.prepared(shelf, folder)
    oracle = NoisyOracle(slots)
    return shelf_states.watch_shelf(
        shelf, slots, LABELS, oracle.classify, gate=gate, fps=fps, on_frame=oracle.see
    )  # fmt: skip


def test_states_are_right_nothing_flaps_and_the_gate_saves_two_thirds_of_the_invokes(tmp_path: Path) -> None:
    gated = watched(tmp_path, seed=1, gate=ChangeGate())
    assert gated.right >= 0.99 * gated.settled > 1000
    assert gated.foreign_right >= 0.99 * gated.foreign > 0
    assert gated.events >= 8
    assert (gated.false, gated.mistaken, gated.flaps) == ([], [], [])
    assert gated.invokes <= gated.looks / 3  # without a gate, every look is an invoke: the next test


def test_without_the_gate_every_slot_is_classified_in_every_frame_and_the_states_are_as_right(tmp_path: Path) -> None:
    free = watched(tmp_path, seed=2, gate=ChangeGate(enabled=False), duration_s=24.0, fps=4.0)
    assert free.invokes == free.looks == 8 * 96
    assert free.right >= 0.99 * free.settled
    assert (free.false, free.mistaken, free.flaps) == ([], [], [])


def test_a_day_too_short_to_settle_is_told_and_promises_nothing() -> None:
    total = shelf_states.Total.of([shelf_states.Score(looks=8, invokes=8)])
    assert str(total) == (
        "no time settled (n=0), 0 events, 0 false, 0 flapped, 8 of 8 slots classified; "
        "foreign packs no time settled (n=0), 0 mistaken for a product"
    )
    assert not total.keeps_what_is_promised(shelf_states.Total.of([shelf_states.Score(invokes=80)]))


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_a_model_that_the_demo_trains_keeps_what_the_slots_promise(demo: Path) -> None:
    others_than_chose_the_thresholds = ["--first-seed", "100", "--seeds", "2"]
    bundle = str(demo / "runs" / "latest" / "bundle")
    result = CliRunner().invoke(shelf_states.main, [bundle, *others_than_chose_the_thresholds])
    assert result.exit_code == 0, result.stderr


# ---- appearance


def cells(rng: np.random.Generator, count: int = 400) -> Look:
    return Look(rng.uniform(20, 220, (count, 3)).astype(np.float32))


def test_light_that_drifts_is_no_change_and_a_patch_is_one(rng: np.random.Generator) -> None:
    before = cells(rng)
    dimmer = Look(before.cells * np.array([0.83, 0.85, 0.88], np.float32))
    assert changed_share(before, dimmer) == 0.0
    patched = dimmer.cells.copy()
    patched[:40] += 60
    assert changed_share(before, Look(patched)) == pytest.approx(0.1)


def test_a_plain_coat_before_a_plain_wall_is_no_other_light() -> None:
    wall, coat = Look(np.full((50, 3), 150, np.float32)), Look(np.tile(np.array([60, 90, 170], np.float32), (50, 1)))
    assert changed_share(wall, coat) == 1.0
    assert changed_share(wall, Look(wall.cells * np.float32(0.5))) == 1.0, "no lamp halves its light between two looks"


def test_cells_that_were_overexposed_may_come_back_darker_or_not() -> None:
    before = Look(np.full((50, 3), 250, np.float32))
    before.cells[:40] = 100
    for light in (0.8, 1.0):
        after = Look(before.cells * np.float32(light))
        after.cells[40:] = 240
        assert changed_share(before, after) == 0.0


def test_the_gate_ignores_noise_and_sees_a_look_alike() -> None:
    shelf = WatchedShelf(seed=4, duration_s=60, noise=6.0)
    first, second = (frame.image_bgr for frame, _ in zip(shelf.frames(fps=1), range(2), strict=False))
    left, top, right, bottom = np.array(shelf.boxes()[0]) * [640, 480, 640, 480]
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    grid = Grid(polygon_region(corners, width_px=640, height_px=480))
    assert changed_share(grid.look(first), grid.look(second)) < CHANGED_SHARE / 3
    shares = []
    for product in (shelf.expected[0], *[p for p in PRODUCTS if p.coarse == shelf.expected[0].coarse]):
        contents = [product.name] + [EMPTY] * 7
        other = shelf.picture(contents, time_s=1.0, rng=np.random.default_rng(1))
        shares.append(changed_share(grid.look(first), grid.look(other)))
    assert sum(share > CHANGED_SHARE for share in shares) >= 3


def test_a_noisy_camera_moves_nothing_and_a_new_pack_is_still_seen(rng: np.random.Generator, around: Look) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate())
    pack, other = cells(rng), cells(rng)
    for at_s in np.arange(0, 6, 0.1):
        shown = (pack if at_s < 3 else other).cells
        noisy = Look(shown + rng.normal(0, 7, shown.shape).astype(np.float32))
        seen(tracker, noisy, MILK if at_s < 3 else YOGHURT, [float(at_s)], around=around)
        if 1.5 < at_s < 3:
            assert tracker.state == Content(Kind.PRODUCT, 0)
    assert tracker.state == Content(Kind.PRODUCT, 1)


# ---- votes


def ballot(*votes: Sequence[float]) -> Ballot:
    result = Ballot(len(votes[0]) - 1)
    for vote in votes:
        result.add(np.asarray(vote, np.float64))
    return result


def test_one_odd_look_among_three_is_outvoted() -> None:
    votes = ballot([0.9, 0.1, 0], [0.05, 0.95, 0], [0.9, 0.1, 0])
    assert elect(votes, None, RULES) == Content(Kind.PRODUCT, 0)


def test_what_is_settled_keeps_its_place_between_two_thresholds() -> None:
    held, other = Content(Kind.PRODUCT, 0), Content(Kind.PRODUCT, 1)
    close = ballot([0.46, 0.54, 0])
    assert elect(close, held, RULES) == held
    assert elect(close, other, RULES) == other
    assert elect(close, None, RULES) == UNKNOWN
    assert elect(ballot([0.3, 0.7, 0]), held, RULES) == other
    assert elect(ballot([0.4, 0.3, 0.3]), held, RULES) == UNKNOWN


def test_nothing_there_is_a_content_like_any_other() -> None:
    assert elect(ballot([0.1, 0.1, 0.8]), None, RULES).kind is Kind.EMPTY


# ---- one slot over time


def seen(tracker: SlotTracker, look: Look, vote: Sequence[float], times_s: Sequence[float], *, around: Look) -> int:
    """Shows a slot a look at some times, with what the model would say of it; counts the classifications."""
    invokes = 0
    for at_s in times_s:
        if tracker.look(look, lambda: around, at_s=at_s):
            invokes += 1
            tracker.vote(np.asarray(vote, np.float64), at_s=at_s)
        tracker.settle(at_s=at_s)
    return invokes


@pytest.fixture
def around(rng: np.random.Generator) -> Look:
    return cells(rng, 100)


MILK, YOGHURT, NOBODY = (0.9, 0.1, 0.0), (0.1, 0.9, 0.0), (0.4, 0.4, 0.2)


def test_a_slot_that_does_not_change_is_classified_four_times_and_then_at_the_floor_rate(
    rng: np.random.Generator, around: Look
) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate(floor_s=10))
    look = cells(rng)
    assert seen(tracker, look, MILK, np.arange(0, 5, 0.1).tolist(), around=around) == 4
    assert tracker.state == Content(Kind.PRODUCT, 0)
    assert seen(tracker, look, MILK, np.arange(5, 65, 0.1).tolist(), around=around) == 6


def test_a_hand_that_comes_and_goes_settles_nothing(rng: np.random.Generator, around: Look) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate())
    pack = cells(rng)
    seen(tracker, pack, MILK, np.arange(0, 3, 0.1).tolist(), around=around)
    for at_s in np.arange(3, 5, 0.1):
        assert seen(tracker, cells(rng), YOGHURT, [float(at_s)], around=around) == 0, "what moves is not classified"
    seen(tracker, pack, MILK, np.arange(5, 9, 0.1).tolist(), around=around)
    assert tracker.state == Content(Kind.PRODUCT, 0)


def test_what_stands_in_the_way_is_occluded_and_not_another_product(rng: np.random.Generator, around: Look) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate())
    pack, coat, coat_around = cells(rng), cells(rng), cells(rng, 100)
    seen(tracker, pack, MILK, np.arange(0, 3, 0.1).tolist(), around=around)
    seen(tracker, coat, YOGHURT, np.arange(3, 10, 0.1).tolist(), around=coat_around)
    assert tracker.state is not None
    assert tracker.state.kind is Kind.OCCLUDED
    seen(tracker, pack, MILK, np.arange(10, 13, 0.1).tolist(), around=around)
    assert tracker.state == Content(Kind.PRODUCT, 0)


def test_a_lamp_that_is_switched_is_looked_at_again_and_settles_nothing(rng: np.random.Generator, around: Look) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate())
    pack = cells(rng)
    seen(tracker, pack, MILK, np.arange(0, 3, 0.1).tolist(), around=around)
    darker, around_darker = (Look(look.cells * np.float32(0.5)) for look in (pack, around))
    assert seen(tracker, darker, MILK, np.arange(3, 9, 0.1).tolist(), around=around_darker) == 4
    assert tracker.state == Content(Kind.PRODUCT, 0)


def test_who_half_covers_a_slot_does_not_become_a_part_of_the_shelf(rng: np.random.Generator, around: Look) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate())
    pack, elbow = cells(rng), cells(rng)
    seen(tracker, pack, MILK, np.arange(0, 3, 0.1).tolist(), around=around)
    partly = around.cells.copy()
    partly[:30] = 10  # 30 % of what is around: not yet in the way
    seen(tracker, elbow, NOBODY, np.arange(3, 8, 0.1).tolist(), around=Look(partly))
    wholly = Look(np.roll(around.cells, 1, axis=0))
    seen(tracker, cells(rng), YOGHURT, np.arange(8, 16, 0.1).tolist(), around=wholly)
    assert tracker.state is not None
    assert tracker.state.kind is Kind.OCCLUDED
    seen(tracker, pack, MILK, np.arange(16, 19, 0.1).tolist(), around=around)
    assert tracker.state == Content(Kind.PRODUCT, 0)


def test_what_stands_beside_a_slot_for_long_is_a_part_of_the_shelf(rng: np.random.Generator, around: Look) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate())
    seen(tracker, cells(rng), MILK, np.arange(0, 3, 0.1).tolist(), around=around)
    seen(tracker, cells(rng), YOGHURT, np.arange(3, 30, 0.1).tolist(), around=cells(rng, 100))
    assert tracker.state == Content(Kind.PRODUCT, 1)


def test_what_the_model_does_not_know_is_unknown(rng: np.random.Generator, around: Look) -> None:
    tracker = SlotTracker(2, RULES, gate=ChangeGate())
    seen(tracker, cells(rng), NOBODY, np.arange(0, 3, 0.1).tolist(), around=around)
    assert tracker.state == UNKNOWN


def test_the_empty_shelf_is_told_by_its_picture_without_a_classification(
    rng: np.random.Generator, around: Look
) -> None:
    empty = cells(rng)
    tracker = SlotTracker(2, RULES, gate=ChangeGate(), empty=empty)
    darker = Look(empty.cells * np.float32(0.6))
    assert seen(tracker, darker, MILK, np.arange(0, 3, 0.1).tolist(), around=around) == 0
    assert tracker.state is not None
    assert tracker.state.kind is Kind.EMPTY


# ---- a whole shelf


TWO_SLOTS = """\
units = "share"
empty_product = "Nothing"
[[shelf]]
name = "Top"
slot = [
    {name = "A1", product = "Red", box = [0.05, 0.1, 0.45, 0.9]},
    {name = "A2", gtin = "17", box = [0.55, 0.1, 0.95, 0.9]},
]
[[shelf]]
name = "Low"
slot = [{name = "A1", product = "Blue", box = [0.05, 0.1, 0.45, 0.9]}]
"""


def test_a_product_that_stands_for_all_other_packs_is_unknown(tmp_path: Path) -> None:
    file = 'unknown_product = "Other-Packs"\n' + TWO_SLOTS.replace('gtin = "17"', 'product = "Blue"')
    (tmp_path / "slots.toml").write_text(file)
    labels = (Label(name="Red"), Label(name="Other-Packs"), Label(name="Blue"), Label(name="Nothing"))

    def classify(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.array([(0.3, 0.7, 0, 0) if seen.mean() > 150 else (0, 0, 1, 0) for seen in crops], np.float32)

    watch = ShelfWatch(load_slots(tmp_path / "slots.toml"), labels, classify, width_over_height=1.0, gate=ChangeGate())
    frame = np.full((100, 200, 3), 90, np.uint8)
    frame[:, :100] = 200
    for at_s in np.arange(0, 3, 0.1):
        watch.look(frame, at_s=float(at_s))
    assert [(reading.state, reading.product) for reading in watch.readings()] == [
        (SlotState.UNKNOWN, None), (SlotState.RIGHT, labels[2]), (SlotState.UNKNOWN, None)
    ]  # fmt: skip
    assert all("Other-Packs" not in [name for _, name, score in each if score] for each in watch.candidates(2))


def test_compliance_counts_the_slots_of_each_shelf(tmp_path: Path) -> None:
    (tmp_path / "slots.toml").write_text(TWO_SLOTS.replace('"17"', '"00000017"'))
    labels = (Label(name="Red"), Label(name="Blue", gtin="17"), Label(name="Nothing"))
    answers = {"left": (0.9, 0.1, 0.0), "right": (0.0, 0.1, 0.9)}

    def classify(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        return np.array([answers["left" if seen.mean() > 150 else "right"] for seen in crops], np.float32)

    watch = ShelfWatch(load_slots(tmp_path / "slots.toml"), labels, classify, width_over_height=1.0, gate=ChangeGate())
    assert str(watch.compliance()[0]) == "Top: 0 of 0 right (nothing seen yet) · 2 unsettled"
    frame = np.full((100, 200, 3), 90, np.uint8)
    frame[:, :100] = 200
    changes = [change for at_s in np.arange(0, 3, 0.1) for change in watch.look(frame, at_s=float(at_s)).changes]
    assert [(change.now.shelf, change.now.slot, change.now.state) for change in changes] == [
        ("Top", "A1", SlotState.RIGHT), ("Top", "A2", SlotState.EMPTY), ("Low", "A1", SlotState.WRONG)
    ]  # fmt: skip
    assert {change.previous for change in changes} == {None}
    assert [str(shelf) for shelf in watch.compliance()] == [
        "Top: 1 of 2 right (50.0 %) · 1 empty", "Low: 0 of 1 right (0.0 %) · 1 wrong"
    ]  # fmt: skip


def test_a_picture_of_the_empty_shelf_of_another_size_is_refused(tmp_path: Path) -> None:
    shelf = WatchedShelf(seed=1)
    watch = ShelfWatch(
        shelf_states.prepared(shelf, tmp_path), LABELS, lambda crops: np.zeros((len(crops), 24), np.float32),
        width_over_height=1.0, gate=ChangeGate(),
    )  # fmt: skip
    with pytest.raises(DataError, match=r"empty\.png has 640 × 480 pixels and the frames have 1280 × 960"):
        watch.look(np.zeros((960, 1280, 3), np.uint8), at_s=0.0)
