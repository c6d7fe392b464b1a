"""Cameras that a benchmark breaks while they film: MJPEG over HTTP, and H.264 over RTSP."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.tiny_bundle import coloured

FRAMES_PER_S = 25
WIDTH_PX, HEIGHT_PX = 640, 360
LOSSES = frozenset({"stopped", "stalled", "garbage", "holes", "cut"})  # no picture arrives whole

PYTHON = "/usr/bin/python3"  # GStreamer's bindings are the system's
RTSP_SERVER = Path(__file__).parents[1] / "tests" / "rtsp_server.py"
LOST_SHARE = 0.05  # of the packets of a stream with holes


class FlakyCamera(Protocol):
    """A camera whose `mode` is `good` or one of its `faults`.

    Attributes:
        address: As `--camera` takes it.
        faults: How it breaks.
        shows: The products that its good pictures show.
        mode: What it does now.
    """

    address: str
    faults: tuple[str, ...]
    shows: frozenset[str]
    mode: str

    @contextmanager
    def filming(self) -> Iterator[None]:
        """Films until the block ends."""
        ...


class FlakyHttpCamera:
    """An MJPEG server. Its good pictures are red or green, those that are spoilt were blue."""

    faults: tuple[str, ...] = (
        "stopped",
        "stalled",
        "garbage",
        "holes",
        "cut",
        "black",
        "overexposed",
        "blurred",
        "frozen",
    )
    shows: frozenset[str] = frozenset({"Red", "Green"})

    def __init__(self) -> None:
        self.mode = "good"
        self._listener: socket.socket | None = _listening(0)
        self._port: int = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}/shelf.mjpg"
        self._clients: list[socket.socket] = []
        self._pictures = _pictures()
        self._good = cycle(self._pictures["good"])
        self._last = next(self._good)
        self._rng = np.random.default_rng(3)

    @contextmanager
    def filming(self) -> Iterator[None]:
        """Films until the block ends."""
        over = threading.Event()
        thread = threading.Thread(target=self._film, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._stop()

    def _film(self, over: threading.Event) -> None:
        while not over.wait(1 / FRAMES_PER_S):
            mode = self.mode
            if mode == "stopped":
                self._stop()
            elif mode != "stalled":
                self._accept()
                self._send(self._part(mode))

    def _part(self, mode: str) -> bytes:
        if mode == "garbage":
            return self._rng.bytes(20_000)
        if mode == "good":
            self._last = next(self._good)
        picture = self._last if mode in ("good", "frozen") else self._pictures[mode][0]
        promised = len(picture) * (2 if mode == "cut" else 1)
        header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {promised}\r\n\r\n"
        return header.encode() + picture + b"\r\n"

    def _accept(self) -> None:
        self._listener = self._listener or _listening(self._port)
        with suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(1)
                with suppress(OSError):
                    client.recv(4096)
                    client.sendall(
                        b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
                    )
                    self._clients.append(client)

    def _send(self, part: bytes) -> None:
        for client in list(self._clients):
            try:
                client.sendall(part)
            except OSError:  # it went away
                client.close()
                self._clients.remove(client)

    def _stop(self) -> None:
        for connection in [*self._clients, *([self._listener] if self._listener else [])]:
            connection.close()
        self._clients, self._listener = [], None


class FlakyRtspCamera:
    """An RTSP server that films red pictures, behind a relay that stops, stalls, cuts and loses what passes."""

    faults: tuple[str, ...] = ("stopped", "stalled", "holes", "cut")
    shows: frozenset[str] = frozenset({"Red"})

    def __init__(self) -> None:
        self.mode = "good"
        self._listener: socket.socket | None = _listening(0)
        self._port: int = self._listener.getsockname()[1]
        self.address = f"rtsp://127.0.0.1:{self._port}/shelf"
        self._connections: list[_Connection] = []
        self._rng = np.random.default_rng(4)

    @contextmanager
    def filming(self) -> Iterator[None]:
        """Films until the block ends."""
        over = threading.Event()
        with rtsp_server() as server_port:
            thread = threading.Thread(target=self._relay, args=(server_port, over), daemon=True)
            thread.start()
            try:
                yield
            finally:
                over.set()
                thread.join()
                self._stop()

    def _relay(self, server_port: int, over: threading.Event) -> None:
        while not over.wait(0.005):
            if self.mode == "stopped":
                self._stop()
                continue
            if self.mode == "cut":
                self._hang_up()
            self._accept(server_port)
            if self.mode != "stalled":
                for connection in list(self._connections):
                    self._pass_on(connection)

    def _accept(self, server_port: int) -> None:
        self._listener = self._listener or _listening(self._port)
        with suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", server_port))
                for end in (client, server):
                    end.setblocking(False)
                self._connections.append(_Connection(client, server))

    def _pass_on(self, connection: _Connection) -> None:
        try:
            for source, target in connection.ways():
                with suppress(BlockingIOError):
                    while chunk := source.recv(1 << 16):
                        target.setblocking(True)
                        target.sendall(self._with_holes(connection, chunk) if source is connection.server else chunk)
                        target.setblocking(False)
                    raise ConnectionResetError
        except OSError:  # one end went away
            self._connections.remove(connection)
            connection.close()

    def _with_holes(self, connection: _Connection, chunk: bytes) -> bytes:
        """Loses packets, as a camera whose line is too slow; the stream around them stays whole."""
        share = LOST_SHARE if self.mode == "holes" else 0
        cut = connection.cutter.cut(chunk)
        return b"".join(piece for piece in cut if not piece.startswith(b"$") or self._rng.random() >= share)

    def _hang_up(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections = []

    def _stop(self) -> None:
        self._hang_up()
        if self._listener:
            self._listener.close()
            self._listener = None


class _Connection:
    """A client of the relay, and the server that it is passed on to."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client, self.server = client, server
        self.cutter = RtspCutter()

    def ways(self) -> tuple[tuple[socket.socket, socket.socket], ...]:
        """From where to where its bytes pass."""
        return (self.client, self.server), (self.server, self.client)

    def close(self) -> None:
        """Hangs up on both."""
        self.client.close()
        self.server.close()


