"""Every frame becomes one reading, every reading reaches every sink, and the summary counts them."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.bundle import Bundle
from edgebcnn.camera.loop import CameraLoop
from edgebcnn.camera.reading import Reading
from edgebcnn.camera.source import Done, Frame, Source, open_source
from edgebcnn.camera.summary import LatencyHistogram
from edgebcnn.camera.truth import write_truth
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import CameraError
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Silent
from tests.mjpeg_server import network_camera
from tests.tiny_bundle import COLOURS_BGR, coloured, make_tiny_bundle, write_photos, write_video

NAMES = list(COLOURS_BGR)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", ["int8"])


@pytest.fixture(scope="module")
def classifier(bundle: Bundle) -> Classifier:
    return Classifier.from_bundle(bundle)


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []
        self.closed = 0

    def write(self, reading: Reading) -> None:
        self.readings.append(reading)

    def close(self) -> None:
        self.closed += 1


class Endless(Source):
    """A red shelf that never changes; the camera breaks after `limit` frames."""

    def __init__(self, limit: int = 10**9) -> None:
        super().__init__("endless", Silent())
        self._limit = limit

    def frames(self, done: Done) -> Iterator[Frame]:
        image = coloured("Red", np.random.default_rng(1))
        for index in range(self._limit):
            if done():
                return
            yield Frame(index, image, time.monotonic())
        raise CameraError("endless is unplugged")


def test_a_folder_is_read_as_batch_inference_reads_it(tmp_path: Path, bundle: Bundle, classifier: Classifier) -> None:
    write_photos(tmp_path / "shelf")
    (tmp_path / "shelf" / "Red").rename(tmp_path / "shelf" / "Blue" / "Green")  # red photos that are labelled green
    sink = Kept()
    with closing(open_source(str(tmp_path / "shelf"), labels=NAMES)) as source:
        loop = CameraLoop(source, classifier, [sink])
        loop.run()
    photos = [read_photo(tmp_path / "shelf" / str(reading.photo)) for reading in sink.readings]
    batch = classifier.probabilities(np.stack([bundle.manifest.preprocessing.apply(photo) for photo in photos]))
    assert [reading.class_id for reading in sink.readings] == batch.argmax(axis=1).tolist()
    assert [reading.score for reading in sink.readings] == pytest.approx(batch.max(axis=1), abs=1e-6)
    accuracy = loop.summary().accuracy
    assert accuracy is not None
    assert (accuracy.successes, accuracy.n) == (9, 12)


def test_a_video_is_read_as_batch_inference_reads_it(tmp_path: Path, bundle: Bundle, classifier: Classifier) -> None:
    labels = [NAMES[number * 7 % 4] for number in range(30)]
    frames = write_video(tmp_path / "shelf.avi", labels)
    write_truth(tmp_path / "shelf.avi", labels[:20])
    sink = Kept()
    with closing(open_source(str(tmp_path / "shelf.avi"), labels=NAMES)) as source:
        loop = CameraLoop(source, classifier, [sink])
        loop.run()
    batch = classifier.probabilities(np.stack([bundle.manifest.preprocessing.apply(frame) for frame in frames]))
    assert [reading.class_id for reading in sink.readings] == batch.argmax(axis=1).tolist()
    assert [reading.label for reading in sink.readings] == labels
    summary = loop.summary()
    assert (summary.seen, summary.classified, summary.dropped, summary.unreadable) == (30, 30, 0, 0)
    assert str(summary.accuracy).startswith("100.0 %")
    assert summary.accuracy is not None
    assert summary.accuracy.n == 20, "frames without a row in the truth file are not labelled"


def test_a_reading_says_what_is_known_about_its_frame(tmp_path: Path, classifier: Classifier) -> None:
    write_photos(tmp_path / "shelf", per_label=1)
    sink = Kept()
    with closing(open_source(str(tmp_path / "shelf"), labels=NAMES)) as source:
        CameraLoop(source, classifier, [sink]).run()
    reading = next(reading for reading in sink.readings if reading.photo == "Red/0.png")
    assert (reading.label, reading.class_id, reading.gtin, reading.truth) == ("Red", 0, "00000000000017", "Red")
    assert reading.source == str(tmp_path / "shelf")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", reading.time)
    assert reading.top3[0].score == reading.score >= reading.top3[1].score >= reading.top3[2].score
    assert 0 < reading.latency_ms <= reading.age_ms


def test_the_loop_stops_after_so_many_frames(classifier: Classifier) -> None:
    loop = CameraLoop(Endless(), classifier)
    loop.run(max_frames=7)
    assert loop.summary().classified == 7
    assert loop.summary().accuracy is None


def test_the_loop_stops_after_so_many_seconds(classifier: Classifier) -> None:
    loop = CameraLoop(Endless(), classifier)
    loop.run(duration_s=0.3)
    summary = loop.summary()
    assert 0.3 <= summary.elapsed_s < 1.5
    assert summary.fps == pytest.approx(summary.classified / summary.elapsed_s)


def test_the_loop_finishes_its_frame_when_it_is_told_to_stop(classifier: Classifier) -> None:
    stop = threading.Event()

    class Stopping(Kept):
        def write(self, reading: Reading) -> None:
            super().write(reading)
            if reading.frame == 4:
                stop.set()

    sink = Stopping()
    loop = CameraLoop(Endless(), classifier, [sink])
    loop.run(stop=stop)
    assert [reading.frame for reading in sink.readings] == [0, 1, 2, 3, 4]
    assert loop.summary().classified == 5


def test_a_camera_that_breaks_leaves_its_figures_and_closed_sinks(classifier: Classifier) -> None:
    sink = Kept()
    loop = CameraLoop(Endless(limit=3), classifier, [sink])
    with pytest.raises(CameraError, match="unplugged"):
        loop.run()
    assert sink.closed == 1
    assert loop.summary().classified == 3


def test_a_slow_model_sees_the_newest_frames_of_a_live_source(classifier: Classifier) -> None:
    class Slow(Kept):
        def write(self, reading: Reading) -> None:
            super().write(reading)
            time.sleep(0.05)

    sink = Slow()
    with network_camera() as camera:
        for name in ["Red"] * 40 + ["Blue"]:
            camera.send(coloured(name, np.random.default_rng(2)))
        with closing(open_source(camera.address)) as source:
            loop = CameraLoop(source, classifier, [sink])
            loop.run(duration_s=1.5)
    summary = loop.summary()
    assert sink.readings[-1].label == "Blue"
    assert summary.dropped > 0
    assert summary.seen == 41


def test_latency_quantiles_are_within_one_percent_in_constant_memory(rng: np.random.Generator) -> None:
    histogram = LatencyHistogram()
    assert histogram.quantile(0.5) is None
    latencies_ms = rng.lognormal(1.5, 1.0, 5000)
    for latency_ms in latencies_ms:
        histogram.add(latency_ms)
    for q in (0.05, 0.5, 0.95, 1.0):
        assert histogram.quantile(q) == pytest.approx(np.quantile(latencies_ms, q, method="inverted_cdf"), rel=0.01)
    assert histogram._counts.nbytes < 10_000


def test_latencies_beyond_the_histogram_count_at_its_ends() -> None:
    histogram = LatencyHistogram()
    for latency_ms in (0.0, 1e9):
        histogram.add(latency_ms)
    assert histogram.quantile(0.5) == pytest.approx(histogram.LOW_MS, rel=0.01)
    assert histogram.quantile(1.0) == pytest.approx(histogram.HIGH_MS, rel=0.02)
