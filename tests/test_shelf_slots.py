"""The slots file: what it may say, and one sentence with line and field for what it may not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.shelf.regions import crop, polygon_region, surroundings
from edgebcnn.shelf.slots import MAX_CORNERS, MAX_SLOTS, Rules, load_slots
from edgebcnn.shelf.toml_lines import line_of

LABELS = (Label(name="Oat-Milk", gtin="7394376616037"), Label(name="Oat-Yoghurt"), Label(name="Nothing"))
GOOD = """\
units = "share"  # of the frame
empty_product = "Nothing"

[rules]
settle_s = 2.0

[[shelf]]
name = "Top"

[[shelf.slot]]
name = "A1"
product = "Oat-Milk"
box = [0.1, 0.1, 0.3, 0.5]

[[shelf.slot]]
name = "A2"
gtin = "07394376616037"
polygon = [
    [0.4, 0.1],
    [0.6, 0.12],
    [0.58, 0.5],
]

[[shelf]]
name = "Bottom"
slot = [{name = "A1", product = "Oat-Yoghurt", box = [0.0, 0.5, 1.0, 1.0]}]
"""


def refused(tmp_path: Path, text: str) -> str:
    """What is said of a slots file, less its path."""
    file = tmp_path / "slots.toml"
    file.write_text(text)
    with pytest.raises(DataError) as raised:
        slots = load_slots(file)
        slots.class_ids(LABELS)
        slots.empty_class_id(LABELS)
        slots.unknown_class_id(LABELS)
        slots.regions(width_px=640, height_px=480)
    assert "\n" not in str(raised.value)
    return str(raised.value).removeprefix(str(file))


def test_products_are_found_by_name_and_by_gtin_with_or_without_leading_zeros(tmp_path: Path) -> None:
    (tmp_path / "slots.toml").write_text(GOOD)
    slots = load_slots(tmp_path / "slots.toml")
    assert slots.class_ids(LABELS) == (0, 0, 1)
    assert slots.empty_class_id(LABELS) == 2
    assert [(shelf.name, slot.name) for shelf, slot in slots.slots()] == [
        ("Top", "A1"),
        ("Top", "A2"),
        ("Bottom", "A1"),
    ]
    assert slots.file.rules.settle_s == 2.0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"share"', '"cm"', ", line 1, field units: Input should be 'px' or 'share'"),
        ("settle_s", "setle_s", ", line 5, field rules setle_s: there is no such field"),
        ("settle_s = 2.0", "settle_s = -1.0", ", line 5, field rules settle_s: Input should be greater than or equal"),
        ("settle_s = 2.0", "settle_s = nan", ", line 5, field rules settle_s: Input should be a finite number"),
        ('name = "A1"\nproduct', "product", ", line 10, field shelf 1, slot 1, name: it is missing"),
        ('name = "A2"', 'name = "A1"', ", line 16, field shelf 1, slot 2, name: another slot of this shelf is called"),
        ('"Bottom"', '"Top"', ", line 25, field shelf 2, name: another shelf is called 'Top'"),
        ("0.3, 0.5]", "0.3]", ", line 13, field shelf 1, slot 1, box 4: it is missing"),
        ("[0.1, 0.1, 0.3, 0.5]", "[0.3, 0.1, 0.1, 0.5]", ", line 13, field shelf 1, slot 1, box: its right and bottom"),
        ("0.3, 0.5]", "0.3, 1.5]", ", line 13, field shelf 1, slot 1, box: it leaves the picture, which ends at 1"),
        ("0.3, 0.5]", "0.3, 0.11]", ", line 13, field shelf 1, slot 1, box: in a frame of 640 × 480 it has 128 × 5"),
        ("    [0.58, 0.5],\n", "", ", line 18, field shelf 1, slot 2, polygon: a polygon has three corners"),
        ("[0.58, 0.5],", "[0.4, 0.5], [0.6, 0.5],", ", line 18, field shelf 1, slot 2, polygon: its edges cross"),
        ('gtin = "07394376616037"\n', "", ", line 15, field shelf 1, slot 2: give either product or gtin"),
        ("box = [0.1, 0.1, 0.3, 0.5]\n", "", ", line 10, field shelf 1, slot 1: give either box or polygon"),
        ("07394376616037", "07394376616000", "line 17, field shelf 1, slot 2, gtin: in the bundle no product has GTIN"),
        ("07394376616037", "milk", ", line 17, field shelf 1, slot 2, gtin: a GTIN has 8 to 14 digits; correct it"),
        ('"Oat-Milk"', '"Oat-Mlik"', "product: the bundle has no product 'Oat-Mlik'; the nearest is 'Oat-Milk'"),
        ('"Nothing"', '"Void"', ", line 2, field empty_product: the bundle has no product 'Void'"),
        ("[rules]", 'unknown_product = "All"\n[rules]', ", line 4, field unknown_product: the bundle has no product"),
        ("[rules]", 'unknown_product = "Oat-Yoghurt"\n[rules]', "shelf 2, slot 1: no slot can expect the unknown"),
        ("units", 'empty_picture = "no.png"\nunits', ", line 1, field empty_picture: there is no file"),
        ('"share"', '"px"', ", line 1, field frame_px: pixels need it"),
        ("[rules]", "frame_px = [640, 480]\n[rules]", ", line 4, field frame_px: shares of the frame need no size"),
        ("[rules]", "[rules", ": it is not TOML (Expected ']' at the end of a table declaration (at line 4, "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_with_its_line_and_field(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    assert said in refused(tmp_path, GOOD.replace(old, new, 1))


def test_a_slots_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the slots file .*none\.toml \(No such file or directory\)"):
        load_slots(tmp_path / "none.toml")


def test_pixels_follow_the_camera_to_another_size_of_the_same_aspect_alone(tmp_path: Path) -> None:
    text = 'units = "px"\nframe_px = [640, 480]\n[[shelf]]\nname = "S"\n'
    text += '[[shelf.slot]]\nname = "A"\nproduct = "Oat-Milk"\nbox = [64, 48, 320, 240]\n'
    (tmp_path / "slots.toml").write_text(text)
    slots = load_slots(tmp_path / "slots.toml")
    small, large = slots.regions(width_px=640, height_px=480)[0], slots.regions(width_px=1280, height_px=960)[0]
    assert (small.left, small.top, small.mask.shape) == (64, 48, (192, 256))
    assert (large.left, large.top, large.mask.shape) == (128, 96, (384, 512))
    with pytest.raises(DataError, match=r"line 2, field frame_px: slots were drawn on 640 × 480, and frames of 1280"):
        slots.regions(width_px=1280, height_px=720)


def test_the_line_of_a_field_is_found_in_any_spelling_of_toml() -> None:
    text = 'a.b = 1\n\n# c = 2\nc = """\nd = 3\n"""\nd = [\n  1,\n  # e\n  2]\n[x]\ny = {z = 4}\n'
    places = {("a", "b"): 1, ("c",): 4, ("d",): 7, ("d", 1): 7, ("x",): 11, ("x", "y", "z"): 12, ("x", "none"): 11}
    assert {place: line_of(text, place) for place in places} == places
    assert line_of(text, ("nowhere",)) == 1


def test_the_model_sees_the_whole_slot_and_nothing_beside_it() -> None:
    frame = np.full((100, 100, 3), 200, np.uint8)
    frame[20:80, 40:60] = 50
    seen = crop(frame, polygon_region([(40, 20), (60, 20), (60, 80), (40, 80)], width_px=100, height_px=100),
                width_over_height=1.0)  # fmt: skip
    assert seen.shape == (60, 60, 3)
    assert (seen == 50).all(), "neighbours must not get in, neither by the crop nor by the filling"
    triangle = polygon_region([(40, 20), (60, 20), (40, 80)], width_px=100, height_px=100)
    frame[20:80, 40:60][triangle.mask == 0] = 250
    assert (crop(frame, triangle, width_over_height=2.0) == 50).all()


def test_the_surroundings_of_a_slot_hold_no_slot() -> None:
    boxes = [[(20, 20), (40, 20), (40, 60), (20, 60)], [(42, 20), (62, 20), (62, 60), (42, 60)]]
    regions = [polygon_region(box, width_px=100, height_px=100) for box in boxes]
    around = surroundings(regions[0], regions, width_px=100, height_px=100)
    free = np.zeros((100, 100), bool)
    free[around.top :, around.left :][: around.mask.shape[0], : around.mask.shape[1]] = around.mask > 0
    assert not free[20:60, 20:40].any()
    assert not free[20:60, 42:62].any()
    assert not free[30, 41], "packs may stick out a little"
    assert free[15, 30]


@pytest.mark.parametrize(
    ("given", "of_bundle", "needed"), [(None, None, 0.6), (None, 0.35, 0.35), (None, 0.97, 0.6), (0.8, 0.35, 0.8)]
)
def test_a_bundle_lowers_the_default_score_and_the_slots_file_has_the_last_word(
    given: float | None, of_bundle: float | None, needed: float
) -> None:
    assert Rules(min_score=given).with_default(of_bundle).needed_score == needed


def round_slot(corners: int) -> str:
    """A polygon of so many corners on one line each, around the middle of the frame."""
    turns = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    points = ",\n".join(f"[{0.5 + 0.4 * np.cos(turn)}, {0.5 + 0.4 * np.sin(turn)}]" for turn in turns)
    slot = f'[[shelf.slot]]\nname = "A"\nproduct = "Oat-Milk"\npolygon = [\n{points}\n]\n'
    return f'units = "share"\n[[shelf]]\nname = "Top"\n{slot}'


@pytest.mark.timeout(20)
def test_a_polygon_of_thousands_of_corners_is_refused_soon(tmp_path: Path) -> None:
    assert ", line 7, field shelf 1, slot 1, polygon: it has too many entries" in refused(tmp_path, round_slot(6000))


@pytest.mark.timeout(20)
def test_a_polygon_of_as_many_corners_as_may_be_is_checked_for_crossings(tmp_path: Path) -> None:
    file = tmp_path / "slots.toml"
    file.write_text(round_slot(MAX_CORNERS))
    assert len(load_slots(file).outlines()[0]) == MAX_CORNERS
    lines = round_slot(MAX_CORNERS).splitlines(keepends=True)
    lines[17], lines[517] = lines[517], lines[17]
    assert "its edges cross" in refused(tmp_path, "".join(lines))


def test_a_file_of_too_many_slots_is_refused(tmp_path: Path) -> None:
    slot = '{name = "%d", product = "Oat-Milk", box = [0.0, 0.5, 1.0, 1.0]}'
    slots = ",\n".join(slot % number for number in range(MAX_SLOTS + 1))
    text = f'units = "share"\n[[shelf]]\nname = "Top"\nslot = [\n{slots}\n]\n'
    assert f"there are more than {MAX_SLOTS} slots" in refused(tmp_path, text)
