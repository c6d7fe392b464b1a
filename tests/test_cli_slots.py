"""`edgebcnn slots check` and `edgebcnn run --slots`, as a user meets them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgebcnn.cli import main
from edgebcnn.errors import DataError
from tests.shelf_video import SLOTS, make_shelf, picture
from tests.typing_in import keys


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf"))


def typed(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_a_video_gives_an_event_for_each_state_that_settles(shelf: Path, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    result = typed(
        *("run", "--bundle", shelf / "bundle", "--camera", shelf / "shelf.avi"),
        *("--slots", shelf / "slots.toml", "--jsonl", events),
    )
    assert result.exit_code == 0, result.stderr
    told = [json.loads(line) for line in events.read_text().splitlines()]
    assert [(event["slot"], event["state"], event["previous"], event["product"]) for event in told] == [
        ("A1", "right", None, "Red"), ("A2", "right", None, "Green"), ("A2", "wrong", "right", "Blue")
    ]  # fmt: skip
    assert told[2]["compliance"] == 0.5
    assert 30 <= told[2]["frame"] <= 40, "a video's own rate counts, however fast it is read"
    lines = result.stdout.splitlines()
    assert "  Top A2: wrong, Blue instead of Green, " in lines[2]
    assert re.fullmatch(r"slots     120 looked at · \d\d? classified \(\d+\.\d %\)", lines[-3])
    assert lines[-2] == "shelf     Top: 1 of 2 right (50.0 %) · 1 wrong"
    assert lines[-1].endswith("events.jsonl 3 delivered")


def test_the_summary_in_json_has_every_shelf_and_slot(shelf: Path) -> None:
    result = typed(
        *("run", "--bundle", shelf / "bundle", "--camera", shelf / "shelf.avi", "--json"),
        *("--slots", shelf / "slots.toml", *keys(shelf__skip_unchanged=False)),
    )
    summary = json.loads(result.stdout)
    assert summary["slot_invokes"] == summary["slot_looks"] == 120
    assert summary["shelves"][0]["share"] == 0.5
    assert [slot["state"] for slot in summary["slots"]] == ["right", "wrong"]


def test_a_bad_slots_file_ends_the_run_before_it_begins(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "slots.toml").write_text(SLOTS.replace("Green", "Gren"))
    result = typed("run", "--bundle", shelf / "bundle", "--camera", "63", "--slots", tmp_path / "slots.toml")
    assert result.exit_code == DataError.exit_code
    assert result.stderr == (
        f"Error: {tmp_path / 'slots.toml'}, line 11, field shelf 1, slot 2, product: the bundle has no product 'Gren'; "
        "the nearest is 'Green' or 'Grey'\n"
    )


def test_slots_that_do_not_fit_the_frames_end_the_run_before_anything_is_written(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "slots.toml").write_text(SLOTS.replace("[0, 0, 60, 48]", "[0, 0, 6, 48]"))
    out = tmp_path / "out"
    result = typed(
        *("run", "--bundle", shelf / "bundle", "--camera", shelf / "shelf.avi", "--slots", tmp_path / "slots.toml"),
        *("--jsonl", out / "events.jsonl", "--sample", out / "sample", "--json"),
    )
    assert (result.exit_code, result.stdout) == (3, "")
    assert "fewer than 12" in result.stderr
    assert not out.exists()


def test_check_draws_the_slots_and_says_what_the_model_sees(shelf: Path, tmp_path: Path) -> None:
    drawn = tmp_path / "drawn.png"
    result = typed(
        *("slots", "check", shelf / "slots.toml", "--photo", shelf / "still.png"),
        *("--output", drawn, "--bundle", shelf / "bundle", "--json"),
    )
    assert result.exit_code == 0, result.stderr
    checks = json.loads(result.stdout)
    assert [(check["expected"], check["product"]) for check in checks] == [("Red", "Red"), ("Green", "Blue")]
    assert (checks[0]["width_px"], checks[0]["height_px"]) == (60, 48)
    shown = cv2.imread(str(drawn))
    assert shown is not None
    assert shown.shape == (4 * 48, 4 * 128, 3), "a small picture is enlarged"
    plain = cv2.resize(picture("Blue", 0), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    assert (shown[:, 4] != plain[:, 4]).any()
    assert np.array_equal(shown[100:180, 246:266], plain[100:180, 246:266]), "between the slots nothing is drawn"


def test_check_needs_no_bundle(shelf: Path) -> None:
    result = typed("slots", "check", shelf / "slots.toml", "--photo", shelf / "still.png")
    assert result.exit_code == 0
    assert "60 × 48" in result.stdout
