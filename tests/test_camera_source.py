"""Files give every frame, live sources the newest one, and what cannot be read is said in one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebcnn.camera_view import Rotation, View
from edgebcnn.errors import CameraError, DataError
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Advance
from edgebcnn.sources import open as source
from edgebcnn.sources.capture import Capture
from edgebcnn.sources.open import Frame, Source, masked, open_source
from edgebcnn.sources.reconnect import Patience
from edgebcnn.sources.truth import photo_truth, truth_path, video_truth, write_truth
from tests.mjpeg_server import NetworkCamera, network_camera
from tests.tiny_bundle import COLOURS_BGR, write_photos, write_video

NAMES = list(COLOURS_BGR)


class Listener:
    """Keeps what a user would be told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    def progress(self, description: str, total: int) -> AbstractContextManager[Advance]:
        return nullcontext(lambda pieces: None)


@pytest.fixture
def camera() -> Iterator[NetworkCamera]:
    with network_camera() as camera:
        yield camera


def grey(level: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((48, 64, 3), level, np.uint8)


def read_all(source: Source) -> list[Frame]:
    with closing(source):
        return list(source.frames(lambda: False))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "waited 10 s in vain"
        time.sleep(0.01)


def test_a_folder_gives_every_photo_in_order_with_its_truth(tmp_path: Path) -> None:
    write_photos(tmp_path / "shelf" / "left", per_label=2)
    (tmp_path / "shelf" / "notes.txt").write_text("no photo")
    frames = read_all(open_source(str(tmp_path / "shelf"), labels=NAMES))
    assert [frame.photo for frame in frames] == [f"left/{name}/{n}.png" for name in sorted(NAMES) for n in range(2)]
    assert [frame.truth for frame in frames] == [name for name in sorted(NAMES) for _ in range(2)]
    assert [frame.index for frame in frames] == list(range(8))
    for frame in frames:
        np.testing.assert_array_equal(frame.image_bgr, read_photo(tmp_path / "shelf" / str(frame.photo)))


def test_the_nearest_folder_with_a_products_name_is_the_truth() -> None:
    labels = {"Kiwi", "Golden-Delicious", "Apple"}
    assert photo_truth(Path("test/Apple/Golden-Delicious/1.jpg"), labels) == "Golden-Delicious"
    assert photo_truth(Path("Apple/unsorted/1.jpg"), labels) == "Apple"
    assert photo_truth(Path("Pear/Kiwi.jpg"), labels) is None


def test_a_truncated_photo_is_named_counted_and_passed_over(tmp_path: Path) -> None:
    for number in range(3):
        assert cv2.imwrite(str(tmp_path / f"{number}.jpg"), grey(80))
    whole = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(whole[: len(whole) // 2])
    listener = Listener()
    source = open_source(str(tmp_path), reporter=listener)
    assert [frame.index for frame in read_all(source)] == [0, 2]
    assert source.unreadable == 1
    assert listener.said == [f"skipped {tmp_path / '1.jpg'}: the file is cut short"]


def test_a_folder_in_which_no_photo_can_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(CameraError, match="none of the 1 photos"):
        read_all(open_source(str(tmp_path)))


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    write_photos(tmp_path, per_label=1)
    (tmp_path / "Red" / "._0.png").write_bytes(b"what macOS leaves on other disks")
    source = open_source(str(tmp_path))
    assert (len(read_all(source)), source.unreadable) == (4, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_inside_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    write_photos(tmp_path, per_label=1)
    (tmp_path / "Red").chmod(0)
    try:
        with pytest.raises(CameraError, match=r"Red cannot be read \(Permission denied\): allow reading it"):
            open_source(str(tmp_path))
    finally:
        (tmp_path / "Red").chmod(0o755)


def test_one_photo_is_a_source_too(tmp_path: Path) -> None:
    write_photos(tmp_path, per_label=1)
    frames = read_all(open_source(str(tmp_path / "Red" / "0.png"), labels=NAMES))
    assert [(frame.photo, frame.truth) for frame in frames] == [("0.png", "Red")]


def test_a_lossless_video_gives_every_frame_and_its_truth(tmp_path: Path) -> None:
    labels = [NAMES[number % 4] for number in range(17)]
    written = write_video(tmp_path / "shelf.avi", labels)
    write_truth(tmp_path / "shelf.avi", labels)
    source = open_source(str(tmp_path / "shelf.avi"), labels=NAMES)
    frames = read_all(source)
    assert source.total == len(frames) == 17
    assert [frame.truth for frame in frames] == labels
    for frame, image in zip(frames, written, strict=True):
        np.testing.assert_array_equal(frame.image_bgr, image)


def test_a_video_that_breaks_off_is_named_and_its_missing_frames_counted(tmp_path: Path) -> None:
    video = tmp_path / "shelf.avi"
    write_video(video, NAMES * 5, codec="MJPG")
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 2 // 3])
    listener = Listener()
    source = open_source(str(video), reporter=listener)
    frames = read_all(source)
    assert 0 < len(frames) < 20
    assert source.unreadable == 20 - len(frames)
    assert f"promises 20 frames and {len(frames)} can be read" in listener.said[0]
    half_grey = (frames[-1].image_bgr[-8:].astype(int) - frames[-5].image_bgr[-8:]).mean()
    assert abs(half_grey) < 10, "a picture that was cut off must be dropped, not filled up"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("label,frame\n", "line 1: the header must be frame,label"),
        ("", "line 1: the header must be frame,label"),
        ("frame,label\n0,Red\nx,Red\n", "line 3: expected a frame number and a label, found 'x,Red'"),
        ("frame,label\n0\n", "line 2: expected a frame number and a label, found '0'"),
        ("frame,label\n0,Red\n1,Rde\n", "line 3: the bundle has no product 'Rde'"),
        ("frame,label\n0,Red\n0,Blue\n", "line 3: frame 0 is there twice"),
        ("frame,label\n0,R\xff\n".encode("latin-1"), "line 2 is not UTF-8"),
    ],
)
def test_a_malformed_truth_file_is_an_error_with_file_and_line(
    tmp_path: Path, content: str | bytes, complaint: str
) -> None:
    video = tmp_path / "shelf.avi"
    truth_path(video).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(DataError) as failure:
        video_truth(video, NAMES)
    assert str(failure.value).startswith(str(truth_path(video)))
    assert complaint in str(failure.value)


def test_truth_survives_commas_quotes_and_excels_byte_order_mark(tmp_path: Path) -> None:
    names = ['Milk, 3 %, "fresh"', "Mjölk"]
    write_truth(tmp_path / "a.avi", names)
    file = truth_path(tmp_path / "a.avi")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert video_truth(tmp_path / "a.avi", names) == {0: names[0], 1: names[1]}


@pytest.mark.parametrize(
    ("spec", "complaint"),
    [
        ("63", "no camera at index 63: "),
        ("/dev/video63", "no camera at /dev/video63: "),
        ("no/such/thing", "there is no file or folder 'no/such/thing'"),
        ("", "no source is named"),
        ("99999999999", "there is no file or folder '99999999999'"),
        ("²", "there is no file or folder '²'"),
        ("a" * 300, r"a+ cannot be opened \(File name too long\): check the path and its permissions"),
        ("rtsp:/user:secret@host/x", r"there is no file or folder 'rtsp:/\*\*\*@host/x'"),
        ("ftp://user:secret@host/x", r"ftp://\*\*\*@host/x is not an address that can be read"),
        ("http://user:secret@127.0.0.1:9/x?pwd=secret", r"http://\*\*\*@127.0.0.1:9/x\?\*\*\* cannot be opened"),
        ("rtsp://user:secret@127.0.0.1:9/x", r"rtsp://\*\*\*@127.0.0.1:9/x cannot be opened"),
    ],
)
def test_a_source_that_is_not_there_is_named_without_its_password(spec: str, complaint: str) -> None:
    with pytest.raises(CameraError, match=complaint) as failure:
        open_source(spec)
    assert "secret" not in str(failure.value)


@pytest.mark.parametrize("spec", ["http://user:secret@127.0.0.1:9/x", "rtsp://user:secret@127.0.0.1:9/x", "63"])
def test_opencv_and_ffmpeg_add_no_words_of_their_own(spec: str) -> None:
    # In a process of its own, because FFmpeg takes its log level from the first video that a process opens or writes.
    script = f"""
from edgebcnn.sources.open import open_source
from edgebcnn.errors import CameraError
try:
    open_source({spec!r})
except CameraError as error:
    print(error)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stderr == ""
    assert len(ended.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "address",
    ["rtsp://u:s3cr3t@cam/x", "rtsp://u:p@s3cr3t@cam/x", "rtsp://u:/s3cr3t@cam/x", "http://u:p?s3cr3t#@cam/x?k=s3cr3t"],
)
def test_no_password_survives_the_mask(address: str) -> None:
    assert masked(address).startswith(f"{address[:4]}://***@cam/x")
    assert "s3cr3t" not in masked(address)


def test_a_file_that_is_no_video_and_a_folder_without_photos_are_errors(tmp_path: Path) -> None:
    (tmp_path / "shelf.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(CameraError, match=r"shelf\.mp4 is not a video"):
        open_source(str(tmp_path / "shelf.mp4"))
    with pytest.raises(CameraError, match="there is no photo in"):
        open_source(str(tmp_path))


def test_a_live_source_keeps_the_newest_frame_and_counts_the_rest(camera: NetworkCamera) -> None:
    for level in (10, 20, 30):
        camera.send(grey(level))
    with closing(open_source(camera.address)) as source:
        frames = source.frames(lambda: False)
        first = next(frames)
        assert abs(int(first.image_bgr.mean()) - 10 * (first.index + 1)) <= 2
        for level in range(40, 240, 10):
            camera.send(grey(level))
        wait_until(lambda: source.dropped == 21)  # 23 were sent, one was taken and one waits
        newest = next(frames)
        assert newest.index == 22
        assert abs(int(newest.image_bgr.mean()) - 230) <= 2
        assert 0 <= time.monotonic() - newest.captured_monotonic_s < 5
        assert source.dropped == 21


def test_a_live_source_that_hangs_up_is_an_error_and_its_half_frame_is_dropped(camera: NetworkCamera) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    for _ in range(4):
        camera.send(noise)
    camera.send(255 - noise, share=0.5)
    camera.hang_up()
    with closing(open_source(camera.address, patience=Patience(max_outage_s=0))) as source:
        taken = []
        with pytest.raises(CameraError, match="stopped giving frames"):
            for frame in source.frames(lambda: False):
                taken.append(frame)
    assert len(taken) + source.dropped == 4
    assert all(np.abs(frame.image_bgr.astype(int) - taken[0].image_bgr).max() < 8 for frame in taken)


def test_a_live_source_that_stalls_is_an_error(camera: NetworkCamera) -> None:
    for _ in range(3):
        camera.send(grey(90))
    started_s = time.monotonic()
    with (
        closing(open_source(camera.address, patience=Patience(stall_timeout_s=0.5, max_outage_s=0))) as source,
        pytest.raises(CameraError, match=r"gave no frame for 0\.5 s"),
    ):
        for _ in source.frames(lambda: False):
            pass
    assert time.monotonic() - started_s < 5
    assert not source._reader.is_alive()  # type: ignore[attr-defined]


def test_a_slow_but_steady_camera_does_not_stall(camera: NetworkCamera) -> None:
    for _ in range(3):
        camera.send(grey(90))
    stop_at_s = time.monotonic() + 2
    frames = 0
    with closing(open_source(camera.address, patience=Patience(stall_timeout_s=1))) as source:
        for _ in source.frames(lambda: time.monotonic() > stop_at_s):
            frames += 1
            threading.Timer(0.4, camera.send, [grey(90)]).start()
    assert frames >= 3  # one at once and one every 0.4 s, on a machine that may be busy


def test_waiting_for_a_live_frame_ends_when_it_should_stop(camera: NetworkCamera) -> None:
    for _ in range(3):
        camera.send(grey(90))
    with closing(open_source(camera.address, patience=Patience(stall_timeout_s=5))) as source:
        stop_at_s = time.monotonic() + 0.5
        assert list(source.frames(lambda: time.monotonic() > stop_at_s))
        assert time.monotonic() - stop_at_s < 1


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.png", ["10.png", "2.png", "x.png"]),
        ("%d.png", ["2.png", "10.png"]),
        ("%02d.png", ["10.png"]),
        ("[0-9].png", ["2.png"]),
    ],
)
def test_a_pattern_means_the_photos_that_it_names(tmp_path: Path, pattern: str, names: list[str]) -> None:
    folder = tmp_path / "Red"
    folder.mkdir()
    for name in ("2.png", "10.png", "x.png", "notes.txt"):
        assert cv2.imwrite(str(folder / "a.png"), grey(80))
        (folder / "a.png").rename(folder / name)
    frames = read_all(open_source(str(folder / pattern), labels=NAMES))
    assert [(frame.photo, frame.truth) for frame in frames] == [(name, "Red") for name in names]


def test_a_pattern_through_folders_keeps_them_in_the_names(tmp_path: Path) -> None:
    write_photos(tmp_path / "shelf", per_label=1)
    frames = read_all(open_source(f"{tmp_path}/shelf/**/*.png", labels=NAMES))
    assert [(frame.photo, frame.truth) for frame in frames] == [(f"{name}/0.png", name) for name in sorted(NAMES)]


def test_a_pattern_that_names_no_photo_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CameraError, match=r"no photo has a name like .*\*\.jpg: correct the pattern"):
        open_source(f"{tmp_path}/*.jpg")


@pytest.mark.parametrize(("rotate", "corner"), [(0, (0, 0)), (90, (0, -1)), (180, (-1, -1)), (270, (-1, 0))])
def test_frames_are_turned_clockwise(
    tmp_path: Path, camera: NetworkCamera, rotate: Rotation, corner: tuple[int, int]
) -> None:
    image = grey(20)
    image[:16, :16] = 250
    assert cv2.imwrite(str(tmp_path / "a.png"), image)
    camera.send(image)
    with closing(open_source(camera.address, view=View(rotate=rotate))) as live:
        turned = [
            *read_all(open_source(str(tmp_path), view=View(rotate=rotate))),
            next(live.frames(lambda: False)),
        ]
    for frame in turned:
        assert frame.image_bgr.shape[:2] == ((64, 48) if rotate in (90, 270) else (48, 64))
        assert frame.image_bgr[corner].min() > 200


@pytest.mark.parametrize(
    ("view", "asked"),
    [
        (View(), View((1280, 720), 15, 90)),
        (View(size_px=(640, 480)), View((640, 480), 15, 90)),
        (View(rate_fps=30), View((1280, 720), 30, 90)),
        (View(rotate=0), View((1280, 720), 15, 0)),
    ],
)
def test_a_camera_films_as_usual_where_nothing_else_is_asked(
    monkeypatch: pytest.MonkeyPatch, view: View, asked: View
) -> None:
    seen: list[View] = []

    def refuse(device: int | str, view: View) -> Capture:
        seen.append(view)
        raise CameraError("there is none")

    monkeypatch.setattr(source, "open_device", refuse)
    with pytest.raises(CameraError, match="there is none"):
        open_source("0", view=view, usual=View((1280, 720), 15, 90))
    assert seen == [asked]


@pytest.mark.parametrize(("view", "shape"), [(View(), (64, 48, 3)), (View(rotate=0), (48, 64, 3))])
def test_a_stream_is_turned_as_usual_and_a_file_is_taken_as_it_is(
    tmp_path: Path, camera: NetworkCamera, view: View, shape: tuple[int, ...]
) -> None:
    usual = View((1280, 720), 15, 90)
    assert cv2.imwrite(str(tmp_path / "a.png"), grey(20))
    camera.send(grey(20))
    with closing(open_source(camera.address, view=view, usual=usual)) as live:
        assert next(live.frames(lambda: False)).image_bgr.shape == shape
    (frame,) = read_all(open_source(str(tmp_path), view=view, usual=usual))
    assert frame.image_bgr.shape == (48, 64, 3)


@pytest.mark.parametrize("view", [View(size_px=(1280, 720)), View(rate_fps=15)])
def test_only_a_camera_is_asked_for_a_size_or_rate(tmp_path: Path, view: View) -> None:
    write_photos(tmp_path, per_label=1)
    for spec in (str(tmp_path), "http://user:secret@127.0.0.1:9/x"):
        with pytest.raises(CameraError, match="leave out --size and --camera-fps") as failure:
            open_source(spec, view=view)
        assert "secret" not in str(failure.value)
