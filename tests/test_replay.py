"""The golden photos are replayed between frames, where there is room, and a model that goes wrong is found out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.bundle import GOLDEN_NAME, Bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.profile import DeviceProfile, load_profile
from edgebcnn.device.selftest import GoldenFile, read_golden
from edgebcnn.monitor.golden import BUSY_SHARE, GoldenReplay, GoldenResult
from edgebcnn.sources.frames import Frame
from tests.readings import reading
from tests.stub_delegate import WHOLE, compiled
from tests.tiny_bundle import make_tiny_bundle

PHOTOS = 12
HOUR_S = 3600.0
CPU = load_profile("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", ["float32"])


class Told:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.results: list[GoldenResult] = []
        self.alarms: list[tuple[str, str]] = []

    def golden(self, result: GoldenResult) -> None:
        self.results.append(result)

    def alarm(self, about: str, problem: str) -> None:
        self.alarms.append((about, problem))


class Shelf:
    """A loop whose clock is ours: each frame takes `frame_s`, each golden photo `photo_s`, and then it waits."""

    def __init__(
        self,
        bundle: Bundle,
        profile: DeviceProfile = CPU,
        *,
        frame_s: float = 0.01,
        photo_s: float = 0.01,
        every_s: float = HOUR_S,
        may_wait: bool = False,
    ) -> None:
        self.told = Told()
        self.now_s = 0.0
        self.replayed_at_s: list[float] = []
        self._frame_s, self._photo_s = frame_s, photo_s
        self._image = np.zeros((48, 64, 3), np.uint8)
        self.replay = GoldenReplay(
            Classifier.from_bundle(bundle, precision="float32", profile=profile),
            profile,
            _Slow(bundle, self),
            every_s=every_s,
            listener=self.told,
            may_wait=may_wait,
            clock=lambda: self.now_s,
        )

    def photo_begins(self) -> None:
        self.replayed_at_s.append(self.now_s)
        self.now_s += self._photo_s

    def show(self, frames: int, *, wait_s: float = 0.0) -> None:
        for index in range(frames):
            self.now_s += self._frame_s
            next_s = self.now_s + wait_s
            self.replay.write(Frame(index, self._image, self.now_s), reading(index, latency_ms=1000 * self._frame_s))
            self.now_s = max(self.now_s, next_s)


class _Slow(GoldenFile):
    """The real file, whose photos take their time."""

    def __init__(self, bundle: Bundle, shelf: Shelf) -> None:
        super().__init__(bundle, "float32")
        self._shelf = shelf

    def photos(self) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        for photo in super().photos():
            self._shelf.photo_begins()
            yield photo


def test_a_loop_that_waits_replays_a_photo_in_every_second_wait_and_is_never_late(bundle: Bundle) -> None:
    shelf = Shelf(bundle)
    shelf.show(2 * PHOTOS + 1, wait_s=0.023)
    assert len(shelf.replayed_at_s) == PHOTOS
    assert shelf.now_s == pytest.approx((2 * PHOTOS + 1) * 0.033), "no frame came later than without the replay"
    (result,) = shelf.told.results
    assert result.problem is None
    assert (result.at_export.same_top1, result.at_export.photos) == (PHOTOS, PHOTOS)
    assert (result.accuracy.successes, result.agreement.successes) == (PHOTOS, PHOTOS)
    assert shelf.told.alarms == []


def test_a_loop_that_never_waits_gives_the_photos_a_hundredth_of_its_time(bundle: Bundle) -> None:
    shelf = Shelf(bundle, photo_s=0.02)
    shelf.show(1000)
    assert 0 < len(shelf.replayed_at_s) * 0.02 <= BUSY_SHARE * shelf.now_s + 0.02
    shelf.show(2000)
    assert len(shelf.told.results) == 1, "so that it is over some time"


def test_a_wait_that_is_too_short_is_left_alone(bundle: Bundle) -> None:
    shelf = Shelf(bundle, photo_s=0.02)
    shelf.show(50, wait_s=0.023)
    assert len(shelf.replayed_at_s) * 0.02 <= BUSY_SHARE * shelf.now_s + 0.02


def test_the_photos_come_again_when_the_time_is_over_and_not_before(bundle: Bundle) -> None:
    shelf = Shelf(bundle, every_s=HOUR_S)
    shelf.show(100, wait_s=0.1)
    assert shelf.replay.replays == 1
    shelf.now_s = HOUR_S - 6
    shelf.show(40, wait_s=0.1)
    assert len(shelf.replayed_at_s) == PHOTOS
    shelf.show(100, wait_s=0.1)
    assert shelf.replay.replays == 2
    assert shelf.replayed_at_s[PHOTOS] >= HOUR_S


def test_where_frames_wait_a_photo_follows_each(bundle: Bundle) -> None:
    shelf = Shelf(bundle, may_wait=True)
    shelf.show(PHOTOS)
    assert shelf.replay.replays == 1


def test_a_delegate_that_goes_wrong_while_it_runs_raises_one_alarm(bundle: Bundle, tmp_path: Path) -> None:
    """It is right for the warm-up and one replay; then it mistakes red for blue."""
    stub = compiled(tmp_path, WHOLE, "-DWRONG", f"-DAFTER={1 + PHOTOS}")
    shelf = Shelf(bundle, stub, may_wait=True, every_s=0.0)
    shelf.show(PHOTOS)
    assert [result.problem for result in shelf.told.results] == [None]
    assert shelf.told.alarms == []
    shelf.show(2 * PHOTOS)
    assert len(shelf.told.results) == 3
    for result in shelf.told.results[1:]:
        assert (result.accuracy.successes, result.accuracy.n) == (6, 12)
        assert (result.agreement.successes, result.at_export.same_top1) == (6, 6)
        assert result.at_export.most_steps > 200
    ((about, problem),) = shelf.told.alarms
    assert about == "golden"
    assert "libstub.so does not compute what the model did at export (same product on 6 of 12 photos" in problem
    assert (shelf.replay.replays, shelf.replay.failed) == (3, 2)
    assert json.loads(json.dumps(shelf.replay.as_json()))["newest"]["problem"] == problem
    assert str(shelf.replay) == f"{problem} (replay 3)"


def test_a_photo_on_which_the_delegate_fails_is_no_answer(bundle: Bundle, tmp_path: Path) -> None:
    shelf = Shelf(bundle, compiled(tmp_path, WHOLE, "-DFAILS", f"-DAFTER={1 + 3}"), may_wait=True)
    shelf.show(PHOTOS)
    (result,) = shelf.told.results
    assert (result.accuracy.successes, result.agreement.successes, result.at_export.same_top1) == (3, 3, 3)
    assert len(shelf.told.alarms) == 1
    assert shelf.replay.as_json()["newest"]["at_export"]["most_steps"] is None


def test_a_bundle_that_is_replaced_while_it_runs_changes_nothing(bundle: Bundle, tmp_path: Path) -> None:
    copy = Bundle(Path(shutil.copytree(bundle.path, tmp_path / "copy")), bundle.manifest, bundle.labels, bundle.digest)
    shelf = Shelf(copy, may_wait=True)
    with np.load(copy.path / GOLDEN_NAME) as archive:
        arrays = dict(archive)
    (copy.path / GOLDEN_NAME).unlink()
    np.savez_compressed(copy.path / GOLDEN_NAME, **{**arrays, "pixels": arrays["pixels"][::-1]})
    shelf.show(PHOTOS)
    assert [result.problem for result in shelf.told.results] == [None]


def test_photos_that_cannot_be_read_any_more_are_an_alarm_and_end_nothing(bundle: Bundle, tmp_path: Path) -> None:
    copy = Bundle(Path(shutil.copytree(bundle.path, tmp_path / "copy")), bundle.manifest, bundle.labels, bundle.digest)
    shelf = Shelf(copy, may_wait=True)
    with (copy.path / GOLDEN_NAME).open("r+b") as file:
        file.truncate(200)
    shelf.show(3)
    assert shelf.told.results == []
    ((about, problem),) = shelf.told.alarms
    assert about == "golden"
    assert "golden.npz cannot be read any more" in problem


def test_photos_one_at_a_time_are_those_read_at_once(bundle: Bundle) -> None:
    golden = read_golden(bundle, "float32")
    file = GoldenFile(bundle, "float32")
    assert file.shape == golden.pixels.shape
    assert np.array_equal(np.stack(list(file.photos())), golden.pixels)
    file.close()
