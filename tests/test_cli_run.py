"""`edgebcnn run`, as a user or a service manager meets it."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from edgebcnn.cli import main
from edgebcnn.errors import BundleError, CameraError, StorageError
from edgebcnn.field.sample import open_sample
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.sources.truth import write_truth
from tests.mjpeg_server import network_camera, running_camera
from tests.test_csi import FOR_EVER, stand_in
from tests.tiny_bundle import COLOURS_BGR, coloured, make_tiny_bundle, write_photos, write_video
from tests.typing_in import keys

NAMES = list(COLOURS_BGR)
MEMORY_LIMIT_MB = 250  # what `run` may take on a device


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, photos, and a video of which every fourth label is wrong."""
    folder = tmp_path_factory.mktemp("shelf")
    make_tiny_bundle(folder / "bundle", ["int8", "float32"])
    write_photos(folder / "photos", per_label=2)
    write_video(folder / "shelf.avi", NAMES * 3)
    write_truth(folder / "shelf.avi", ["Red", "Green", "Blue", "Blue"] * 3)
    return folder


def run(shelf: Path, *arguments: str, bundle: str = "bundle") -> Result:
    return CliRunner().invoke(main, ["run", "--bundle", str(shelf / bundle), *arguments])


def test_a_video_gives_a_line_a_frame_and_a_summary(shelf: Path) -> None:
    result = run(shelf, "--camera", str(shelf / "shelf.avi"))
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert [line.split("  ")[1] for line in lines[:12]] == NAMES * 3
    assert lines[3].endswith("(actually Blue)")
    assert lines[13] == "frames    12 seen · 0 dropped · 12 classified · 0 unreadable"
    assert "ops · int8" in lines[17]
    assert lines[18] == "accuracy  75.0 % (95 % CI 46.8-91.1, n=12)"


def test_json_prints_the_summary_alone(shelf: Path) -> None:
    result = run(shelf, "--camera", str(shelf / "photos"), "--json", "--precision", "float32", "--threads", "1")
    summary = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (summary["seen"], summary["classified"]) == (8, 8)
    assert (summary["receipt"]["precision"], summary["receipt"]["threads"]) == ("float32", 1)
    assert summary["accuracy"]["value"] == 1.0


def test_quiet_prints_the_summary_without_frames(shelf: Path) -> None:
    result = run(shelf, "--camera", str(shelf / "photos"), "--quiet")
    assert len(result.stdout.splitlines()) == 7
    assert "Red/0.png" not in result.stdout


