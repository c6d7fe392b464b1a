"""systemd hears that the loop is ready, turns and stops; a hang is seen and ends it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.errors import HangError
from edgebcnn.loop.supervise import ServiceManager, Watchdog
from tests.mjpeg_server import network_camera
from tests.test_camera_source import wait_until
from tests.tiny_bundle import coloured, make_tiny_bundle

STOP_WITHIN_S = 1.0
BUSY_MACHINE_S = 2.0  # Python's own end, where other jobs want the processor too


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of a service manager."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(30)
        yield listening


def test_each_message_reaches_the_service_manager(manager: socket.socket) -> None:
    told = ServiceManager({"NOTIFY_SOCKET": manager.getsockname()})
    told.ready()
    told.alive("camera 0 gives frames")
    told.alive("camera 0 gives frames")
    told.stopping()
    messages = [manager.recv(4096).decode() for _ in range(4)]
    assert messages == ["READY=1", "WATCHDOG=1\nSTATUS=camera 0 gives frames", "WATCHDOG=1", "STOPPING=1"]


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's own")
def test_a_socket_without_a_file_is_reached_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        name = f"edgebcnn-test-{os.getpid()}"
        listening.bind(f"\0{name}")
        listening.settimeout(10)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listening.recv(4096) == b"READY=1"


def test_without_a_service_manager_nothing_happens(tmp_path: Path) -> None:
    ServiceManager({}).ready()
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


def test_a_stage_that_takes_too_long_is_told_once_and_the_turns_end() -> None:
    hung: list[tuple[str, float]] = []
    turns: list[float] = []

    def on_hang(stage: str, took_s: float) -> None:
        hung.append((stage, took_s))

    watchdog = Watchdog(on_hang=on_hang, on_turn=lambda: turns.append(time.monotonic()), hang_s=0.5)
    with watchdog.watching():
        for _ in range(10):
            watchdog.enter("write")
            time.sleep(0.1)
        assert hung == []
        watchdog.enter("classify")
        wait_until(lambda: bool(hung))
        seen = len(turns)
        time.sleep(0.5)
    assert [(stage, took_s > 0.5) for stage, took_s in hung] == [("classify", True)]
    assert len(turns) == seen > 0


def test_a_model_that_hangs_ends_the_process_with_one_sentence() -> None:
    script = """
import time
from edgebcnn.loop.supervise import end_at_once
from edgebcnn.loop.supervise import Watchdog
watchdog = Watchdog(on_hang=end_at_once, hang_s=0.3)
with watchdog.watching():
    watchdog.enter("classify")
    time.sleep(60)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert ended.returncode == HangError.exit_code
    assert ended.stderr.startswith("Error: the loop hangs: the stage 'classify'")


def test_a_service_says_when_it_is_ready_that_it_turns_and_why_not_and_stops_at_once(
    tmp_path: Path, manager: socket.socket
) -> None:
    make_tiny_bundle(tmp_path / "bundle", ["int8"])
    file = tmp_path / "readings.jsonl"
    with network_camera() as camera:
        camera.send(coloured("Blue", np.random.default_rng(4)))
        words = [sys.executable, "-m", "edgebcnn", "run", "--bundle", tmp_path / "bundle", "--camera", camera.address]
        environment = {**os.environ, "NOTIFY_SOCKET": manager.getsockname()}
        process = subprocess.Popen(
            [*map(str, words), "--jsonl", str(file), "--quiet"], env=environment, stderr=subprocess.PIPE, text=True
        )
        try:
            assert manager.recv(4096) == b"READY=1"
            wait_until(lambda: file.exists() and file.stat().st_size > 0)
            camera.hang_up()
            name = camera.address
            until_s = time.monotonic() + 20
            while b"stopped giving frames, reconnecting for " not in (message := manager.recv(4096)):
                assert message.startswith(b"WATCHDOG=1"), message
                assert time.monotonic() < until_s
            assert f"STATUS={name} stopped".encode() in message
            asked_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            while manager.recv(4096) != b"STOPPING=1":
                assert time.monotonic() < asked_s + 20
            said_s = time.monotonic() - asked_s
            process.wait(20)
            ended_s = time.monotonic() - asked_s
        finally:
            process.kill()
            _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert said_s < STOP_WITHIN_S
    assert ended_s < STOP_WITHIN_S + BUSY_MACHINE_S
    assert len(file.read_text().splitlines()) == 1


def test_an_opening_that_does_not_end_can_be_interrupted(tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / "bundle", ["int8"])
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it accepts, and never answers
        accepted = threading.Event()

        def accept() -> None:
            kept.append(silent.accept())
            accepted.set()

        kept: list[object] = []
        threading.Thread(target=accept, daemon=True).start()
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        words = [sys.executable, "-m", "edgebcnn", "run", "--bundle", str(tmp_path / "bundle"), "--camera", address]
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
        try:
            assert accepted.wait(30)
            asked_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            assert time.monotonic() - asked_s < STOP_WITHIN_S + BUSY_MACHINE_S
        finally:
            process.kill()
            _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
