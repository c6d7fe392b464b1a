"""An HTTP camera is opened as curl would open it, whatever ways in it offers, and read as the standards say."""

from __future__ import annotations

import base64
import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebcnn.errors import CameraError
from edgebcnn.sources.http_auth import authorization, challenges_of
from edgebcnn.sources.jpeg_stream import PictureCutter, decoded
from edgebcnn.sources.open import masked, open_source
from tests.tiny_bundle import coloured

USER, PASSWORD = "füßer", 'pä"ss:wörd'
TYPED = "f%C3%BC%C3%9Fer:p%C3%A4%22ss%3Aw%C3%B6rd"


def jpeg(label: str = "Red") -> bytes:
    return cv2.imencode(".jpg", coloured(label, np.random.default_rng(8), height_px=24, width_px=32))[1].tobytes()


def part(boundary: bytes, picture: bytes, *, length: bool = True) -> bytes:
    header = f"Content-Length: {len(picture)}\r\n" if length else ""
    return b"--" + boundary + f"\r\nContent-Type: image/jpeg\r\n{header}\r\n".encode() + picture + b"\r\n"


Respond = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(respond: Respond) -> Iterator[str]:
    """Host and port of a server that answers every GET by `respond`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            respond(self)

        def log_message(self, *_: object) -> None:
            """Keeps the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield f"127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()


def stream(handler: BaseHTTPRequestHandler, *, kind: str = "multipart/x-mixed-replace; boundary=frame") -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    handler.end_headers()
    handler.wfile.write(part(b"frame", jpeg()) * 2)


def first_shape(address: str) -> tuple[int, ...]:
    with closing(open_source(address)) as source:
        return next(iter(source.frames(lambda: False))).image_bgr.shape


def fits(shown: str) -> bool:
    """Whether an Authorization header proves the password, by the algorithm that it names."""
    if shown.startswith("Basic "):
        return base64.b64decode(shown[6:]).decode() == f"{USER}:{PASSWORD}"
    fields = {
        key: quoted or bare for key, quoted, bare in re.findall(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s,]+))', shown)
    }
    name = {"SHA-256": "sha256"}.get(fields.get("algorithm", ""), "md5")

    def hashed(text: str) -> str:
        return hashlib.new(name, text.encode()).hexdigest()

    first = hashed(f"{USER}:cam:{PASSWORD}")
    second = hashed(f"GET:{fields.get('uri')}")
    middle = f"n1:{fields.get('nc')}:{fields.get('cnonce')}:auth" if "qop" in fields else "n1"
    return fields.get("response") == hashed(f"{first}:{middle}:{second}")


@pytest.mark.parametrize(
    "challenges",
    [
        ['Basic realm="cam"'],
        ['Digest realm="cam", nonce="n1"'],
        ['Digest realm="cam", nonce="n1", qop="auth", algorithm=SHA-256'],
        ['Digest realm="cam", nonce="n1", qop="auth", algorithm=SHA-256', 'Digest realm="cam", nonce="n1", qop="auth"'],
        ["Negotiate", "NTLM", 'Basic realm="cam", charset="UTF-8"'],
        ['Negotiate, Digest realm="cam", nonce="n1", qop="auth,auth-int", Basic realm="cam"'],
    ],
)
def test_the_strongest_challenge_that_can_be_answered_is(challenges: list[str]) -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        shown = handler.headers.get("Authorization", "").encode("latin1").decode()
        if fits(shown):
            return stream(handler)
        handler.send_response(401)
        for challenge in challenges:
            handler.send_header("WWW-Authenticate", challenge)
        handler.end_headers()
        return None

    with server(respond) as place:
        assert first_shape(f"http://{TYPED}@{place}/video?channel=1&x=a,b") == (24, 32, 3)
        with pytest.raises(CameraError, match="refuses the user and password"):
            open_source(f"http://x:wr0ng@{place}/")
        with pytest.raises(CameraError, match="asks for a user and password"):
            open_source(f"http://{place}/")


def test_a_challenge_that_nobody_can_answer_is_named() -> None:
    with pytest.raises(CameraError, match="by negotiate, digest SHA3"):
        authorization(["Negotiate", "Digest algorithm=SHA3, nonce=x"], user="u", password="p", uri="/")


@pytest.mark.parametrize(
    "header", ["", ",", "=", '"', 'Digest realm="', "a=b", "\x00" * 99, 'Basic realm="a\\"b", x' * 999]
)
def test_malformed_challenges_are_no_tracebacks(header: str) -> None:
    assert all(each.scheme for each in challenges_of([header]))


def test_the_digest_is_that_of_the_standards_example() -> None:
    offered = 'Digest realm="http-auth@example.org", nonce="n", algorithm=MD5-sess, opaque="o\\"p"'
    shown = authorization([offered], user="Mufasa", password="Circle of Life", uri="/dir/index.html")
    assert 'opaque="o\\"p"' in shown and "algorithm=MD5-SESS" in shown


