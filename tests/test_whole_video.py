"""Of a video that lost packets, only the pictures that arrived whole are given."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from functools import cache

import av
import numpy as np
import pytest

from edgebcnn.errors import CameraError
from edgebcnn.progress import Silent
from edgebcnn.sources import open as source
from edgebcnn.sources import rtsp as whole_video
from edgebcnn.sources.capture import Picture
from edgebcnn.sources.open import open_source
from edgebcnn.sources.reconnect import Patience
from edgebcnn.sources.rtsp import WholeVideo
from tests.rtsp_camera import LAST_OF_PICTURE, filmed, packed, rtsp_camera

PLAIN = "CAVLC, as from a cheap camera"
CODINGS = {
    PLAIN: {"preset": "ultrafast", "tune": "zerolatency"},
    "four slices": {"preset": "ultrafast", "x264-params": "slices=4:bframes=0:scenecut=0"},
    "CABAC with B-frames": {"preset": "veryfast", "x264-params": "bframes=2:scenecut=0:threads=1"},
}


def watched(packets: Sequence[bytes]) -> list[Picture]:
    """What a camera that sends these packets brings until it ends."""
    pictures: list[Picture] = []
    with rtsp_camera(packets) as address:
        video = WholeVideo(address, timeout_s=10, silence_s=10)
        try:
            while True:
                pictures.append(video.read())
        except CameraError as error:
            assert str(error) == "stopped giving frames"
        finally:
            video.release()
    return pictures


def shown(pictures: Sequence[Picture]) -> list[bytes]:
    return [picture.image_bgr.tobytes() for picture in pictures if picture.image_bgr is not None]


@cache
def scene(coding: str) -> tuple[list[bytes], set[bytes]]:
    """Four seconds as they were coded, and the pictures that a decoder makes of them."""
    coded = filmed(pictures=100, options=CODINGS[coding])
    return coded, decoded(coded)


def decoded(coded: Sequence[bytes]) -> set[bytes]:
    decoder = av.CodecContext.create("h264", "r")
    packets = [av.Packet(picture) for picture in coded]
    return {
        frame.to_ndarray(format="bgr24").tobytes() for packet in [*packets, None] for frame in decoder.decode(packet)
    }


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("lost_share", [0.01, 0.05])
def test_no_picture_that_lost_a_packet_is_given_nor_one_drawn_upon_it(coding: str, lost_share: float) -> None:
    coded, whole = scene(coding)
    rng = np.random.default_rng(1)
    pictures = watched([packet for packet in packed(coded) if rng.random() >= lost_share])
    assert set(shown(pictures)) <= whole
    assert sum(picture.broken for picture in pictures) > 20


@pytest.mark.parametrize("coding", CODINGS)
def test_where_nothing_is_lost_every_picture_is_given(coding: str) -> None:
    coded, whole = scene(coding)
    pictures = watched(packed(coded))
    assert not sum(picture.broken for picture in pictures)
    assert len(shown(pictures)) + sum(picture.passed_over for picture in pictures) > 95
    assert set(shown(pictures)) <= whole


@pytest.mark.parametrize("kept_share", [0, 0.5])
def test_a_picture_that_a_camera_left_out_or_cut_is_noticed_though_no_packet_is_missing(kept_share: float) -> None:
    coded, whole = scene(PLAIN)
    cut = coded[30][: int(kept_share * len(coded[30]))]
    pictures = watched(packed([*coded[:30], cut, *coded[31:]]))
    assert set(shown(pictures)) <= whole
    assert 15 <= sum(picture.broken for picture in pictures) <= 22, "up to the key frame at 50"
    assert len(shown(pictures)) >= 75


def test_what_was_lost_while_the_stream_was_opened_is_not_trusted() -> None:
    coded, whole = scene(PLAIN)
    packets = packed(coded)
    second_picture = 1 + next(at for at, packet in enumerate(packets) if packet[5] & LAST_OF_PICTURE)
    pictures = watched(packets[:second_picture] + packets[second_picture + 1 :])
    assert set(shown(pictures)) <= whole
    assert len(shown(pictures)) == 75, "from the key frame at 25"


def test_a_read_that_waits_ends_when_it_is_aborted() -> None:
    with rtsp_camera(packed(scene(PLAIN)[0][:10]), stays=True) as address:
        video = WholeVideo(address, timeout_s=10, silence_s=5)
        while video.read().image_bgr is None:
            pass
        threading.Timer(0.3, video.abort).start()
        began_s = time.monotonic()
        with pytest.raises(CameraError, match="is aborted"):
            while True:
                video.read()
        video.release()
        assert time.monotonic() - began_s < 3


def test_a_camera_that_does_not_answer_or_was_never_there_is_named_without_its_password() -> None:
    with socket.create_server(("127.0.0.1", 0)) as dumb:
        address = f"rtsp://user:s3cr3t@127.0.0.1:{dumb.getsockname()[1]}/shelf"
        with pytest.raises(CameraError) as silent:
            WholeVideo(address, timeout_s=0.5, silence_s=1)
    with pytest.raises(CameraError) as absent:
        WholeVideo(address, timeout_s=0.5, silence_s=1)
    for error in (silent, absent):
        assert str(error.value).startswith("cannot be opened: nothing answers there within 0.5 s")
        assert "s3cr3t" not in str(error.value)


def test_a_camera_that_falls_silent_is_lost() -> None:
    with rtsp_camera([], stays=True) as address:
        video = WholeVideo(address, timeout_s=0.5, silence_s=0.5)
        with pytest.raises(CameraError, match="stopped giving frames"):
            video.read()
        video.release()


def test_the_whole_camera_counts_what_was_damaged_and_says_nothing_of_the_password(
    capfd: pytest.CaptureFixture[str],
) -> None:
    rng = np.random.default_rng(2)
    packets = [packet for packet in packed(scene(PLAIN)[0]) if rng.random() >= 0.02]
    with rtsp_camera(packets, stays=True) as address, closing(open_source(address)) as camera:
        end_s = time.monotonic() + 10
        next(camera.frames(lambda: time.monotonic() > end_s))
        while not camera.unreadable:
            assert time.monotonic() < end_s
            time.sleep(0.05)
    assert capfd.readouterr() == ("", "")


def test_without_pyav_the_user_is_told_once_what_opencv_cannot_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "find_spec", lambda _name: None)
    said: list[str] = []

    class Listener(Silent):
        def say(self, sentence: str) -> None:
            said.append(sentence)

    with (
        rtsp_camera(packed(scene(PLAIN)[0])) as address,
        closing(open_source(address, reporter=Listener(), patience=Patience(max_outage_s=20))) as camera,
    ):
        end_s = time.monotonic() + 20
        frames = camera.frames(lambda: time.monotonic() > end_s)
        while not camera.restarts:
            next(frames)
    told = [sentence for sentence in said if "edgebcnn[rtsp]" in sentence]
    assert len(told) == 1 and "damaged" in told[0] and "s3cr3t" not in told[0]


def test_what_the_user_asks_of_ffmpeg_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;udp|stimeout;5")
    options = whole_video._options("rtsp://camera/shelf")
    assert (options["rtsp_transport"], options["stimeout"], options["allowed_media_types"]) == ("udp", "5", "video")
    assert "reorder_queue_size" not in options, "over UDP, packets are put in order"
    monkeypatch.delenv("OPENCV_FFMPEG_CAPTURE_OPTIONS")
    assert whole_video._options("rtsp://camera/shelf")["reorder_queue_size"] == "2"
    assert whole_video._options("https://camera/live.m3u8") == {}
