"""Reads an HTTP camera: a stream of JPEGs in parts, or a still-image address, which is polled.

This is our own client on `http.client` because neither library does all of it. FFmpeg (PyAV) decodes damaged images
into something all the same, decodes every image where only the newest is wanted, and cannot be interrupted from another
thread. httpx follows only the first Digest challenge of a response and refuses the request where it cannot answer that
one, so that the choice among challenges would be ours all the same; what is left is a request and a redirect.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from contextlib import suppress
from functools import cache
from urllib.parse import SplitResult, quote, unquote, urljoin, urlsplit

from edgebcnn.errors import CameraError
from edgebcnn.sources.capture import Picture
from edgebcnn.sources.http_auth import authorization
from edgebcnn.sources.jpeg_stream import MAX_PICTURE_BYTES, PictureCutter, boundary_of, decoded

CHUNK_BYTES = 1 << 20  # all that waits, up to several pictures: of a backlog only the newest is decoded
POLL_S = 0.5  # between two requests for a still image; cameras take a moment for each
MAX_REDIRECTS = 5
INSECURE = "https+insecure"
"""The scheme of an https camera whose certificate is not verified."""

_REFUSALS = (401, 403)
_REDIRECTS = (301, 302, 303, 307, 308)
_STILL_KINDS = ("image/jpeg", "image/jpg")
_PORTS = {"http": 80, "https": 443, INSECURE: 443}
_OLD_TLS = (
    *("UNSUPPORTED_PROTOCOL", "PROTOCOL_VERSION", "TOO_SMALL", "HANDSHAKE_FAILURE", "NO_PROTOCOLS_AVAILABLE"),
    *("LEGACY", "NO_SHARED_CIPHER", "MD_TOO_WEAK"),
)
"""In OpenSSL's words for what a system of today refuses."""


class NotPictures(Exception):
    """The server answers, but not with images."""


def open_http(address: str, *, timeout_s: float, silence_s: float) -> HttpMjpeg | HttpStill:
    """Opens a camera that sends JPEGs, one after the other or one for each request.

    Args:
        address: http, https or https+insecure address; user and password are sent as the camera asks for them.
        timeout_s: For each step of the connection.
        silence_s: Between two packets.

    Raises:
        NotPictures: what answers sends no images.
        CameraError: nothing answers in time, or it refuses; the message goes on after the source's name.
    """
    answer = _Answer(address, timeout_s)
    kind = answer.response.headers.get("Content-Type", "")
    boundary = boundary_of(kind)
    if boundary is not None:
        return HttpMjpeg(answer, boundary, silence_s)
    if kind.partition(";")[0].strip().lower() in _STILL_KINDS:
        return HttpStill(address, answer, silence_s)
    answer.close()
    raise NotPictures


class HttpMjpeg:
    """A connection to a server that sends JPEGs, one after the other, each in a part of its own."""

    def __init__(self, answer: _Answer, boundary: bytes, silence_s: float) -> None:
        self._answer = answer
        self._cutter = PictureCutter(boundary)
        answer.limit_silence(silence_s)

    def read(self) -> Picture:
        """Waits for the next image; where several wait already, the newest is decoded."""
        pictures = self._received()
        arrived_s = time.monotonic()
        image = decoded(pictures[-1])
        return Picture(image, arrived_s, passed_over=len(pictures) - 1, broken=int(image is None))

    def abort(self) -> None:
        """Ends a read that waits."""
        self._answer.abort()

    def release(self) -> None:
        """Closes the connection."""
        self._answer.close()

    def _received(self) -> list[bytes]:
        try:
            while received := self._answer.response.read1(CHUNK_BYTES):
                if pictures := self._cutter.cut(received):
                    return pictures
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: closed by another thread
            raise CameraError("stopped giving frames") from error
        raise CameraError("stopped giving frames")


class HttpStill:
    """A server that sends one JPEG for each request; a request goes out every `POLL_S`."""

    def __init__(self, address: str, answer: _Answer, timeout_s: float) -> None:
        self._address, self._timeout_s = address, timeout_s
        self._answer: _Answer | None = answer
        self._due_s = time.monotonic()
        self._aborted = threading.Event()
        answer.limit_silence(timeout_s)

    def read(self) -> Picture:
        """Waits until the next image is due, and fetches it."""
        if self._aborted.wait(max(0.0, self._due_s - time.monotonic())):
            raise CameraError("stopped giving frames")
        self._due_s = time.monotonic() + POLL_S
        answer = self._answer = self._answer or _Answer(self._address, self._timeout_s)
        try:
            jpeg = answer.response.read(MAX_PICTURE_BYTES)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise CameraError("stopped giving frames") from error
        finally:
            answer.close()
            self._answer = None
        image = decoded(jpeg)
        return Picture(image, time.monotonic(), broken=int(image is None))

    def abort(self) -> None:
        """Ends a read that waits."""
        self._aborted.set()
        if (answer := self._answer) is not None:
            answer.abort()

    def release(self) -> None:
        """Closes the connection."""
        if (answer := self._answer) is not None:
            answer.close()


