"""`edgebcnn slots check` and `edgebcnn run --slots`, as a user meets them."""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgebcnn.bundle import open_bundle
from edgebcnn.camera.loop import CameraLoop
from edgebcnn.camera.pace import Pace
from edgebcnn.camera.source import Done, Frame, Source
from edgebcnn.cli import main
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import DataError
from edgebcnn.progress import Silent
from tests.tiny_bundle import coloured, make_tiny_bundle

SLOTS = """\
units = "px"
frame_px = [128, 48]
[[shelf]]
name = "Top"
[[shelf.slot]]
name = "A1"
product = "Red"
box = [0, 0, 60, 48]
[[shelf.slot]]
name = "A2"
product = "Green"
polygon = [[68, 0], [128, 0], [128, 48], [68, 48]]
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a slots file, and a video in which a blue pack takes the place of the green one after two seconds."""
    folder = tmp_path_factory.mktemp("shelf")
    make_tiny_bundle(folder / "bundle", ["int8"])
    (folder / "slots.toml").write_text(SLOTS)
    writer = cv2.VideoWriter(str(folder / "shelf.avi"), cv2.VideoWriter.fourcc(*"FFV1"), 10, (128, 48))
    for index in range(60):
        writer.write(frame("Green" if index < 20 else "Blue", index))
    writer.release()
    assert cv2.imwrite(str(folder / "still.png"), frame("Blue", 0))
    return folder


def frame(right: str, seed: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    rng = np.random.default_rng(seed)
    return np.concatenate([coloured("Red", rng), coloured(right, rng)], axis=1)


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
    assert "  Top A2: wrong, Blue in place of Green, " in lines[2]
    assert re.fullmatch(r"slots     120 looked at · \d\d? classified \(\d+\.\d %\)", lines[-2])
    assert lines[-1] == "shelf     Top: 1 of 2 right (50.0 %) · 1 wrong"
    document = (Path(__file__).parents[1] / "docs" / "slots.md").read_text().partition("## Events")[2]
    assert set(told[0]) == set(re.findall(r"^\| `(\w+)` \|", document, flags=re.MULTILINE))


def test_the_summary_in_json_has_every_shelf_and_slot(shelf: Path) -> None:
    result = typed(
        *("run", "--bundle", shelf / "bundle", "--camera", shelf / "shelf.avi", "--json"),
        *("--slots", shelf / "slots.toml", "--no-gate"),
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
    picture = cv2.imread(str(drawn))
    assert picture is not None
    assert picture.shape == (4 * 48, 4 * 128, 3), "a small picture is enlarged"
    plain = cv2.resize(frame("Blue", 0), None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR)
    assert (picture[:, 4] != plain[:, 4]).any()
    assert np.array_equal(picture[100:180, 246:266], plain[100:180, 246:266]), "between the slots nothing is drawn"


def test_check_needs_no_bundle(shelf: Path) -> None:
    result = typed("slots", "check", shelf / "slots.toml", "--photo", shelf / "still.png")
    assert result.exit_code == 0
    assert "60 × 48" in result.stdout


class Live(Source):
    """A camera that always has a frame."""

    def __init__(self) -> None:
        super().__init__("live", Silent())

    def frames(self, done: Done) -> Iterator[Frame]:
        for index in itertools.count():
            if done():
                return
            yield Frame(index, frame("Green", 0), time.monotonic())


def test_the_pace_holds_a_live_source_back(shelf: Path) -> None:
    loop = CameraLoop(Live(), Classifier.from_bundle(open_bundle(shelf / "bundle")), pace=Pace(fps=10))
    loop.run(max_frames=4)
    assert 0.3 <= loop.summary().elapsed_s < 3


def test_a_shelf_at_rest_is_read_less_often() -> None:
    pace = Pace(fps=10, idle_fps=1, idle_after_s=30)
    assert pace.pause_s(100.0, 100.02, last_change_s=90.0) == pytest.approx(0.08)
    assert pace.pause_s(100.0, 100.02, last_change_s=60.0) == pytest.approx(0.98)
    assert pace.pause_s(100.0, 100.30, last_change_s=90.0) == 0.0
    assert pace.pause_s(100.0, 100.02, last_change_s=None) == pytest.approx(0.08)
    assert Pace().pause_s(100.0, 100.0, last_change_s=None) == 0.0
