"""How does a camera's MJPEG come over HTTP?

FFmpeg could read it too, and does read what else comes over HTTP. It decodes damaged pictures into something all the
same, decodes every picture where only the newest is wanted, and cannot be interrupted.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import urllib.error
import urllib.request
from functools import cache, partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

from edgebcnn.errors import CameraError
from edgebcnn.sources.capture import Picture
from edgebcnn.sources.jpeg_stream import PictureCutter, boundary_of, decoded

CHUNK_BYTES = 1 << 20  # all that waits, up to several pictures: of a backlog only the newest is decoded
_REFUSALS = (401, 403)


class NotPictures(Exception):
    """The server answers, but not with a stream of pictures."""


class HttpMjpeg:
    """A connection to a server that sends JPEGs, one after the other, each in a part of its own.

    Certificates are not checked: a camera makes its own, which nothing could vouch for.

    Args:
        address: http or https address; user and password are sent by Basic or Digest authentication, as asked.
        timeout_s: For each step of the connection.
        silence_s: Between two packets.

    Raises:
        NotPictures: what answers sends no stream of pictures.
        CameraError: nothing answers in time, or it refuses; the message goes on after the source's name.
    """

    def __init__(self, address: str, *, timeout_s: float, silence_s: float) -> None:
        self._sockets: list[socket.socket] = []
        try:
            self._response = _opener(address, self._sockets).open(_split_user(address)[0], timeout=timeout_s)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Not the error itself: it may hold the address with its password.
            raise CameraError(f"cannot be opened: {_why(error, timeout_s)}; check the address in a browser") from None
        boundary = boundary_of(self._response.headers.get("Content-Type", ""))
        if boundary is None:
            self.release()
            raise NotPictures
        self._cutter = PictureCutter(boundary)
        self._sockets[-1].settimeout(silence_s)

    def read(self) -> Picture:
        """Waits for the next picture; where several wait already, the newest is decoded."""
        pictures = self._received()
        arrived_s = time.monotonic()
        image = decoded(pictures[-1])
        return Picture(image, arrived_s, passed_over=len(pictures) - 1, broken=int(image is None))

    def abort(self) -> None:
        """Ends a read that waits."""
        for connection in self._sockets:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already
                continue

    def release(self) -> None:
        """Closes the connection."""
        self._response.close()

    def _received(self) -> list[bytes]:
        try:
            while received := self._response.read1(CHUNK_BYTES):
                if pictures := self._cutter.cut(received):
                    return pictures
        except (OSError, http.client.HTTPException, ValueError) as error:  # ValueError: closed by another thread
            raise CameraError("stopped giving frames") from error
        raise CameraError("stopped giving frames")


def _connection(kind: type[http.client.HTTPConnection], sockets: list[socket.socket], host: str, **options: Any) -> Any:
    """A connection that will be made at once, so that its socket can be kept."""
    connection = kind(host, **options)
    connection.connect()
    sockets.append(connection.sock)
    return connection


class _Http(urllib.request.HTTPHandler):
    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__()
        self._connection = partial(_connection, http.client.HTTPConnection, sockets)

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, sockets: list[socket.socket]) -> None:
        super().__init__(context=_unverified())
        self._connection = partial(_connection, http.client.HTTPSConnection, sockets, context=_unverified())

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, request)


@cache
def _unverified() -> ssl.SSLContext:
    """One for all connections: each holds the system's certificates, and a source may be opened for months."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _opener(address: str, sockets: list[socket.socket]) -> urllib.request.OpenerDirector:
    """Opens http and https addresses, and keeps the sockets of its connections in `sockets`."""
    plain, user, password = _split_user(address)
    known = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    if user:
        known.add_password(None, plain, user, password)
    ways_in = (urllib.request.HTTPBasicAuthHandler(known), urllib.request.HTTPDigestAuthHandler(known))
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), _Http(sockets), _Https(sockets), *ways_in)


def _split_user(address: str) -> tuple[str, str, str]:
    """The address without user and password, and these two."""
    parts = urlsplit(address)
    users, _, host = parts.netloc.rpartition("@")
    user, _, password = users.partition(":")
    return urlunsplit(parts._replace(netloc=host)), unquote(user), unquote(password)


def _why(error: Exception, timeout_s: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        return "it refuses the user and password" if error.code in _REFUSALS else f"it answers HTTP {error.code}"
    cause = getattr(error, "reason", error)
    if isinstance(cause, TimeoutError):
        return f"nothing answers there within {timeout_s:.3g} s"
    if isinstance(cause, OSError) and cause.strerror:
        return f"nothing answers there ({cause.strerror})"
    return "what answers there does not speak HTTP"
