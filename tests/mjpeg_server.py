"""A network camera: an HTTP server on this machine that sends the JPEGs it is given, as they are given."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
from numpy.typing import NDArray

from tests.tiny_bundle import coloured


class NetworkCamera:
    """Frames go out in order to the one client; nothing is sent before `send`."""

    def __init__(self, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}/shelf.mjpg"
        self.parts: queue.Queue[tuple[int, bytes] | None] = queue.Queue()

    def send(self, frame_bgr: NDArray[np.uint8], *, share: float = 1.0) -> None:
        """Sends a frame, or the first `share` of its bytes under a header that promises all."""
        ok, encoded = cv2.imencode(".jpg", frame_bgr)
        assert ok
        content = encoded.tobytes()
        self.parts.put((len(content), content[: int(share * len(content))]))

    def hang_up(self) -> None:
        """Ends the connection once everything was sent."""
        self.parts.put(None)


@contextmanager
def network_camera() -> Iterator[NetworkCamera]:
    """Yields a camera that is served until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            while (part := camera.parts.get()) is not None:
                header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {part[0]}\r\n\r\n"
                try:
                    self.wfile.write(header.encode() + part[1] + b"\r\n")
                except OSError:  # the client went away
                    return

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        camera = NetworkCamera(server.server_port)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield camera
        finally:
            camera.hang_up()
            server.shutdown()
            thread.join(5)


@contextmanager
def running_camera() -> Iterator[str]:
    """The address of a camera that gives a frame every 20 ms until the block ends."""
    stop = threading.Event()

    def film() -> None:
        while not stop.wait(0.02):
            camera.send(coloured("Blue", np.random.default_rng(4)))

    with network_camera() as camera:
        thread = threading.Thread(target=film, daemon=True)
        thread.start()
        try:
            yield camera.address
        finally:
            stop.set()
            thread.join(5)
