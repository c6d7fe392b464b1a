"""What a network camera sends is cut into whole pictures; a damaged one is counted, and never becomes a frame."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import pytest

from edgebcnn.errors import CameraError
from edgebcnn.sources.jpeg_stream import MAX_PICTURE_BYTES, NOTICES_EVERY_DAMAGE, PictureCutter, boundary_of, decoded
from edgebcnn.sources.open import open_source
from tests.tiny_bundle import coloured


def jpeg(label: str = "Red", *, height_px: int = 240, width_px: int = 320) -> bytes:
    picture = coloured(label, np.random.default_rng(8), height_px=height_px, width_px=width_px)
    return cv2.imencode(".jpg", picture)[1].tobytes()


def part(picture: bytes, *, promised: int | None = None) -> bytes:
    length = f"Content-Length: {promised}\r\n" if promised is not None else ""
    return f"--frame\r\nContent-Type: image/jpeg\r\n{length}\r\n".encode() + picture + b"\r\n"


@pytest.mark.parametrize("chunk", [1, 7, 1000, 10**6])
def test_pictures_are_cut_the_same_however_they_arrive(chunk: int) -> None:
    pictures = [jpeg("Red", height_px=16, width_px=16), jpeg("Blue", height_px=16, width_px=16)] * 2
    body = b"noise before\r\n" + b"".join(part(picture, promised=len(picture)) for picture in pictures)
    cutter = PictureCutter(b"frame")
    cut = [picture for start in range(0, len(body), chunk) for picture in cutter.cut(body[start : start + chunk])]
    assert cut == pictures


def test_a_part_that_promises_too_much_costs_no_other_picture() -> None:
    whole = jpeg()
    cut = PictureCutter(b"frame").cut(part(whole[:500], promised=len(whole)) + part(whole, promised=len(whole)))
    assert [decoded(picture) is not None for picture in cut] == [False, True]


def test_a_part_without_a_promise_ends_with_its_picture() -> None:
    whole = jpeg()
    cutter = PictureCutter(b"frame")
    assert cutter.cut(part(whole)[:-100]) == []
    assert [decoded(picture) is not None for picture in cutter.cut(part(whole)[-100:])] == [True]


def test_what_never_ends_does_not_fill_the_memory() -> None:
    cutter = PictureCutter(b"frame")
    with pytest.raises(CameraError, match="something without end"):
        for _ in range(MAX_PICTURE_BYTES // 2**20 + 2):
            cutter.cut(bytes(2**20))


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/x-mixed-replace; boundary=frame", b"frame"),
        ('multipart/x-mixed-replace;boundary="--my-cam"', b"my-cam"),
        ("multipart/x-mixed-replace", b""),
        ("text/html; charset=utf-8", None),
        ("", None),
    ],
)
def test_the_boundary_is_found_with_its_dashes_or_without(content_type: str, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.skipif(not NOTICES_EVERY_DAMAGE, reason="needs simplejpeg")
def test_a_damaged_picture_is_no_picture(rng: np.random.Generator) -> None:
    whole = jpeg()
    middle = len(whole) // 2
    damaged = {
        "a hole": whole[:middle] + whole[middle + 2000 :],
        "garbage": whole[:middle] + rng.bytes(2000) + whole[middle + 2000 :],
        "zeros": whole[:middle] + bytes(2000) + whole[middle + 2000 :],
        "cut short": whole[:middle],
        "no JPEG": rng.bytes(5000),
        "nothing": b"",
    }
    assert [name for name, content in damaged.items() if decoded(content) is not None] == []
    image = decoded(b"\r\n" + whole + b"\r\n")
    assert image is not None
    assert np.abs(image.mean(axis=(0, 1)) - (30, 30, 220)).max() < 12, "BGR"


@contextmanager
def guarded_camera(scheme: str) -> Iterator[str]:
    """The address, without user, of a camera that asks for `user` and `s3cr3t/ä` by that scheme."""
    challenge = 'Digest realm="cam", nonce="abc", qop="auth"' if scheme == "Digest" else 'Basic realm="cam"'

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if not self._may_enter(self.headers.get("Authorization", "")):
                self.send_response(401)
                self.send_header("WWW-Authenticate", challenge)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            picture = jpeg()
            self.wfile.write(part(picture, promised=len(picture)) * 2)

        def _may_enter(self, shown: str) -> bool:
            if scheme == "Basic":
                return shown == "Basic dXNlcjpzM2NyM3Q="
            fields = dict(re.findall(r'(\w+)="?([^",]*)"?', shown))
            first, second = (
                hashlib.md5(text.encode()).hexdigest() for text in ("user:cam:s3cr3t", f"GET:{fields.get('uri')}")
            )
            asked = f"{first}:abc:{fields.get('nc')}:{fields.get('cnonce')}:auth:{second}"
            return fields.get("response") == hashlib.md5(asked.encode()).hexdigest()

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}/shelf"
        finally:
            server.shutdown()
            thread.join(5)


@pytest.mark.parametrize("scheme", ["Basic", "Digest"])
def test_user_and_password_open_the_camera_and_are_shown_nowhere(scheme: str) -> None:
    with guarded_camera(scheme) as place:
        with closing(open_source(f"http://user:s3cr3t@{place}")) as source:
            assert next(iter(source.frames(lambda: False))).image_bgr.shape == (240, 320, 3)
            assert source.name == f"http://***@{place}"
        with pytest.raises(CameraError, match="it refuses the user and password") as failure:
            open_source(f"http://user:wr0ng@{place}")
        assert "wr0ng" not in str(failure.value)


def test_a_server_that_sends_no_video_is_named() -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/page" else 404)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<html>a camera's menu</html>")

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(CameraError, match=r"/page cannot be opened: .* is not a video stream"):
            open_source(f"{address}/page")
        with pytest.raises(CameraError, match="/none cannot be opened: it answers HTTP 404"):
            open_source(f"{address}/none")
        server.shutdown()
