"""While the model is busy, the newest frame of a live source becomes ready: in order, fresh, counted, and watched."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.device.classifier import Classifier, Prediction
from edgebcnn.loop.frame_rate import FrameRateLimit
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.quality import FrameLimits
from edgebcnn.loop.reading import Reading
from edgebcnn.loop.supervise import Watchdog
from edgebcnn.progress import Silent
from edgebcnn.sources.open import Done, Frame, Source
from tests.tiny_bundle import coloured, make_tiny_bundle

LONG_S = 20.0  # for what happens at once, on a machine that is busy
RED = coloured("Red", np.random.default_rng(6))
BLACK = np.zeros_like(RED)
ENDLESS = [RED] * 1_000_000

Image = NDArray[np.uint8]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return Classifier.from_bundle(make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", ["int8"]))


class Flowing(Source):
    """A camera of which the next frame is always there: these pictures, and then it ends."""

    is_live = True

    def __init__(self, images: Sequence[Image]) -> None:
        super().__init__("flowing", Silent())
        self._frames = (Frame(index, image, time.monotonic()) for index, image in enumerate(images))

    def frames(self, done: Done) -> Iterator[Frame]:
        while not done() and (frame := self.newest()):
            yield frame

    def newest(self) -> Frame | None:
        frame = next(self._frames, None)
        return frame and Frame(frame.index, frame.image_bgr, time.monotonic())


class Watched(Classifier):
    """A classifier whose turns can be held up: `hold` is called in each, with its number, before it answers.

    Attributes:
        prepared: How many frames were made ready so far.
    """

    def __init__(self, classifier: Classifier, hold: Callable[[Watched, int], None]) -> None:
        self.labels, self.receipt = classifier.labels, classifier.receipt
        self.prepared = 0
        self._classifier, self._hold, self._turns = classifier, hold, 0
        self._changed = threading.Condition()

    def prepare(self, frame_bgr: Image) -> Image:
        pixels = self._classifier.prepare(frame_bgr)
        with self._changed:
            self.prepared += 1
            self._changed.notify_all()
        return pixels

    def predict(self, pixels_rgb: Image) -> Prediction:
        number, self._turns = self._turns, self._turns + 1
        self._hold(self, number)
        return self._classifier.predict(pixels_rgb)

    def wait_until_prepared(self, frames: int) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self.prepared >= frames, LONG_S)


class Kept:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.readings: list[Reading] = []

    def write(self, reading: Reading) -> None:
        self.readings.append(reading)

    def close(self) -> None:
        pass

    @property
    def told(self) -> list[tuple[int, str | None]]:
        return [(reading.frame, reading.reason) for reading in self.readings]


def looped(classifier: Classifier, images: Sequence[Image], **choices: Any) -> tuple[CameraLoop, Kept]:
    """A loop that read these pictures of a live source, and its readings."""
    limits = {name: choices.pop(name) for name in ("max_frames",) if name in choices}
    sink = Kept()
    loop = CameraLoop(Flowing(images), classifier, [sink], **choices)
    loop.run(**limits)
    return loop, sink


def test_the_next_frame_is_made_ready_while_the_model_is_busy(classifier: Classifier) -> None:
    def hold(model: Watched, number: int) -> None:
        if 1 <= number < 5:  # the first turn tells how long one takes
            assert model.wait_until_prepared(number + 2), "nobody prepares while the model is busy"

    loop, sink = looped(Watched(classifier, hold), ENDLESS, max_frames=8)
    indices = [index for index, _ in sink.told]
    assert indices == sorted(set(indices)), "in their order, none twice"
    assert [reading.label for reading in sink.readings] == ["Red"] * 8
    assert loop.summary().dropped == indices[-1] + 1 - 8


def test_a_frame_that_waits_for_a_slow_model_gives_way_to_a_newer_one(classifier: Classifier) -> None:
    def hold(model: Watched, number: int) -> None:
        if number == 1:
            assert model.wait_until_prepared(6)

    loop, sink = looped(Watched(classifier, hold), [RED] * 6)
    assert [index for index, _ in sink.told] in ([0, 1, 4], [0, 1, 5]), "5, unless the model has just begun with 4"
    assert loop.summary().dropped == 3


def test_a_frame_without_a_product_is_told_in_its_turn(classifier: Classifier) -> None:
    def hold(model: Watched, number: int) -> None:
        time.sleep(0.01)

    _, sink = looped(Watched(classifier, hold), [RED, RED, BLACK] * 8, limits=FrameLimits())
    assert [index for index, _ in sink.told] == sorted(index for index, _ in sink.told)
    assert {reason for _, reason in sink.told} == {None, "black"}
    assert all((reason == "black") == (index % 3 == 2) for index, reason in sink.told)


def test_no_more_frames_are_classified_than_were_asked_for(classifier: Classifier) -> None:
    loop, sink = looped(Watched(classifier, lambda model, number: time.sleep(0.01)), ENDLESS, max_frames=4)
    assert loop.summary().classified == len(sink.readings) == 4


def test_a_loop_with_a_limited_frame_rate_prepares_nothing_ahead(classifier: Classifier) -> None:
    model = Watched(classifier, lambda model, number: time.sleep(0.01))
    _, sink = looped(model, [RED] * 8, frame_rate=FrameRateLimit(fps=100))
    assert model.prepared == len(sink.readings) == 8


def test_an_answer_is_told_before_the_next_frame_is_waited_for(classifier: Classifier) -> None:
    sink = Kept()

    class Slow(Flowing):
        """A camera that gives its next frame when it is waited for."""

        def frames(self, done: Done) -> Iterator[Frame]:
            for number in range(3):
                assert len(sink.readings) == number
                yield Frame(number, RED, time.monotonic())

        def newest(self) -> Frame | None:
            return None

    CameraLoop(Slow([]), classifier, [sink]).run()
    assert sink.told == [(0, None), (1, None), (2, None)]


def test_a_model_that_hangs_is_seen_though_the_camera_goes_on(classifier: Classifier) -> None:
    hung, stages = threading.Event(), []

    def on_hang(stage: str, took_s: float) -> None:
        stages.append(stage)
        hung.set()

    def hold(model: Watched, number: int) -> None:
        if number == 2:
            assert hung.wait(LONG_S), "nobody saw it"

    watchdog = Watchdog(on_hang=on_hang, hang_s=1.0)
    with watchdog.watching():
        looped(Watched(classifier, hold), ENDLESS, watchdog=watchdog, max_frames=5)
    assert stages == ["classify"]


def test_a_model_that_fails_while_the_next_frame_is_ready_goes_on(classifier: Classifier) -> None:
    def hold(model: Watched, number: int) -> None:
        time.sleep(0.01)
        if number == 2:
            raise RuntimeError("Node number 3 (EdgeTpuDelegate) failed to invoke.")

    loop, sink = looped(Watched(classifier, hold), ENDLESS, max_frames=5)
    assert [reason for _, reason in sink.told].count("model failed") == 1
    assert loop.summary().classified == 5


def test_a_frame_that_became_old_while_it_waited_has_no_product(classifier: Classifier) -> None:
    def hold(model: Watched, number: int) -> None:
        time.sleep(0.4 if number == 2 else 0.05)

    _, sink = looped(Watched(classifier, hold), [RED] * 5, limits=FrameLimits(max_age_s=0.3))
    late = [reading for reading in sink.readings if reading.age_ms > 300]
    assert late
    assert all(reading.reason == "stale" and reading.label is None for reading in late)
