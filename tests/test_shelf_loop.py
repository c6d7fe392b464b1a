"""Slots in the loop: dark frames, failing models, rest, and every sink's events of slots."""

from __future__ import annotations

import csv
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.cli import main
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import CameraError, DeviceError
from edgebcnn.loop.frame_rate import FrameRateLimit
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.quality import FrameLimits
from edgebcnn.loop.shelf_reading import ShelfReader, ShelfReading
from edgebcnn.loop.supervise import Watchdog
from edgebcnn.progress import Silent
from edgebcnn.shelf.slots import load_slots
from edgebcnn.shelf.tracker import ChangeGate
from edgebcnn.shelf.watch import Classify, ShelfWatch
from edgebcnn.sinks.event import SlotEvent
from edgebcnn.sinks.metrics import MetricsSink
from edgebcnn.sources.open import Done, Frame, Source
from edgebcnn.worker import Deadline
from tests.broker import Listener, running_broker, wait_until
from tests.mjpeg_server import running_camera
from tests.readings import stamp
from tests.shelf_video import SLOTS, make_shelf, picture
from tests.typing_in import keys
from tests.web_server import web_server


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture(scope="module")
def bundle(shelf: Path) -> Bundle:
    return open_bundle(shelf / "bundle")


@pytest.fixture(scope="module")
def classifier(bundle: Bundle) -> Classifier:
    return Classifier.from_bundle(bundle)


