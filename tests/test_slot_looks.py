"""With slots, a sample keeps what the model saw of each slot, and the full model is asked about the same pictures."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.cli import main
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import DeviceError
from edgebcnn.evaluation.field_audit import scenes_of
from edgebcnn.field.review import Review
from edgebcnn.field.sample import Sample, open_sample
from edgebcnn.images.dataset import load_dataset
from edgebcnn.loop.shelf_reading import ShelfReader
from edgebcnn.quantize.tflite.metadata import with_metadata
from edgebcnn.shelf.slots import load_slots
from edgebcnn.shelf.tracker import ChangeGate
from edgebcnn.shelf.watch import ShelfWatch
from tests.broker import wait_until
from tests.mjpeg_server import running_camera
from tests.samples import record
from tests.shelf_video import SLOTS, make_shelf, picture
from tests.solved import solved_run
from tests.test_shelf_loop import Filmed
from tests.tiny_bundle import LABELS, tiny_model, write_photos
from tests.typing_in import keys

BLUE_IS_EMPTY = f'empty_product = "Blue"\n{SLOTS}'
"""What the blue pack is to the model, it is not to the votes."""


HALVES = """\
units = "px"
frame_px = [64, 48]
[[shelf]]
name = "Top"
slot = [
    {name = "A1", product = "Blue", box = [0, 0, 32, 48]},
    {name = "A2", product = "Blue", box = [32, 0, 64, 48]},
]
"""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle, a video of a shelf with slots, and a full model that knows the bundle's products."""
    folder = make_shelf(tmp_path_factory.mktemp("shelf"))
    (folder / "empty.toml").write_text(BLUE_IS_EMPTY)
    preprocessing = open_bundle(folder / "bundle").manifest.preprocessing
    full = with_metadata(tiny_model("float32"), name="full", labels=LABELS, preprocessing=preprocessing)
    (folder / "full.tflite").write_bytes(full)
    return folder


@pytest.fixture(scope="module")
def bundle(shelf: Path) -> Bundle:
    return open_bundle(shelf / "bundle")


@dataclass
class Seen:
    """What the model of a run was given and what it answered, in order."""

    pixels_rgb: list[NDArray[np.uint8]] = field(default_factory=list)
    answers: list[NDArray[np.float32]] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """A run with a sample of everything that was classified."""

    summary: dict[str, Any]
    seen: Seen
    sample: Sample


