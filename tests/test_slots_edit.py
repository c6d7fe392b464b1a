"""A slots file that is drawn anew keeps what was not drawn, and is never lost to somebody else's change."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError, SlotsError, StorageError
from edgebcnn.shelf.edit import SlotsEditor, as_toml
from edgebcnn.shelf.slots import Shelf, Slot, load_slots
from tests.test_shelf_slots import GOOD, LABELS

NAMES = ("A\"1\" \\ 'x'", "Käse # 3", "tab\tand\nline", "del\x7f", "[slot] = {}", "日本")


def editor(path: Path, *, width_px: int = 640, height_px: int = 480, labels: tuple[Label, ...] = LABELS) -> SlotsEditor:
    return SlotsEditor(path, width_px=width_px, height_px=height_px, labels=labels)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "slots.toml"
    path.write_text(GOOD)
    return path


def shelf(**slot: object) -> tuple[Shelf, ...]:
    """One shelf with one slot that is right, but for what is given."""
    known = {"name": "A1", "product": "Oat-Milk", "box": (10.0, 20.0, 110.0, 220.0)}
    return (Shelf(name="Top", slot=(Slot.model_validate(known | slot),)),)


def test_a_new_file_has_pixels_of_the_cameras_frame_and_is_read_as_it_was_drawn(tmp_path: Path) -> None:
    path = tmp_path / "new" / "slots.toml"
    assert editor(path).load().version is None
    version = editor(path).save(shelf(), version=None)
    text = path.read_text()
    assert text.startswith('units = "px"\nframe_px = [640, 480]\n\n[[shelf]]\n')
    assert "box = [10, 20, 110, 220]" in text
    assert load_slots(path).file.shelf == shelf()
    assert editor(path).load().version == version


def test_names_of_every_kind_come_back_as_they_were(tmp_path: Path) -> None:
    shelves = tuple(Shelf(name=name, slot=shelf(name=name)[0].slot) for name in NAMES)
    editor(tmp_path / "slots.toml").save(shelves, version=None)
    assert load_slots(tmp_path / "slots.toml").file.shelf == shelves


def test_rules_shares_and_gtins_stay_when_one_slot_is_moved(file: Path) -> None:
    drawn = editor(file).load()
    assert drawn.has_comments
    first = drawn.shelves[0].slot[0]
    assert first.box == pytest.approx((64, 48, 192, 240))
    moved = first.model_copy(update={"box": (128.0, 48.0, 256.0, 240.0)})
    top = drawn.shelves[0].model_copy(update={"slot": (moved, drawn.shelves[0].slot[1])})
    before = load_slots(file).file
    editor(file).save((top, drawn.shelves[1]), version=drawn.version)
    after = load_slots(file).file
    assert after.shelf[0].slot[0].box == (0.2, 0.1, 0.4, 0.5)
    assert after.shelf[0].slot[1:] == before.shelf[0].slot[1:]
    assert after.model_copy(update={"shelf": before.shelf}) == before
    assert "margin" not in file.read_text(), "defaults stay defaults"


def test_pixels_counted_on_another_size_become_those_of_this_frame(tmp_path: Path) -> None:
    path = tmp_path / "slots.toml"
    editor(path).save(shelf(), version=None)
    large = editor(path, width_px=1280, height_px=960)
    drawn = large.load()
    assert drawn.shelves == shelf(box=(20.0, 40.0, 220.0, 440.0))
    large.save(drawn.shelves, version=drawn.version)
    assert load_slots(path).file.frame_px == (1280, 960)
    with pytest.raises(DataError, match="frames of 640 × 360 have another aspect"):
        editor(path, height_px=360).load()


def test_what_somebody_else_wrote_meanwhile_is_left_as_it_is(file: Path) -> None:
    drawn = editor(file).load()
    theirs = GOOD.replace("2.0", "3.0")
    file.write_text(theirs)
    with pytest.raises(StorageError, match=r"slots\.toml has changed since it was loaded"):
        editor(file).save(drawn.shelves, version=drawn.version)
    assert file.read_text() == theirs
    file.unlink()
    with pytest.raises(StorageError, match="has changed"):
        editor(file).save(drawn.shelves, version=drawn.version)
    version = editor(file).save(shelf(), version=None)
    with pytest.raises(StorageError, match="has changed"):
        editor(file).save(shelf(), version=None)
    editor(file).save(shelf(name="B1"), version=version)


@pytest.mark.parametrize(
    ("slot", "key", "reason"),
    [
        ({"product": "Oat-Mlik"}, "product", "the nearest is 'Oat-Milk'"),
        ({"product": None, "gtin": "12345678"}, "gtin", "no product has GTIN 12345678"),
        ({"box": (600.0, 0.0, 700.0, 100.0)}, "box", "it leaves the picture"),
        ({"box": (0.0, 0.0, 8.0, 100.0)}, "box", "it has 8 × 100 pixels"),
        ({"box": None, "polygon": ((0.0, 0.0), (9.0, 9.0))}, "polygon", "three corners or more"),
        ({"product": None}, None, "give either product or gtin"),
    ],
)
def test_a_slot_that_cannot_be_is_named_with_its_field_and_nothing_is_written(
    file: Path, slot: dict[str, object], key: str | None, reason: str
) -> None:
    with pytest.raises(SlotsError, match=reason) as raised:
        editor(file).save(shelf(**slot), version=editor(file).load().version)
    assert raised.value.place == ("shelf", 0, "slot", 0, *([key] if key else []))
    assert file.read_text() == GOOD


def test_without_a_bundle_products_are_not_checked(file: Path) -> None:
    editor(file, labels=()).save(shelf(product="Something"), version=editor(file).load().version)
    assert load_slots(file).file.shelf[0].slot[0].product == "Something"
    assert load_slots(file).file.empty_product == "Nothing"


def test_a_file_is_text_that_reads_as_the_same_file(file: Path) -> None:
    known = load_slots(file).file
    file.write_text(as_toml(known))
    assert load_slots(file).file == known