class _Answer:
    """The final response to a GET request, after redirects and authentication."""

    def __init__(self, address: str, timeout_s: float) -> None:
        try:
            self.response = self._followed(urlsplit(address), timeout_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Not the error itself: it may hold the address with its password.
            raise CameraError(f"cannot be opened: {_why(error, timeout_s)}; check the address in a browser") from None
        if self.response.status != http.client.OK:
            status = self.response.status
            self.close()
            why = "it refuses the user and password" if status in _REFUSALS else f"it answers HTTP {status}"
            raise CameraError(f"cannot be opened: {why}; check the address in a browser")

    def limit_silence(self, silence_s: float) -> None:
        self._socket.settimeout(silence_s)

    def abort(self) -> None:
        with suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.response.close()
        self._connection.close()

    def _followed(self, place: SplitResult, timeout_s: float) -> http.client.HTTPResponse:
        users, _, _ = place.netloc.rpartition("@")
        user, _, password = (unquote(part) for part in users.partition(":"))
        origin, shown = _origin(place), ""
        for _ in range(2 * (MAX_REDIRECTS + 1)):  # each once without credentials and once with
            response = self._asked(place, shown, timeout_s)
            location = response.headers.get("Location", "")
            if response.status in _REDIRECTS and location:
                target = urlsplit(urljoin(_target_url(place), location))
                if target.scheme == "https" and place.scheme == INSECURE:
                    target = target._replace(scheme=INSECURE)
                place, shown = target, ""
            elif response.status == http.client.UNAUTHORIZED and not shown and user and _may_know(place, origin):
                headers = response.headers.get_all("WWW-Authenticate") or []
                shown = authorization(headers, user=user, password=password, uri=_uri(place))
            elif response.status == http.client.UNAUTHORIZED and not user:
                self._connection.close()
                raise CameraError(
                    "cannot be opened: it asks for a user and password: put USER:PASSWORD@ before the host"
                )
            else:
                return response
            response.close()
            self._connection.close()
        raise CameraError(
            f"cannot be opened: it redirects more than {MAX_REDIRECTS} times; check the address in a browser"
        )

    def _asked(self, place: SplitResult, shown: str, timeout_s: float) -> http.client.HTTPResponse:
        if place.scheme not in _PORTS or not place.hostname:
            raise CameraError("cannot be opened: it redirects to what is no http or https address")
        host, port = place.hostname, place.port or _PORTS[place.scheme]
        if place.scheme == "http":
            self._connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        else:
            context = _unverified() if place.scheme == INSECURE else _verified()
            self._connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
        headers = {"User-Agent": "edgebcnn", "Accept": "multipart/x-mixed-replace, image/jpeg, */*"}
        if shown:
            headers["Authorization"] = shown.encode().decode("latin1")  # http.client writes Latin-1: UTF-8 as it is
        try:
            self._connection.request("GET", _uri(place), headers=headers)
            self._socket = self._connection.sock  # the response takes it from the connection
            return self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise


def _uri(place: SplitResult) -> str:
    query = f"?{place.query}" if place.query else ""
    return quote((place.path or "/") + query, safe="/?&=%:@!$'()*+,;~[]|{}#^\\`<>\"")


def _target_url(place: SplitResult) -> str:
    """The address without user and password, by which a relative redirect is resolved."""
    scheme = "https" if place.scheme == INSECURE else place.scheme
    return place._replace(scheme=scheme, netloc=place.netloc.rpartition("@")[2], fragment="").geturl()


def _origin(place: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: credentials go to no other."""
    return place.scheme, place.hostname, place.port or _PORTS.get(place.scheme)


def _may_know(place: SplitResult, origin: tuple[str, str | None, int | None]) -> bool:
    """Whether credentials for `origin` may go there: to itself, and to its own https where it was http."""
    there = _origin(place)
    return there == origin or (origin == ("http", there[1], 80) and there == ("https", origin[1], 443))


@cache
def _verified() -> ssl.SSLContext:
    """One for all connections: each holds the system's certificates, and a source may be opened for months."""
    return ssl.create_default_context()


@cache
def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _why(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"nothing answers there within {timeout_s:.3g} s"
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); name the camera's own certificate in "
            f"SSL_CERT_FILE, or give {INSECURE}:// to do without"
        )
    if isinstance(error, ssl.SSLError):
        reason = error.reason or "no reason given"
        if any(name in reason for name in _OLD_TLS):
            return f"its TLS is too old or too weak for this system ({reason}); update the camera, or use http"
        return f"what answers there does not speak TLS ({reason}); try http"
    if isinstance(error, OSError) and error.strerror:
        return f"nothing answers there ({error.strerror})"
    return "what answers there does not speak HTTP"