def test_a_redirect_keeps_the_password_on_its_host_and_shows_it_to_no_other() -> None:
    seen: list[tuple[str, str]] = []

    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        seen.append(("elsewhere", handler.headers.get("Authorization", "")))
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Basic realm="cam"')
        handler.end_headers()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/video":
            if fits(handler.headers.get("Authorization", "").encode("latin1").decode()):
                return stream(handler)
            handler.send_response(401)
            handler.send_header("WWW-Authenticate", 'Basic realm="cam"')
        else:
            handler.send_response(302)
            handler.send_header("Location", "video" if handler.path == "/" else f"http://{other}/video")
        handler.end_headers()
        return None

    with server(elsewhere) as other, server(respond) as place:
        assert first_shape(f"http://{TYPED}@{place}/") == (24, 32, 3)
        with pytest.raises(CameraError, match="refuses the user and password"):
            open_source(f"http://{TYPED}@{place}/away")
    assert seen == [("elsewhere", "")]


def test_redirects_without_end_are_one_sentence() -> None:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/")
        handler.end_headers()

    with server(respond) as place, pytest.raises(CameraError, match="redirects more than"):
        open_source(f"http://{place}/")


def test_a_still_image_address_is_polled() -> None:
    asked: list[str] = []

    def respond(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        handler.send_response(200)
        handler.send_header("Content-Type", "image/jpeg")
        handler.end_headers()
        handler.wfile.write(jpeg())

    with server(respond) as place, closing(open_source(f"http://{place}/snap.jpg")) as source:
        frames = source.frames(lambda: False)
        assert [next(frames).index for _ in range(3)] == [0, 1, 2]
        assert source.restarts == 0
    assert len(asked) >= 3


def test_a_server_without_tls_is_named_as_that() -> None:
    with server(stream) as place, pytest.raises(CameraError, match=r"does not speak TLS .*try http"):
        open_source(f"https://{place}/")


@pytest.mark.parametrize("chunk", [1, 10**6])
@pytest.mark.parametrize("boundary", [b"f", b"--f", b"ff", b"\xd8"])
def test_a_short_boundary_cuts_no_picture_at_the_same_bytes_inside(boundary: bytes, chunk: int) -> None:
    whole = jpeg()
    holed = whole[:-2] + b"--f" + b"\nf" + b"--ff" + whole[-2:]
    body = part(boundary, holed) + part(boundary, holed, length=False) + b"--" + boundary + b"--\r\n"
    cutter = PictureCutter(boundary.strip(b"-"))
    cut = [picture for start in range(0, len(body), chunk) for picture in cutter.cut(body[start : start + chunk])]
    assert [picture.rstrip(b"\r\n") for picture in cut] == [holed, holed]


def test_a_boundary_other_than_the_announced_is_learned_from_the_first_line() -> None:
    cut = PictureCutter(b"announced").cut(part(b"sent", jpeg()) * 2)
    assert [decoded(picture) is not None for picture in cut] == [True, True]


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://cam:554/user=admin_password=s3cr3t_channel=1_stream=0.sdp",
        "rtsp://cam/user=admin&password=s3cr3t&channel=1.sdp?real_stream",
        "http://cam/video.cgi?user=a&pwd=s3cr3t",
        "rtsp://cam/live#token=s3cr3t",
        "http+x://cam/#s3cr3t",
        "https+insecure://u:s3cr3t@cam/x",
    ],
)
def test_a_password_in_path_query_or_fragment_is_masked(address: str) -> None:
    assert "s3cr3t" not in masked(address)
    assert "cam" in masked(address)


def test_a_source_comes_from_the_environment_or_a_file_and_is_shown_masked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(stream) as place:
        monkeypatch.setenv("SHELF_CAMERA", f"http://u:s3cr3t@{place}/x\n")
        (tmp_path / "camera").write_text(f"http://u:s3cr3t@{place}/x\n")
        for spec in ("env:SHELF_CAMERA", f"file:{tmp_path / 'camera'}"):
            with closing(open_source(spec)) as source:
                assert source.name == f"http://***@{place}/x"
    with pytest.raises(CameraError, match="no source is named"):
        open_source("env:NOT_SET_ANYWHERE")
    with pytest.raises(CameraError, match=r"file:gone cannot be read \(No such file"):
        open_source("file:gone")


def test_a_video_whose_name_has_a_colon_is_read_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "2026-11-30T10:15:00.avi"
    monkeypatch.chdir(tmp_path)
    writer = cv2.VideoWriter(str(tmp_path / name), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    with closing(open_source(name)) as source:
        assert len(list(source.frames(lambda: False))) == 1
