"""What changed on a shelf, with pictures before and after: kept within a cap, over a restart, and never of a person."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebcnn.bundle import Label
from edgebcnn.errors import StorageError
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.shelf.watch import SlotChange, SlotReading, SlotState
from edgebcnn.sources.frames import Frame
from edgebcnn.web import history
from edgebcnn.web.history import FILE_NAME, History
from tests.broker import wait_until

PLACES = {("Top", "A1"): [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)], ("Top", "A2"): [(0.5, 0.0), (1, 0), (1, 1)]}
MILK = Label(name="Milk")


def changed(slot: str, state: SlotState, previous: SlotState | None = None) -> ShelfReading:
    now = SlotReading("Top", slot, MILK, state, MILK if state is SlotState.RIGHT else None, 0.9)
    return ShelfReading("0", 1, "2026-11-20T08:00:00.000Z", (SlotChange(now, previous),), (), (), 1.0, 1.0)


def frame(gray: int) -> Frame:
    return Frame(1, np.full((100, 200, 3), gray, np.uint8), time.monotonic())


def opened(folder: Path | None, failures: list[Exception] | None = None) -> History:
    failed = (failures if failures is not None else []).append
    return History("abcdef", PLACES, folder=folder, on_failure=failed)


def taken(kept: History, *changes: tuple[int, ShelfReading]) -> None:
    """Hands over changes, each with a frame of that gray, and waits until they are kept."""
    before = len(kept.changes())
    for gray, each in changes:
        kept.take(frame(gray), each)
    wait_until(lambda: len(kept.changes()) >= min(before + len(changes), history.MAX_SHOWN))


def gray(jpeg: bytes | None) -> int:
    assert jpeg is not None
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None and max(image.shape) <= history.PICTURE_PX
    return int(image.mean().round())


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_change_has_the_picture_before_and_after_and_is_found_by_slot_and_state(
    on_disk: bool, tmp_path: Path
) -> None:
    kept = opened(tmp_path / "history" if on_disk else None)
    taken(
        kept,
        (200, changed("A1", SlotState.RIGHT)),
        (90, changed("A2", SlotState.RIGHT)),
        (30, changed("A1", SlotState.EMPTY, SlotState.RIGHT)),
    )
    newest = kept.changes()[0]
    assert (newest["state"], newest["previous"], newest["id"]) == ("empty", "right", kept.newest)
    assert (gray(kept.picture(newest["before"])), gray(kept.picture(newest["after"]))) == (200, 30)
    assert [each["slot"] for each in kept.changes(slot="A2")] == ["A2"]
    assert [each["slot"] for each in kept.changes(state="right")] == ["A2", "A1"]
    assert kept.changes(shelf="Bottom") == []
    assert kept.picture("../../etc/passwd") is None
    kept.close()


def test_no_picture_is_kept_of_what_stands_in_the_way(tmp_path: Path) -> None:
    kept = opened(tmp_path)
    taken(kept, (200, changed("A1", SlotState.RIGHT)), (10, changed("A1", SlotState.OCCLUDED, SlotState.RIGHT)))
    assert kept.changes()[0]["after"] is None
    assert [each.name for each in tmp_path.glob("*.jpg")] == ["abcdef-0.jpg"]
    kept.close()


def test_the_history_survives_a_restart_a_cut_line_and_what_others_left_there(tmp_path: Path) -> None:
    first = opened(tmp_path)
    taken(first, (200, changed("A1", SlotState.RIGHT)))
    first.close()
    with (tmp_path / FILE_NAME).open("a") as lines:
        lines.write('{"id": "../x-1", "time": ""}\n{"id": "abc')
    (tmp_path / "abcdef-7.jpg").write_bytes(b"of no change")
    again = History("fedcba", PLACES, folder=tmp_path, on_failure=print)
    taken(again, (30, changed("A1", SlotState.EMPTY, SlotState.RIGHT)))
    newest = again.changes()[0]
    assert [each["id"] for each in again.changes()] == ["fedcba-0", "abcdef-0"]
    assert gray(again.picture(newest["before"])) == 200
    assert not (tmp_path / "abcdef-7.jpg").exists()
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o077 == 0
    again.close()


def test_only_the_newest_changes_and_their_pictures_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_CHANGES", 3)
    kept = opened(tmp_path)
    for _ in range(5):
        kept.take(frame(9), changed("A1", SlotState.RIGHT))
    wait_until(lambda: kept.newest == "abcdef-4")
    assert [each["id"] for each in kept.changes()] == ["abcdef-4", "abcdef-3", "abcdef-2"]
    assert sorted(each.stem for each in tmp_path.glob("*.jpg")) == ["abcdef-2", "abcdef-3", "abcdef-4"]
    kept.close()


def test_a_folder_that_cannot_be_is_one_sentence_and_a_disk_that_fails_later_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        opened(tmp_path / "file")
    failures: list[Exception] = []
    kept = opened(tmp_path / "gone", failures)
    (tmp_path / "gone" / FILE_NAME).unlink()
    (tmp_path / "gone").rmdir()
    (tmp_path / "gone").write_text("")
    taken(kept, (1, changed("A1", SlotState.RIGHT)))
    assert len(failures) == 1 and isinstance(failures[0], StorageError)
    kept.close()