@pytest.fixture(scope="module")
def kept(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Kept:
    seen, asked = Seen(), Classifier.scores

    def scores(self: Classifier, frames_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        answers = asked(self, frames_bgr)
        seen.pixels_rgb += [self.prepare(frame) for frame in frames_bgr]
        seen.answers += [*answers]
        return answers

    path = tmp_path_factory.mktemp("kept") / "sample"
    given = ["--bundle", shelf / "bundle", "--camera", shelf / "shelf.avi", "--slots", shelf / "empty.toml", "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "scores", scores)
        result = CliRunner().invoke(main, ["run", *map(str, [*given, "--sample", path, *keys(sample__sample_rate=1)])])
    assert result.exit_code == 0, result.stderr
    return Kept(json.loads(result.stdout), seen, open_sample(path))


def test_a_sample_of_slots_holds_exactly_what_the_model_saw_and_said_of_each(kept: Kept) -> None:
    records = sorted(kept.sample.records, key=lambda each: int(each.id.partition("-")[2]))
    assert len(records) == len(kept.seen.answers) == kept.summary["slot_invokes"] > 8
    for each, pixels, answer in zip(records, kept.seen.pixels_rgb, kept.seen.answers, strict=True):
        assert np.array_equal(kept.sample.pixels([each])[0], pixels)
        best = int(answer.argmax())
        assert (each.class_id, each.label) == (best, LABELS[best].name)
        assert each.score == pytest.approx(float(answer.max()), abs=1e-6)
    assert {(each.shelf, each.slot, each.label) for each in records} == {
        ("Top", "A1", "Red"), ("Top", "A2", "Green"), ("Top", "A2", "Blue")
    }  # fmt: skip
    assert Counter(Counter(each.frame for each in records).values())[2] > 1, "two slots of one frame, each a record"
    counts = kept.summary["sample"]
    assert counts == {"offered": len(records), "kept": len(records), "lost": 0, "held": len(records)}


def test_a_record_says_what_the_model_said_and_not_what_the_votes_made_of_it(kept: Kept) -> None:
    assert [slot["state"] for slot in kept.summary["slots"]] == ["right", "empty"]
    last = max((each for each in kept.sample.records if each.slot == "A2"), key=lambda each: each.frame)
    assert last.label == "Blue"


def test_a_sample_of_slots_is_audited_and_reviewed_as_any_other(kept: Kept, shelf: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_label=12)
    solved_run(tmp_path / "run", load_dataset(tmp_path / "photos"))
    result = CliRunner().invoke(
        main,
        [
            *("audit", str(kept.sample.path), "--full", str(tmp_path / "run"), "--bundle", str(shelf / "bundle")),
            *("--output", str(tmp_path / "audit"), "--scene", "0", "--json"),
        ],
    )
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["frames"] == report["agreement"]["n"] == len(kept.sample.records)
    assert report["agreement"]["value"] == 1.0
    with Review(kept.sample.path, tmp_path / "audit", output=tmp_path / "labelled") as review:
        assert {each.slot for each in review.answers} == {"A1", "A2"}
        blue = next(each for each in review.answers if each.full == "Blue")
        review.decide(blue.id, "Blue")
    assert (tmp_path / "labelled" / "Blue" / f"{blue.id}.png").is_file()


def test_each_slot_is_a_scene_of_its_own_for_an_hour() -> None:
    def of(slot: str | None, time: str) -> Any:
        return record(shelf=slot and "Top", slot=slot, time=f"2025-03-01T{time}Z")

    early, later, next_hour = "09:30:00.125", "09:59:00.125", "10:00:00.125"
    records = [of("A1", early), of("A2", early), of("A1", later), of("A1", next_hour), of(None, early), of(None, later)]
    assert scenes_of(records, None).tolist() == [0, 1, 0, 2, 3, 4], "whole frames have scenes of ten seconds"
    assert scenes_of(records, 1e9).tolist() == [0, 1, 0, 0, 2, 2]


def test_a_frame_that_was_not_classified_has_no_looks_of_the_frame_before(shelf: Path, bundle: Bundle) -> None:
    classifier, fails = Classifier.from_bundle(bundle), False

    def classify(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        if fails:
            raise DeviceError("the delegate failed")
        return classifier.scores(crops)

    source = Filmed([picture("Green", index) for index in range(8)])
    watch = ShelfWatch(
        load_slots(shelf / "slots.toml"), bundle.labels, classify, width_over_height=1.0, gate=ChangeGate(enabled=False)
    )
    reader, frames = ShelfReader(watch, source), list(source.frames(lambda: False))
    read = reader.read(frames[0])
    slots = list(read.classified_slots(frames[0]))
    assert [(frame.slot, reading.label) for frame, reading in slots] == [
        ("A1", "Red"),
        ("A2", "Green"),
    ]
    assert {reading.time for _, reading in slots} == {read.time}
    assert not any(np.shares_memory(frame.image_bgr, frames[0].image_bgr) for frame, _ in slots)
    fails = True
    with pytest.raises(DeviceError):
        reader.read(frames[1])
    assert [*reader.skip(frames[1], "model failed").classified_slots(frames[1])] == []


def test_the_full_model_is_asked_about_each_slot_once_however_often_it_is_classified(
    shelf: Path, tmp_path: Path
) -> None:
    (tmp_path / "slots.toml").write_text(HALVES)
    events = tmp_path / "events.jsonl"
    with running_camera() as camera:
        where = [
            "--bundle",
            shelf / "bundle",
            "--camera",
            camera,
            "--slots",
            tmp_path / "slots.toml",
            *keys(shelf__skip_unchanged=False),
        ]
        what = ["--shadow", shelf / "full.tflite", *keys(monitoring__golden_every=0), "--jsonl", events, "--json"]
        command = [sys.executable, "-m", "edgebcnn", "run", *map(str, [*where, *what])]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            wait_until(lambda: _has_agreement(events) or process.poll() is not None, timeout_s=200)
            time.sleep(1)
            process.send_signal(signal.SIGTERM)
            stdout, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    summary = json.loads(stdout)
    found = summary["shadow"]["agreement"]
    assert found["successes"] == found["n"] in (1, 2), "two slots, and an hour is one scene of each"
    assert summary["slot_invokes"] > 10


def _has_agreement(events: Path) -> bool:
    return events.exists() and '"kind": "agreement"' in events.read_text()