def test_max_frames_and_jsonl_go_together(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "readings.jsonl"
    result = run(shelf, "--camera", str(shelf / "shelf.avi"), "--max-frames", "5", "--jsonl", str(file))
    assert result.exit_code == 0
    assert [json.loads(line)["label"] for line in file.read_text().splitlines()] == [*NAMES, "Red"]


def test_a_truncated_photo_is_named_on_stderr_and_counted(shelf: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_label=1)
    photo = tmp_path / "photos" / "Blue" / "0.png"
    photo.write_bytes(photo.read_bytes()[:-100])
    result = run(shelf, "--camera", str(tmp_path / "photos"), "--quiet")
    assert result.exit_code == 0
    assert f"skipped {photo}: the file is cut short" in result.stderr
    assert "4 seen · 0 dropped · 3 classified · 1 unreadable" in result.stdout


def test_a_bundle_with_a_changed_byte_is_refused(shelf: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle", ["int8"])
    model = bytearray(bundle.model_path("int8").read_bytes())
    model[len(model) // 2] ^= 1
    bundle.model_path("int8").write_bytes(model)
    result = run(tmp_path, "--camera", str(shelf / "photos"))
    assert result.exit_code == BundleError.exit_code
    assert "model.int8.tflite was changed after export" in result.stderr
    assert result.stdout == ""


def test_without_a_run_the_user_is_told_what_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["run"])
    assert result.exit_code == BundleError.exit_code
    assert "run edgebcnn train and edgebcnn export --int8 first" in result.stderr


def test_the_bundle_of_the_latest_run_is_the_default(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_bundle(tmp_path / "runs" / "latest" / "bundle", ["int8"])
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["run", "--camera", str(shelf / "photos")]).exit_code == 0


PROFILE = """
name = "door"
description = "The camera at the door."
runtime = "any"
delegate = "xnnpack"
precision = "int8"
[camera]
source = "ADDRESS"
rotate = 180
"""


@pytest.mark.parametrize(("flags", "red_side"), [([], -1), (["--rotate", "0"], 0)])
def test_a_profile_turns_the_frames_of_its_camera_unless_a_flag_does(
    shelf: Path, tmp_path: Path, flags: list[str], red_side: int
) -> None:
    rng = np.random.default_rng(3)
    with network_camera() as camera:
        (tmp_path / "door.toml").write_text(PROFILE.replace("ADDRESS", camera.address))
        camera.send(np.hstack([coloured("Red", rng), coloured("Blue", rng)]))
        kept = [
            "--sample",
            str(tmp_path / "sample"),
            *keys(sample__sample_rate=1),
            "--max-frames",
            "1",
            *keys(monitoring__golden_every=0),
        ]
        result = run(shelf, "--device", str(tmp_path / "door.toml"), *kept, *flags)
    assert result.exit_code == 0, result.stderr
    sample = open_sample(tmp_path / "sample")
    (seen_rgb,) = sample.pixels(sample.records)
    assert seen_rgb[:, red_side, 0].mean() > seen_rgb[:, red_side, 2].mean()


def test_opencv_leaves_the_models_cores_alone_while_the_loop_runs(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, during, begin = cv2.getNumThreads(), [], CameraLoop.run

    def counted(loop: CameraLoop, **limits: Any) -> None:
        during.append(cv2.getNumThreads())
        begin(loop, **limits)

    monkeypatch.setattr(CameraLoop, "run", counted)
    assert run(shelf, "--camera", str(shelf / "photos")).exit_code == 0
    assert during == [1]
    assert cv2.getNumThreads() == before


def test_no_camera_is_one_sentence(shelf: Path) -> None:
    result = run(shelf, "--camera", "63")
    assert result.exit_code == CameraError.exit_code
    assert result.stderr.splitlines()[-1].startswith("Error: no camera at index 63: ")


def test_an_unwritable_jsonl_is_refused_before_the_first_frame(shelf: Path, tmp_path: Path) -> None:
    result = run(shelf, "--camera", str(shelf / "photos"), "--jsonl", str(tmp_path / "no" / "file.jsonl"))
    assert result.exit_code == StorageError.exit_code
    assert result.stdout == ""


def test_a_duration_that_is_no_number_is_named(shelf: Path) -> None:
    result = run(shelf, "--camera", str(shelf / "photos"), "--duration", "nan")
    assert result.exit_code == 2
    assert "'--duration': nan is not a number of seconds" in result.stderr


def test_a_lost_stream_leaves_its_summary_and_the_cameras_exit_code(shelf: Path, tmp_path: Path) -> None:
    file = tmp_path / "readings.jsonl"
    with network_camera() as camera:
        for _ in range(4):
            camera.send(coloured("Green", np.random.default_rng(3)))
        camera.hang_up()
        address = camera.address.replace("://", "://user:secret@")
        result = run(shelf, "--camera", address, "--json", "--jsonl", str(file), *keys(source__max_outage=0))
    summary = json.loads(result.stdout)
    assert result.exit_code == CameraError.exit_code
    assert "stopped giving frames" in result.stderr
    assert summary["seen"] == 4
    assert summary["source"] == camera.address.replace("://", "://***@")
    assert "secret" not in result.output + file.read_text()


def test_a_csi_camera_is_read_like_any_other(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch).plays([["show", 40, FOR_EVER]])
    result = run(shelf, "--camera", "csi:0", "--max-frames", "5", "--every-frame", "--json")
    summary = json.loads(result.stdout)
    assert result.exit_code == 0
    assert (summary["source"], summary["classified"], summary["restarts"]) == ("csi:0", 5, 0)


def in_shell(shelf: Path, redirections: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What a shell says of `edgebcnn run ... REDIRECTIONS`."""
    words = [sys.executable, "-m", "edgebcnn", "run", "--bundle", shelf / "bundle", "--camera", shelf / "photos"]
    line = f"{shlex.join(map(str, words))} {redirections}"
    return subprocess.run(line, shell=True, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize("closed", ["2>&-", "<&- 2>&-", ">&-", "<&- >&- 2>&-"])
def test_a_closed_stream_ends_no_command(shelf: Path, tmp_path: Path, closed: str) -> None:
    file = tmp_path / "readings.jsonl"
    ended = in_shell(shelf, f"--jsonl {file} {closed}")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [json.loads(line)["frame"] for line in file.read_text().splitlines()] == list(range(8))
    assert ("frames    8 seen" in ended.stdout) == (" >&-" not in f" {closed}")


@pytest.mark.parametrize(("encoding", "dot"), [("iso8859-5", r"\xb7"), ("ascii", "·")])  # for ASCII, click takes UTF-8
def test_a_terminal_without_our_characters_ends_no_command(shelf: Path, encoding: str, dot: str) -> None:
    ended = in_shell(shelf, "", PYTHONIOENCODING=encoding)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"8 seen {dot} 0 dropped" in ended.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", ["", "--quiet", "--json"])
def test_results_that_cannot_be_printed_are_one_sentence(shelf: Path, flags: str) -> None:
    ended = in_shell(shelf, f"{flags} >/dev/full")
    assert ended.returncode == StorageError.exit_code
    assert "Traceback" not in ended.stderr
    last_line = ended.stderr.splitlines()[-1]
    assert last_line == "Error: the results cannot be printed: no space left where they go, free some and try again"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_live_run_cleanly(shelf: Path, tmp_path: Path, number: signal.Signals) -> None:
    file, output = tmp_path / "readings.jsonl", tmp_path / "stdout.txt"
    with running_camera() as address, output.open("w") as stdout:
        arguments = ["run", "--bundle", str(shelf / "bundle"), "--camera", address, "--jsonl", str(file)]
        arguments += [*keys(monitoring__golden_every=0)]
        with subprocess.Popen(
            [sys.executable, "-m", "edgebcnn", *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True
        ) as process:
            deadline_s = time.monotonic() + 30
            while output.stat().st_size == 0 and process.poll() is None and time.monotonic() < deadline_s:
                time.sleep(0.02)
            process.send_signal(number)
            _, errors = process.communicate(timeout=30)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    lines = output.read_text().splitlines()
    subjects = ["source", "frames", "speed", "inference", "delay", "delegate", "accuracy", "events"]
    assert [line.split()[0] for line in lines[-8:]] == subjects
    read = [json.loads(line)["frame"] for line in file.read_text().splitlines()]
    assert read
    assert [int(line.split()[1]) for line in lines[:-8]] == read
    assert lines[-1].endswith(f"{file} {len(read)} delivered")


def test_a_signals_former_handlers_are_put_back(shelf: Path) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    run(shelf, "--camera", str(shelf / "photos"))
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_device_needs_little_memory_and_no_tensorflow(shelf: Path) -> None:
    script = r"""
import re, sys
from pathlib import Path
from edgebcnn.cli import main
main(sys.argv[1:], standalone_mode=False)
heavy = {"tensorflow", "tf_keras", "scipy", "matplotlib"} & set(sys.modules)
peak_kib = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]  # ru_maxrss counts the parent's too
print(int(peak_kib) // 1024, *heavy)
"""
    arguments = ["run", "--bundle", str(shelf / "bundle"), "--camera", str(shelf / "photos"), "--quiet"]
    ended = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60)
    peak_mb, *heavy = ended.stdout.splitlines()[-1].split()
    assert heavy == []
    assert int(peak_mb) < MEMORY_LIMIT_MB
