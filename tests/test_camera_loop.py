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
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle
from edgebcnn.device.classifier import Classifier, Prediction
from edgebcnn.errors import CameraError, DeviceError
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.quality import FrameLimits
from edgebcnn.loop.reading import Reading
from edgebcnn.loop.summary import LatencyHistogram
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Silent
from edgebcnn.sources.open import Done, Frame, Source, open_source
from edgebcnn.sources.truth import write_truth
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
    assert reading.score == reading.top3[0].score >= reading.top3[1].score >= reading.top3[2].score
    assert reading.latency_ms is not None
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


class Filmed(Source):
    """These pictures, each taken `lag_s` before it comes."""

    def __init__(self, *images: NDArray[np.uint8], lag_s: float = 0.0) -> None:
        super().__init__("filmed", Silent())
        self._images, self._lag_s = images, lag_s

    def frames(self, done: Done) -> Iterator[Frame]:
        for index, image in enumerate(self._images):
            if not done():
                yield Frame(index, image, time.monotonic() - self._lag_s, truth="Red")


RED = coloured("Red", np.random.default_rng(6))


def test_a_frame_that_shows_nothing_gets_a_reason_and_no_product(classifier: Classifier) -> None:
    black, white = np.zeros_like(RED), np.full_like(RED, 255)
    sink = Kept()
    loop = CameraLoop(Filmed(RED, black, white, RED), classifier, [sink], limits=FrameLimits())
    loop.run()
    assert [reading.reason for reading in sink.readings] == [None, "black", "overexposed", None]
    empty = sink.readings[1]
    assert (empty.label, empty.class_id, empty.score, empty.top3, empty.latency_ms) == (None, None, None, (), None)
    summary = loop.summary()
    assert (summary.seen, summary.classified, summary.refused) == (4, 2, {"black": 1, "overexposed": 1})
    assert summary.accuracy is not None
    assert summary.accuracy.n == 2, "a frame without a product is neither right nor wrong"
    assert "skipped   1 black · 1 overexposed" in str(summary)


def test_no_product_is_said_of_a_frame_older_than_the_limit(classifier: Classifier) -> None:
    sink = Kept()
    CameraLoop(Filmed(RED, lag_s=3), classifier, [sink], limits=FrameLimits(max_age_s=2)).run()
    CameraLoop(Filmed(RED, lag_s=1), classifier, [sink], limits=FrameLimits(max_age_s=2)).run()
    slow = Unreliable(classifier, failures=0, pause_s=0.3)
    CameraLoop(Filmed(RED), slow, [sink], limits=FrameLimits(max_age_s=0.2)).run()
    assert [reading.reason or reading.label for reading in sink.readings] == ["stale", "Red", "stale"]
    assert [reading.label for reading in sink.readings] == [None, "Red", None]
    assert all(reading.label is None or reading.age_ms <= 2000 for reading in sink.readings)
    assert sink.readings[1].age_ms >= 1000


class Unreliable(Classifier):
    """A classifier whose delegate fails `failures` times before it works, and takes `pause_s` for each frame."""

    def __init__(self, classifier: Classifier, *, failures: int, pause_s: float = 0.0) -> None:
        self.labels, self.receipt = classifier.labels, classifier.receipt
        self._classifier, self._failures, self._pause_s = classifier, failures, pause_s

    def prepare(self, frame_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return self._classifier.prepare(frame_bgr)

    def predict(self, pixels_rgb: NDArray[np.uint8]) -> Prediction:
        time.sleep(self._pause_s)
        if self._failures:
            self._failures -= 1
            raise RuntimeError("Node number 3 (EdgeTpuDelegate) failed to invoke.")
        return self._classifier.predict(pixels_rgb)


def test_a_model_that_fails_for_a_moment_goes_on(classifier: Classifier) -> None:
    sink = Kept()
    loop = CameraLoop(Filmed(RED, RED, RED), Unreliable(classifier, failures=2), [sink])
    loop.run()
    assert [reading.reason for reading in sink.readings] == ["model failed", "model failed", None]
    assert loop.summary().refused == {"model failed": 2}


def test_a_model_that_keeps_failing_ends_the_run_with_one_sentence(classifier: Classifier) -> None:
    sink = Kept()
    loop = CameraLoop(Endless(), Unreliable(classifier, failures=99), [sink])
    with pytest.raises(DeviceError, match=r"failed on 5 frames within 60 s \(Node number 3 \(EdgeTpuDelegate\)"):
        loop.run()
    assert len(sink.readings) == 4
    assert sink.closed == 1


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
