"""A CSI camera is read through `rpicam-vid`, which may fail, hang or stutter, and never outlives the run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from edgebcnn.camera_view import AS_IT_IS, View
from edgebcnn.cli import main
from edgebcnn.errors import CameraError
from edgebcnn.sources import csi
from edgebcnn.sources import jpeg_stream as mjpeg
from edgebcnn.sources.csi import OPTIONS_VARIABLE, CsiCamera, CsiCapture, CsiOpener, csi_cameras
from edgebcnn.sources.jpeg_stream import NOTICES_EVERY_DAMAGE, JpegCutter, decoded
from edgebcnn.sources.open import masked, open_source
from edgebcnn.sources.reconnect import Patience
from tests import rpicam_vid
from tests.test_camera_recovery import levels
from tests.test_camera_source import Listener, grey, wait_until
from tests.test_mjpeg import jpeg

LEVELS = range(20, 240, 20)
FOR_EVER = 10**6


class Program:
    """The stand-in, as `rpicam-vid` on the PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def plays(self, *starts: list[list[Any]]) -> None:
        """What it does at its first start, its second, and so on; the last again at all after."""
        (self.folder / "plays").write_text(json.dumps(starts))

    @property
    def starts(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "starts").read_text().splitlines()]


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    return stand_in(tmp_path, monkeypatch)


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    folder = tmp_path / "rpicam"
    folder.mkdir()
    install(folder / "bin" / "rpicam-vid", folder)
    monkeypatch.setenv("PATH", str(folder / "bin"), prepend=os.pathsep)
    for level in LEVELS:
        assert cv2.imwrite(str(folder / f"{level}.jpg"), grey(level))
    return Program(folder)


