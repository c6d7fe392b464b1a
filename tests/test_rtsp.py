"""A real RTSP camera that stalls, dies and comes back is read again.

Needs GStreamer: `apt install gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-{good,ugly} python3-gi`.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.flaky_cameras import FlakyRtspCamera
from edgebcnn.sources.open import open_source
from tests.broker import free_port
from tests.tiny_bundle import COLOURS_BGR

PYTHON = "/usr/bin/python3"  # GStreamer's bindings are the system's
MAX_NOISE = 40.0  # of a block's mean; whole pictures stay below 20
BACK_WITHIN_S = 10.0  # 3 s where no other job wants the processor


def served(port: int) -> subprocess.Popen[str]:
    """An RTSP server that is ready; skips the test where the machine has none."""
    if not Path(PYTHON).exists():
        pytest.skip(f"there is no {PYTHON}")
    server = Path(__file__).with_name("rtsp_server.py")
    process = subprocess.Popen([PYTHON, server, str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline() != "ready\n":
        _, errors = process.communicate()
        pytest.skip(f"no RTSP server: {errors.strip().splitlines()[-1]}")
    return process


class Meanwhile:
    """Does something to the camera after a while, and remembers when it was done."""

    def __init__(self, seconds: float, act: Callable[[], object]) -> None:
        self._seconds, self._act = seconds, act
        self.done_s = 0.0
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        time.sleep(self._seconds)
        self._act()
        self.done_s = time.monotonic()


def damage(image_bgr: NDArray[np.uint8]) -> float:
    """How far the block that is least red is from red."""
    height_px, width_px = (side - side % 8 for side in image_bgr.shape[:2])
    blocks = image_bgr[:height_px, :width_px].reshape(height_px // 8, 8, width_px // 8, 8, 3).mean((1, 3))
    return float(np.abs(blocks - COLOURS_BGR["Red"]).max())


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("av"), reason="needs PyAV")
def test_pictures_that_a_lossy_network_damaged_are_counted_and_not_given() -> None:
    served(free_port()).kill()  # skips where there is no GStreamer
    camera = FlakyRtspCamera()
    with camera.filming(), closing(open_source(camera.address)) as source:
        camera.mode = "holes"
        end_s = time.monotonic() + 15
        worst = max(damage(frame.image_bgr) for frame in source.frames(lambda: time.monotonic() > end_s))
    assert source.unreadable > 100
    assert worst < MAX_NOISE


@pytest.mark.slow
def test_an_rtsp_camera_that_stalls_or_dies_is_read_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    servers = [served(port)]
    end_s = time.monotonic() + 90
    try:
        with closing(open_source(f"rtsp://user:s3cr3t@127.0.0.1:{port}/shelf")) as source:
            frames = source.frames(lambda: time.monotonic() > end_s)
            assert source.name == f"rtsp://***@127.0.0.1:{port}/shelf"
            assert {next(frames).image_bgr.shape for _ in range(25)} == {(360, 640, 3)}

            servers[0].send_signal(signal.SIGSTOP)
            stalled = Meanwhile(5, lambda: servers[0].send_signal(signal.SIGCONT))
            while source.restarts < 1:
                next(frames)
            after_stall_s = time.monotonic() - stalled.done_s

            servers[0].kill()
            servers[0].wait()
            restarted = Meanwhile(2, lambda: servers.append(served(port)))
            while source.restarts < 2:
                next(frames)
            after_restart_s = time.monotonic() - restarted.done_s
    finally:
        for server in servers:
            server.kill()
            server.communicate()
    print(f"back {after_stall_s:.1f} s after a stall, {after_restart_s:.1f} s after a restart")
    assert max(after_stall_s, after_restart_s) < BACK_WITHIN_S
