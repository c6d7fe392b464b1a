"""A live source that is lost comes back by itself; while it is away, nothing pretends to be a frame."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.backoff import Backoff
from edgebcnn.camera_view import View
from edgebcnn.errors import CameraError
from edgebcnn.progress import Silent
from edgebcnn.sources import live
from edgebcnn.sources import open as source
from edgebcnn.sources import reconnect as recovery
from edgebcnn.sources.cameras import lasting_path
from edgebcnn.sources.capture import Capture, OpenCvCapture, Picture
from edgebcnn.sources.live import LiveStream
from edgebcnn.sources.open import open_source
from edgebcnn.sources.reconnect import Patience
from tests.mjpeg_server import network_camera
from tests.test_camera_source import Listener, grey, wait_until

Act = Callable[[], Picture]


def shows(level: int) -> Act:
    return lambda: Picture(grey(level), time.monotonic())


def ends() -> Picture:
    raise CameraError("stopped giving frames")


class Scripted:
    """One connection that does what its script says, and then waits until it is aborted."""

    def __init__(self, *script: Act) -> None:
        self._script = iter(script)
        self.aborted = threading.Event()

    def read(self) -> Picture:
        for act in self._script:
            time.sleep(0.005)  # so that each picture can be taken
            return act()
        self.aborted.wait(20)
        raise CameraError("was aborted")

    def abort(self) -> None:
        self.aborted.set()

    def release(self) -> None:
        self.aborted.set()


def stream(*connections: Capture | None, **patience: float) -> LiveStream:
    """A source with these connections, one after the other; None is an opening that fails, and so are all after."""
    remaining = iter(connections)

    def opener(_timeout_s: float) -> Capture:
        capture = next(remaining, None)
        if capture is None:
            raise CameraError("cannot be opened")
        return capture

    return LiveStream("the camera", opener, reporter=Silent(), patience=Patience(**patience))


def levels(frames: Iterator[source.Frame], count: int) -> list[int]:
    return [int(next(frames).image_bgr.mean()) for _ in range(count)]


def test_a_stream_that_hangs_up_is_opened_again() -> None:
    listener = Listener()
    with network_camera() as camera:
        camera.send(grey(90))
        with closing(open_source(camera.address, reporter=listener)) as stream:
            frames = stream.frames(lambda: False)
            assert next(frames).index == 0
            camera.hang_up()
            camera.send(grey(60))
            assert abs(int(next(frames).image_bgr.mean()) - 60) <= 2
    assert stream.restarts == 1
    assert 0 < stream.outage_s < 5
    assert re.fullmatch(r"http://\S+ stopped giving frames: reconnecting for up to 600 s", listener.said[0])


def test_frames_are_counted_on_across_a_loss() -> None:
    with closing(stream(Scripted(shows(10), ends), None, None, Scripted(shows(20)))) as camera:
        frames = [next(camera.frames(lambda: False)) for _ in range(2)]
    assert [frame.index for frame in frames] == [0, 1]
    assert camera.restarts == 1


def test_a_camera_that_hangs_in_its_driver_is_opened_again_and_its_late_frames_are_refused() -> None:
    late = threading.Event()

    def hang_then_show() -> Picture:
        late.wait(20)
        return Picture(grey(99), time.monotonic())

    hanging = Scripted(shows(10), hang_then_show)
    with closing(stream(hanging, Scripted(shows(20), shows(30)), stall_timeout_s=0.3)) as camera:
        frames = camera.frames(lambda: False)
        assert levels(frames, 2) == [10, 20]
        late.set()
        wait_until(hanging.aborted.is_set)
        assert levels(frames, 1) == [30]
        assert list(camera.frames(lambda: camera._newest is None)) == []


def test_a_stall_is_told_in_round_figures() -> None:
    listener, connections = Listener(), iter([Scripted(shows(10)), Scripted(shows(20))])
    patience = Patience(stall_timeout_s=1 / 3)
    with closing(LiveStream("the camera", lambda _: next(connections), reporter=listener, patience=patience)) as camera:
        assert levels(camera.frames(lambda: False), 2) == [10, 20]
    assert listener.said[0].startswith("the camera gave no frame for 0.33 s: ")


def test_a_loss_ends_the_run_when_its_budget_is_spent() -> None:
    began_s = time.monotonic()
    with (
        closing(stream(Scripted(ends), max_outage_s=0.7)) as camera,
        pytest.raises(CameraError, match="the camera stopped giving frames and did not reconnect for good within 1 s"),
    ):
        next(camera.frames(lambda: False))
    assert 0.6 < time.monotonic() - began_s < 5
    assert camera.status().startswith("the camera stopped giving frames, reconnecting for ")


def test_a_camera_that_keeps_coming_back_for_moments_spends_the_budget_too() -> None:
    flapping = [Scripted(shows(10), ends) for _ in range(50)]
    frames = 0
    with (
        closing(stream(*flapping, max_outage_s=1.5)) as camera,
        pytest.raises(CameraError, match="did not reconnect for good"),
    ):
        for _ in camera.frames(lambda: False):
            frames += 1
    assert 2 <= frames <= 8, "each opening comes later than the one before"


def test_nothing_but_broken_pictures_is_a_loss() -> None:
    def broken() -> Picture:
        return Picture(None, time.monotonic(), broken=1)

    spoilt = Scripted(shows(10), *[broken] * 500)
    with closing(stream(spoilt, Scripted(shows(20)), stall_timeout_s=0.5)) as camera:
        assert levels(camera.frames(lambda: False), 2) == [10, 20]
    assert camera.unreadable > 0


def test_a_stream_that_brings_broken_pictures_for_a_while_is_not_lost() -> None:
    broken_until_s: list[float] = []

    def broken() -> Picture:
        broken_until_s[:] = broken_until_s or [time.monotonic() + recovery.SHORTEST_STALL_S + 0.5]
        time.sleep(0.01)
        return Picture(None, time.monotonic(), broken=1) if time.monotonic() < broken_until_s[0] else shows(20)()

    with closing(stream(Scripted(shows(10), shows(10), *[broken] * 1000))) as camera:
        frames = camera.frames(lambda: False)
        while levels(frames, 1) != [20]:
            pass
    assert not camera.restarts


def test_a_fault_of_our_own_in_the_thread_is_not_hidden() -> None:
    def stumble() -> Picture:
        raise ZeroDivisionError

    with closing(stream(Scripted(stumble))) as camera, pytest.raises(ZeroDivisionError):
        next(camera.frames(lambda: False))


def test_a_wait_for_a_lost_camera_ends_when_it_should_stop() -> None:
    with closing(stream(Scripted(ends))) as camera:
        stop_at_s = time.monotonic() + 0.3
        assert list(camera.frames(lambda: time.monotonic() > stop_at_s)) == []
    assert time.monotonic() - stop_at_s < live.STOP_POLL_S + live.JOIN_TIMEOUT_S + 0.3


def test_pauses_double_up_to_a_limit_below_the_promised_recovery() -> None:
    backoff = Backoff(recovery.FIRST_PAUSE_S, recovery.LONGEST_PAUSE_S)
    pauses_s = [backoff.pause_s() for _ in range(8)]
    assert pauses_s[:3] == [0.2, 0.4, 0.8]
    assert pauses_s[-1] == recovery.LONGEST_PAUSE_S < 3
    backoff.reset()
    assert backoff.pause_s() == 0.2


@pytest.mark.parametrize(("interval_s", "lost_after_s"), [(None, 10), (1 / 30, 2), (0.2, 4), (5, 10)])
def test_a_fast_camera_is_taken_for_lost_sooner(interval_s: float | None, lost_after_s: float) -> None:
    assert Patience().stall_s(interval_s) == pytest.approx(lost_after_s)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    """What udev keeps of a camera with the number 0."""
    folder = tmp_path / "by-id"
    folder.mkdir()
    for name in ("video0", "video1"):
        (tmp_path / name).touch()
    (folder / "usb-Shelf_Cam_123-video-index0").symlink_to(tmp_path / "video0")
    return folder


def test_a_camera_is_known_by_its_link_whatever_its_number(tmp_path: Path, links: Path) -> None:
    link = links / "usb-Shelf_Cam_123-video-index0"
    assert lasting_path(str(tmp_path / "video0"), links=(links,)) == str(link)
    assert lasting_path(str(link), links=(links,)) == str(link)
    assert lasting_path(str(tmp_path / "video1"), links=(links,)) is None


def test_a_camera_that_is_plugged_in_again_under_another_number_is_found(
    tmp_path: Path, links: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int | Path] = []
    connections = iter([Scripted(shows(10), ends), Scripted(shows(20))])

    def open_device(device: int | str, view: View) -> Capture:
        opened.append(device if isinstance(device, int) else Path(device).resolve())
        return next(connections)

    monkeypatch.setattr(source, "open_device", open_device)
    monkeypatch.setattr(
        source, "lasting_path", lambda number: lasting_path(f"{tmp_path}/video{number}", links=(links,))
    )
    with closing(open_source("0")) as camera:
        frames = camera.frames(lambda: False)
        assert levels(frames, 1) == [10]
        link = links / "usb-Shelf_Cam_123-video-index0"
        link.unlink()
        link.symlink_to(tmp_path / "video1")
        assert levels(frames, 1) == [20]
    assert opened == [0, tmp_path / "video1"]


class Driver:
    """An OpenCV capture whose driver stamps frames `lag_s` ago, by the monotonic clock."""

    def __init__(self, lag_s: float) -> None:
        self._lag_s = lag_s

    def read(self) -> tuple[bool, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        return True, grey(10)

    def get(self, _property: int) -> float:
        return 1000 * (time.monotonic() - self._lag_s)


@pytest.mark.parametrize(("lag_s", "age_s"), [(0.25, 0.25), (3600, 0), (-5, 0)])
def test_the_drivers_capture_time_is_taken_where_it_is_of_our_clock(lag_s: float, age_s: float) -> None:
    picture = OpenCvCapture(Driver(lag_s), driver_tells_time=True).read()  # type: ignore[arg-type]
    assert time.monotonic() - picture.captured_monotonic_s == pytest.approx(age_s, abs=0.1)


def test_no_duration_is_taken_from_a_clock_that_can_be_set() -> None:
    """A stepped wall clock must neither lose a camera nor keep a dead one; only a reading's `time` shows it."""
    modules = Path(source.__file__).parent.glob("*.py")
    found = {path.name for path in modules if re.search(r"time\.time\(|datetime\.now|perf_counter", path.read_text())}
    assert found <= {"reading.py"}