class Filmed(Source):
    """A camera that took these pictures ten times a second."""

    is_live = True

    def __init__(self, images: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__("filmed", Silent())
        self._images, self._begun_s = images, time.monotonic() - len(images) / 10

    def frames(self, done: Done) -> Iterator[Frame]:
        for index, image in enumerate(self._images):
            if not done():
                yield Frame(index, image, self._begun_s + index / 10)


class Kept:
    """A sink that keeps the frames, and their events."""

    def __init__(self) -> None:
        self.readings: list[ShelfReading] = []
        self.events: list[SlotEvent] = []
        self.closed = 0
        self._stamp = stamp()

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        self.readings.append(reading)
        self.events.extend(self._stamp.slots(reading))

    def close(self) -> None:
        self.closed += 1


def watch(shelf: Path, bundle: Bundle, classify: Classify) -> ShelfWatch:
    return ShelfWatch(
        load_slots(shelf / "slots.toml"), bundle.labels, classify, width_over_height=1.0, gate=ChangeGate()
    )


def right(count: int) -> list[NDArray[np.uint8]]:
    return [picture("Green", index) for index in range(count)]


# ---- the loop


def test_slots_that_nobody_sees_in_the_dark_are_occluded_and_come_back(
    shelf: Path, bundle: Bundle, classifier: Classifier
) -> None:
    source = Filmed([*right(20), *[np.zeros_like(picture("Green", 0))] * 40, *right(20)])
    reader, sink = ShelfReader(watch(shelf, bundle, classifier.scores), source), Kept()
    loop = CameraLoop(source, classifier, shelf=reader, shelf_sinks=[sink], limits=FrameLimits())
    loop.run()
    told = [(event.slot, event.state, event.previous, event.reason) for event in sink.events]
    assert told == [
        ("A1", "right", None, None), ("A2", "right", None, None),
        ("A1", "occluded", "right", "black"), ("A2", "occluded", "right", "black"),
        ("A1", "right", "occluded", None), ("A2", "right", "occluded", None),
    ]  # fmt: skip
    assert sink.events[2].frame == 50, "after three seconds without a reading"
    assert loop.summary().refused == {"black": 40}
    assert loop.summary().classified == 40
    assert (len(sink.readings), sink.closed) == (80, 1)
    assert [slot.state for slot in sink.readings[-1].slots] == ["right", "right"]


def failing(classifier: Classifier, failures: int) -> Classify:
    """The classifier's, but with a delegate that fails so often before it works."""
    left = [None] * failures

    def classify(crops: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        if left:
            left.pop()
            raise RuntimeError("Node number 3 (EdgeTpuDelegate) failed to invoke.")
        return classifier.scores(crops)

    return classify


def test_a_model_that_fails_for_a_moment_delays_a_state_and_changes_none(
    shelf: Path, bundle: Bundle, classifier: Classifier
) -> None:
    source, sink = Filmed(right(30)), Kept()
    reader = ShelfReader(watch(shelf, bundle, failing(classifier, 2)), source)
    loop = CameraLoop(source, classifier, shelf=reader, shelf_sinks=[sink])
    loop.run()
    assert [event.state for event in sink.events] == ["right", "right"]
    assert loop.summary().refused == {"model failed": 2}


def test_a_model_that_keeps_failing_ends_the_run_with_one_sentence(
    shelf: Path, bundle: Bundle, classifier: Classifier
) -> None:
    source, sink = Filmed(right(30)), Kept()
    reader = ShelfReader(watch(shelf, bundle, failing(classifier, 99)), source)
    with pytest.raises(DeviceError, match=r"failed on 5 frames within 60 s \(Node number 3 \(EdgeTpuDelegate\)"):
        CameraLoop(source, classifier, shelf=reader, shelf_sinks=[sink]).run()
    assert sink.closed == 1


def test_photos_have_no_time_between_them(shelf: Path, bundle: Bundle, classifier: Classifier) -> None:
    class Photos(Filmed):
        is_live = False

    with pytest.raises(CameraError, match="filmed has no frame rate"):
        ShelfReader(watch(shelf, bundle, classifier.scores), Photos([]))


# ---- rest


def test_a_limited_frame_rate_holds_a_source_back_and_is_no_hang(classifier: Classifier) -> None:
    hangs: list[str] = []
    watchdog = Watchdog(on_hang=lambda stage, _: hangs.append(stage), hang_s=0.8)
    loop = CameraLoop(Filmed(right(9)), classifier, frame_rate=FrameRateLimit(fps=0.6), watchdog=watchdog)
    with watchdog.watching():
        loop.run(max_frames=2)
    assert 1.6 <= loop.summary().elapsed_s < 5
    assert hangs == []


def test_a_loop_that_rests_ends_when_it_is_told_to(classifier: Classifier) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    loop = CameraLoop(Filmed(right(9)), classifier, frame_rate=FrameRateLimit(fps=0.01))
    loop.run(stop=stop)
    assert loop.summary().elapsed_s < 3


def test_a_shelf_at_rest_is_read_less_often() -> None:
    limit = FrameRateLimit(fps=10, idle_fps=1, idle_after_s=30)
    assert limit.pause_s(100.0, 100.02, last_change_s=90.0) == pytest.approx(0.08)
    assert limit.pause_s(100.0, 100.02, last_change_s=60.0) == pytest.approx(0.98)
    assert limit.pause_s(100.0, 100.30, last_change_s=90.0) == 0.0
    assert limit.pause_s(100.0, 100.02, last_change_s=None) == pytest.approx(0.08)
    assert FrameRateLimit().pause_s(100.0, 100.0, last_change_s=None) == 0.0


# ---- sinks


def run(shelf: Path, *arguments: object) -> Result:
    given = ["--bundle", shelf / "bundle", "--camera", shelf / "shelf.avi", "--slots", shelf / "slots.toml"]
    return CliRunner().invoke(main, ["run", *map(str, [*given, *arguments])])


def test_every_sink_gets_the_events_of_slots_and_a_broker_keeps_the_newest_of_each(shelf: Path, tmp_path: Path) -> None:
    with running_broker(tmp_path) as broker, web_server() as server:
        listener = Listener(broker, "edgebcnn/#")
        files = [
            "--jsonl",
            tmp_path / "events.jsonl",
            "--csv",
            tmp_path / "events.csv",
            *keys(events__spool=tmp_path / "spool"),
        ]
        result = run(
            shelf, *files, "--mqtt", broker.address, "--webhook", server.address, *keys(events__device_id="shelf 3")
        )
        assert result.exit_code == 0, result.stderr
        wait_until(lambda: len(listener.events("A1")) + len(listener.events("A2")) == 3)
        listener.close()
        late = Listener(broker)
        wait_until(lambda: len(late.messages) == 5)
        late.close()
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [(event["slot"], event["state"]) for event in events] == [("A1", "right"), ("A2", "right"), ("A2", "wrong")]
    assert server.events() == events
    with (tmp_path / "events.csv").open() as file:
        assert [(row["kind"], row["state"], row["top3"]) for row in csv.DictReader(file)] == [
            ("slot", "right", ""), ("slot", "right", ""), ("slot", "wrong", "")
        ]  # fmt: skip
    kept = {topic: json.loads(body) for topic, body, _ in late.messages if not topic.endswith("/status")}
    assert kept.pop("edgebcnn/shelf_3/slot/Top/A1") == events[0]
    assert kept.pop("edgebcnn/shelf_3/slot/Top/A2") == events[2]
    assert {(config["name"], config["state_topic"]) for config in kept.values()} == {
        ("Top A1", "edgebcnn/shelf_3/slot/Top/A1"), ("Top A2", "edgebcnn/shelf_3/slot/Top/A2")
    }  # fmt: skip


def slot_event(**changes: object) -> SlotEvent:
    fields: dict[str, object] = {
        "time": "2025-03-01T09:30:00.125Z", "source": "camera 0", "frame": 31, "shelf": "Dairy, top", "slot": "A/1",
        "state": "wrong", "previous": "right", "expected": "Oat-Milk", "expected_gtin": None, "product": "Soy-Milk",
        "gtin": "17", "score": 0.912, "reason": None, "shelf_right": 3, "shelf_judged": 4, "compliance": 0.75,
    }  # fmt: skip
    return stamp()(SlotEvent, **{**fields, **changes})


def test_prometheus_sees_the_state_of_each_slot_and_how_a_shelf_stands() -> None:
    sink = MetricsSink("127.0.0.1", 0)
    sink.write(slot_event(state="right", product="Oat-Milk", compliance=1.0))
    sink.write(slot_event())
    sink.write(slot_event(shelf="Low", compliance=None))
    with urllib.request.urlopen(f"http://127.0.0.1:{sink.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    sink.close(Deadline(lambda: True))
    assert 'edgebcnn_slot_state{shelf="Dairy, top",slot="A/1",state="wrong"} 1.0' in lines
    assert 'edgebcnn_slot_state{shelf="Dairy, top",slot="A/1",state="right"} 0.0' in lines
    assert 'edgebcnn_shelf_compliance{shelf="Dairy, top"} 0.75' in lines
    assert 'edgebcnn_shelf_compliance{shelf="Low"} NaN' in lines
    assert 'edgebcnn_events_total{kind="slot"} 3.0' in lines


def test_an_event_of_a_slot_is_a_line_for_people_and_a_topic_of_its_own() -> None:
    event = slot_event()
    assert event.for_people() == (
        "frame 31  Dairy, top A/1: wrong, Soy-Milk instead of Oat-Milk, 91.2 %  was right  (3 of 4 right)"
    )
    dark = slot_event(state="occluded", product=None, score=None, reason="black", shelf_judged=0, shelf_right=0)
    assert dark.for_people() == "frame 31  Dairy, top A/1: occluded, black  was right  (0 of 0 right)"
    assert event.subtopic == "slot/Dairy%2C%20top/A%2F1", "no two slots share a topic"
    assert event.holds_until_next
    assert SlotEvent.model_validate_json(event.json_line) == event


# ---- a live stream


def test_a_stream_is_watched_at_its_pace(shelf: Path, tmp_path: Path) -> None:
    slots = SLOTS.partition("[[shelf.slot]]")[0].replace("128, 48", "64, 48")
    (tmp_path / "slots.toml").write_text(f'{slots}slot = [{{name = "A1", product = "Blue", box = [2, 2, 62, 46]}}]\n')
    rest = ["--max-fps", "20", *keys(shelf__idle_fps=5), *keys(shelf__idle_after=0.5), "--duration", "4"]
    with running_camera() as address:
        result = run(shelf, "--camera", address, "--slots", tmp_path / "slots.toml", *rest, "--json")
    assert result.exit_code == 0, result.stderr
    summary = json.loads(result.stdout)
    assert [(slot["slot"], slot["state"]) for slot in summary["slots"]] == [("A1", "right")]
    assert 8 <= summary["classified"] < 70, "20 a second until it has settled, and 5 a second then"
    assert summary["dropped"] > 0
    assert 4 <= summary["slot_invokes"] <= 6, "four votes settle it, and a slow machine may add one; never one a frame"


# ---- flags


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--max-fps", "5"], "shelf.avi is read frame by frame: omit --max-fps, which is for live sources"),
        (
            [*keys(shelf__idle_fps=1)],
            "shelf.avi is read frame by frame: omit shelf.idle_fps, which is for live sources",
        ),
        (
            [*keys(shelf__idle_after=0)],
            "shelf.avi is read frame by frame: omit shelf.idle_after, which is for live sources",
        ),
    ],
)
def test_flags_that_do_not_fit_are_refused(shelf: Path, flags: list[str], sentence: str) -> None:
    result = run(shelf, *flags)
    assert result.exit_code != 0
    assert sentence in result.stderr


@pytest.mark.parametrize("key", ["recheck_after = 5.0", "skip_unchanged = false", "idle_fps = 2.0", "idle_after = 9.0"])
def test_keys_of_slots_without_slots_are_refused(shelf: Path, key: str) -> None:
    result = CliRunner().invoke(
        main, ["run", "--bundle", str(shelf / "bundle"), "--camera", "63", "--config", f"shelf.{key}"]
    )
    assert result.exit_code == 2
    assert f"shelf.{key.split()[0]} is for --slots: add that" in result.stderr


def test_a_folder_of_photos_is_refused(shelf: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["run", *map(str, ["--bundle", shelf / "bundle", "--camera", shelf, "--slots", shelf / "slots.toml"])]
    )
    assert result.exit_code == CameraError.exit_code
    assert "a camera, a stream or a video" in result.stderr