def install(path: Path, folder: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{rpicam_vid.__file__}" "{folder}" "$@"\n')
    path.chmod(0o755)


def is_there(pid: int) -> bool:
    """Whether such a process runs; one that ended and that nobody asked about does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_frames_come_in_the_size_and_at_the_rate_that_were_asked_for(program: Program) -> None:
    program.plays([["show", 40], ["show", 80, FOR_EVER]])
    with closing(open_source("csi:1", view=View(size_px=(64, 48), rate_fps=15, rotate=90))) as camera:
        assert camera.name == "csi:1"
        frame = next(camera.frames(lambda: False))
        assert (frame.index, frame.image_bgr.shape) == (0, (64, 48, 3))
    given = program.starts[0]["given"]
    assert [given[name] for name in ("--camera", "--width", "--height", "--framerate")] == ["1", "64", "48", "15"]
    assert (given["--codec"], given["--timeout"], given["--output"]) == ("mjpeg", "0", "-")


def test_nothing_asked_for_is_720_lines_at_the_cameras_own_rate(program: Program) -> None:
    program.plays([["show", 40, FOR_EVER]])
    open_source("csi:0").close()
    given = program.starts[0]["given"]
    assert (given["--width"], given["--height"]) == ("1280", "720")
    assert "--framerate" not in given


def test_a_size_that_the_camera_does_not_have_is_refused(program: Program) -> None:
    program.plays([["show", 40, FOR_EVER]])
    with pytest.raises(CameraError, match=r"csi:0 films in 64x48, not in 66x48: give a --size that it has, or none"):
        open_source("csi:0", view=View(size_px=(66, 48)))
    assert not is_there(program.starts[0]["pid"])


def test_a_frame_is_as_old_as_the_camera_says(program: Program) -> None:
    program.plays([["show", 40, FOR_EVER, 0.25]])
    capture = CsiOpener("0", AS_IT_IS)(10)
    pictures = [capture.read() for _ in range(5)]
    age_s = time.monotonic() - pictures[-1].captured_monotonic_s
    capture.release()
    assert 0.2 < age_s < 1


@pytest.mark.parametrize("ago_s", [3600, -5])
def test_a_time_of_another_clock_is_not_believed(program: Program, ago_s: float) -> None:
    program.plays([["show", 40, FOR_EVER, ago_s]])
    capture = CsiOpener("0", AS_IT_IS)(10)
    ages_s = [-capture.read().captured_monotonic_s + time.monotonic() for _ in range(5)]
    capture.release()
    assert all(0 <= age_s < 1 for age_s in ages_s[1:])


def test_only_the_newest_of_the_pictures_that_nobody_took_is_decoded(program: Program) -> None:
    program.plays([["show", 40, 20], ["show", 60], ["hang"]])
    capture = CsiOpener("0", AS_IT_IS)(10)
    first = capture.read()
    wait_until(lambda: capture._passed_over == 19)
    newest = capture.read()
    capture.release()
    assert first.image_bgr is not None and newest.image_bgr is not None
    assert (int(newest.image_bgr.mean()), newest.passed_over, newest.broken) == (60, 19, 0)


def test_a_program_that_ends_is_started_again_and_its_last_words_are_told(program: Program) -> None:
    program.plays([["show", 40, 3], ["fail", "failed to queue request"]], [["show", 80, FOR_EVER]])
    listener = Listener()
    with closing(open_source("csi:0", reporter=listener)) as camera:
        frames = camera.frames(lambda: False)
        while levels(frames, 1) == [40]:
            pass
    assert camera.restarts == 1
    assert listener.said[0] == (
        "csi:0 stopped giving frames: rpicam-vid ended with exit code 255 (failed to queue request): "
        "reconnecting for up to 600 s"
    )


def test_a_program_that_is_killed_says_nothing_and_figures_of_frames_are_no_words(program: Program) -> None:
    program.plays([["show", 40, FOR_EVER]])
    capture = CsiOpener("0", AS_IT_IS)(10)
    os.kill(program.starts[0]["pid"], signal.SIGKILL)
    with pytest.raises(CameraError) as failure:
        for _ in range(1000):
            capture.read()
    assert str(failure.value) == "stopped giving frames: rpicam-vid was ended by signal 9"
    capture.release()


def test_a_program_that_hangs_is_ended_and_another_started(program: Program) -> None:
    program.plays([["show", 40, 3], ["hang"]], [["show", 80, FOR_EVER]])
    with closing(open_source("csi:0", patience=Patience(stall_timeout_s=0.5))) as camera:
        frames = camera.frames(lambda: False)
        while levels(frames, 1) == [40]:
            pass
        assert not is_there(program.starts[0]["pid"])
        assert is_there(program.starts[1]["pid"])
    assert camera.restarts == 1


@pytest.mark.skipif(not NOTICES_EVERY_DAMAGE, reason="needs simplejpeg")
def test_garbage_and_damaged_pictures_are_counted_and_never_become_frames(program: Program) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
    assert cv2.imwrite(str(program.folder / "99.jpg"), noise)
    damage = [["cut", 99, 0.5], ["show", 60], ["cut", 99, 0.8], ["rubbish", 5000]]
    program.plays([["show", 40], *damage * 3, ["show", 80, FOR_EVER]])
    seen = set()
    with closing(open_source("csi:0")) as camera:
        for frame in camera.frames(lambda: 80 in seen):
            seen.add(int(frame.image_bgr.mean()))
    assert seen <= {40, 60, 80}
    assert 1 <= camera.unreadable <= 6


def test_nothing_but_garbage_is_a_loss(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mjpeg, "MAX_PICTURE_BYTES", 2**20)
    program.plays([["show", 40], ["rubbish", 2**20 + 1], ["hang"]], [["show", 80, FOR_EVER]])
    listener = Listener()
    with closing(open_source("csi:0", reporter=listener)) as camera:
        frames = camera.frames(lambda: False)
        while levels(frames, 1) == [40]:
            pass
    assert listener.said[0].startswith("csi:0 sends no pictures but something without end: ")


def test_a_talkative_program_is_not_held_up(program: Program) -> None:
    program.plays([["show", 40], ["chatter", 10_000], ["show", 80, FOR_EVER]])
    with closing(open_source("csi:0")) as camera:
        frames = camera.frames(lambda: False)
        while levels(frames, 1) == [40]:
            pass
    assert not camera.restarts


def test_a_machine_without_the_program_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CameraError, match=r"csi:0 cannot be opened: rpicam-vid, .* sudo apt install rpicam-apps-lite"):
        open_source("csi:0")
    assert csi_cameras() == ()


def test_the_programs_older_name_is_found(tmp_path: Path, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program.plays([["fail", "no cameras available"]])
    install(tmp_path / "old" / "libcamera-vid", program.folder)
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}:/usr/bin:/bin")
    with pytest.raises(CameraError, match="libcamera-vid ended with exit code 255"):
        open_source("csi:0")


def test_a_camera_that_is_not_there_is_an_error_at_once_in_one_sentence(program: Program) -> None:
    program.plays([["chatter", 1], ["fail", "no cameras available"]])
    with pytest.raises(CameraError) as failure:
        open_source("csi:0")
    assert str(failure.value) == (
        "csi:0 cannot be opened: rpicam-vid ended with exit code 255 (no cameras available); rpicam-vid --list-cameras "
        "lists what is there, and only one program at a time can use a camera"
    )


def test_a_camera_that_hangs_from_the_start_is_an_error(program: Program) -> None:
    program.plays([["chatter", 1], ["hang"]])
    capture = CsiCapture([str(program.folder / "bin/rpicam-vid")])
    wait_until(lambda: capture._words.endswith(b"\n"))
    with pytest.raises(CameraError, match=r"rpicam-vid gave no picture within 0.1 s \(INFO Camera .* libcamera\); "):
        capture.await_first(0.1)
    capture.release()


def test_a_file_that_is_no_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rpicam-vid").write_bytes(b"\x7fELF of another processor")
    (tmp_path / "rpicam-vid").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CameraError, match=r"rpicam-vid ended with exit code 1 \(OSError: .* Exec format error"):
        open_source("csi:0")


def test_the_program_ends_with_the_run_and_with_it_all_that_it_started(program: Program) -> None:
    program.plays([["show", 40], ["hang_with_a_child"]])
    camera = open_source("csi:0")
    wait_until((program.folder / "child").exists)
    wait_until(lambda: bool((program.folder / "child").read_text()))
    camera.close()
    pids = [program.starts[0]["pid"], int((program.folder / "child").read_text())]
    wait_until(lambda: not any(map(is_there, pids)))


def test_the_program_ends_with_a_run_that_is_killed(program: Program) -> None:
    program.plays([["show", 40], ["hang"]])
    script = (
        "import time; from edgebcnn.sources.open import open_source; open_source('csi:0'); print(); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as run:
        assert run.stdout and run.stdout.readline() == b"\n"
        pid = program.starts[0]["pid"]
        time.sleep(0.3)  # longer than the thread lives that opens it
        assert is_there(pid)
        run.kill()
    wait_until(lambda: not is_there(pid))


def test_a_program_that_nothing_can_end_is_not_joined_by_a_second(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    program.plays([["outlive"], ["show", 40], ["hang"]])
    opener = CsiOpener("0", AS_IT_IS)
    opener(10)
    with monkeypatch.context() as patch:
        patch.setattr(csi, "KILL_TIMEOUT_S", 0.1)
        patch.setattr(os, "killpg", lambda *_: None)
        with pytest.raises(CameraError, match="hangs in its driver and cannot be ended: restart this machine"):
            opener(10)
    os.kill(program.starts[0]["pid"], signal.SIGKILL)
    wait_until(lambda: not opener._before.is_stuck())  # type: ignore[union-attr]
    opener(10).release()
    assert len(program.starts) == 2


def test_a_read_that_waits_ends_when_it_should(program: Program) -> None:
    program.plays([["show", 40], ["hang"]])
    capture = CsiOpener("0", AS_IT_IS)(10)
    capture.read()
    began_s = time.monotonic()
    capture.abort()
    with pytest.raises(CameraError, match="stopped giving frames: it was aborted"):
        capture.read()
    assert time.monotonic() - began_s < 1
    capture.release()


def test_the_users_own_options_are_passed_on(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program.plays([["show", 40, FOR_EVER]])
    monkeypatch.setenv(OPTIONS_VARIABLE, "--lens-position '1.5'")
    open_source("csi:0").close()
    assert program.starts[0]["given"]["--lens-position"] == "1.5"
    monkeypatch.setenv(OPTIONS_VARIABLE, "--focus")
    with pytest.raises(CameraError, match=r"\(unrecognised option '--focus'\)"):
        open_source("csi:0")
    monkeypatch.setenv(OPTIONS_VARIABLE, "--lens-position '1.5")
    with pytest.raises(CameraError, match=rf"{OPTIONS_VARIABLE} is no list of options \(No closing quotation\)"):
        open_source("csi:0")


PATHS = ["/base/axi/pcie@1000120000/rp1/i2c@88000/imx708@1a", "/base/axi/pcie@1000120000/rp1/i2c@80000/imx219@10"]


@pytest.mark.parametrize("name", [PATHS[1], "imx219@10", "i2c@80000/imx219@10"])
def test_a_camera_is_found_by_its_path(program: Program, name: str) -> None:
    program.plays([["show", 40, FOR_EVER]])
    with closing(open_source(f"csi:{name}")) as camera:
        assert camera.name == masked(camera.name) == f"csi:{name}"
    assert program.starts[0]["given"]["--camera"] == "1"


@pytest.mark.usefixtures("program")
@pytest.mark.parametrize("name", ["imx477@1a", "219@10", "", "-1", "²"])
def test_a_path_that_no_camera_has_is_an_error_that_lists_those_there_are(name: str) -> None:
    there = f"csi:0 or csi:{PATHS[0]}, csi:1 or csi:{PATHS[1]}"
    with pytest.raises(CameraError) as failure:
        open_source(f"csi:{name}")
    assert str(failure.value) == (
        f"csi:{name} cannot be opened: no camera has such a path; rpicam-vid --list-cameras lists {there}"
    )


@pytest.mark.usefixtures("program")
def test_cameras_are_listed_and_devices_shows_them() -> None:
    assert csi_cameras() == (CsiCamera(0, "imx708", PATHS[0]), CsiCamera(1, "imx219", PATHS[1]))
    shown = CliRunner().invoke(main, ["devices"]).stdout
    assert f"csi:0 · imx708 · csi:{PATHS[0]}\n" in shown
    listed = json.loads(CliRunner().invoke(main, ["devices", "--json"]).stdout)["cameras"]
    assert {"device": "csi:1", "name": "imx219", "stable_path": f"csi:{PATHS[1]}"} in listed


@pytest.mark.parametrize("chunk", [1, 7, 1000, 10**6])
def test_pictures_in_a_row_are_cut_the_same_however_they_arrive(chunk: int) -> None:
    pictures = [jpeg("Red", height_px=16, width_px=16), jpeg("Blue", height_px=16, width_px=16)] * 2
    body, cutter = b"".join(pictures), JpegCutter()
    assert [each for at in range(0, len(body), chunk) for each in cutter.cut(body[at : at + chunk])] == pictures


def test_no_end_marker_stands_within_a_picture_of_our_quality(rng: np.random.Generator) -> None:
    noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
    picture = cv2.imencode(".jpg", noise, [cv2.IMWRITE_JPEG_QUALITY, csi.QUALITY])[1].tobytes()
    assert JpegCutter().cut(picture * 2) == [picture] * 2
    assert decoded(picture) is not None