class RtspCutter:
    """Cuts what an RTSP server sends into packets, which begin with `$`, and replies (RFC 2326, 10.12)."""

    def __init__(self) -> None:
        self._rest = b""

    def cut(self, received: bytes) -> list[bytes]:
        """What is whole by now; a packet may come in several chunks."""
        self._rest += received
        pieces = []
        while (length := self._next_length()) and length <= len(self._rest):
            pieces.append(self._rest[:length])
            self._rest = self._rest[length:]
        return pieces

    def _next_length(self) -> int:
        """Of the next packet or reply; 0 where that is not known yet."""
        if self._rest.startswith(b"$"):
            return 4 + int.from_bytes(self._rest[2:4], "big") if len(self._rest) >= 4 else 0
        head, end, _ = self._rest.partition(b"\r\n\r\n")
        body = re.search(rb"(?i)content-length: *(\d+)", head)
        return len(head + end) + (int(body[1]) if body else 0) if end else 0


@contextmanager
def rtsp_server() -> Iterator[int]:
    """Films red pictures until the block ends; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [PYTHON, str(RTSP_SERVER), str(port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(f"no RTSP server: {process.communicate()[1].strip().splitlines()[-1]}")
        yield port
    finally:
        process.kill()
        process.communicate()


def _listening(port: int) -> socket.socket:
    listener = socket.create_server(("127.0.0.1", port))
    listener.setblocking(False)
    return listener


def _pictures() -> dict[str, list[bytes]]:
    """JPEGs of each mode that has some of its own; good ones differ from each other, as a sensor's do."""
    rng = np.random.default_rng(2)

    def drawn(label: str) -> NDArray[np.uint8]:
        return coloured(label, rng, height_px=HEIGHT_PX, width_px=WIDTH_PX)

    blue = drawn("Blue")
    jpeg = _jpeg(blue)
    middle = len(jpeg) // 2
    return {
        "good": [_jpeg(drawn(label)) for label in ["Red"] * 10 + ["Green"] * 10],
        "holes": [jpeg[:middle] + jpeg[middle + 3000 :]],
        "cut": [jpeg[:middle]],
        "black": [_jpeg(blue // 10)],
        "overexposed": [_jpeg(np.maximum(blue, 251))],
        "blurred": [_jpeg(np.asarray(cv2.GaussianBlur(blue, (0, 0), 9), np.uint8))],
    }


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()
