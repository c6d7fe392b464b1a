"""Opens the port of a web page, and sets its access token."""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from edgebcnn.errors import SinkError
from edgebcnn.sinks.address import listening_at

MIN_TOKEN = 16  # characters: nobody guesses so many over a network
DRAWN_TOKEN_BYTES = 24

_PORTS = {"http": 80, "https": 443}
_FIT_FOR_AN_ADDRESS = re.compile(r"[A-Za-z0-9._~-]*")


@dataclass(frozen=True)
class Listening:
    """A port on which nobody else listens.

    Attributes:
        socket: Bound to it.
        host: Address of this machine, as it is given to a browser.
        port: The port.
        token: Access token for the page; None where only this machine can look, and needs none.
        told: Whether the address is printed with the token, because it was generated and nobody knows it yet.
        origin: Scheme, name and port under which a proxy with TLS shows the page; None where there is no proxy.
    """

    socket: socket.socket
    host: str
    port: int
    token: str | None
    told: bool
    origin: str | None = None

    def __str__(self) -> str:
        """The sentence for the user; it has a generated token, and never one that the user gave."""
        page = f"the page is at {self.origin or f'http://{self.host}:{self.port}'}/"
        if self.token is None:
            return page
        return f"{page}?token={self.token}" if self.told else f"{page}?token=... with your token"


def listen(text: str, token: str | None, *, origin: str | None = None) -> Listening:
    """Takes the port that `--web` names.

    Args:
        text: Port, or host and port; a port alone is this machine's own.
        token: The user's; where there is none, one is generated if others than this machine can look.
        origin: Where a proxy shows the page to others, such as `https://shelf.example`.

    Raises:
        SinkError: it is no port, it is taken or not allowed, the token can be guessed or does not fit an address, or
            the origin is invalid.
    """
    host, port = listening_at(text, flag="--web")
    origin = None if origin is None else _origin(origin)
    if token is not None:
        _check(token)
    try:
        taken = _bound(host, port)
    except OSError as error:
        reason = (os.strerror(error.errno) if error.errno else str(error)).lower()  # asyncio's own text repeats itself
        raise SinkError(f"--web cannot listen on {host}:{port} ({reason}): give another port") from error
    address = ipaddress.ip_address(taken.getsockname()[0])
    drawn = token is None and (origin is not None or not address.is_loopback)
    shown = platform.node() if address.is_unspecified else f"[{host}]" if ":" in host else host
    token = secrets.token_urlsafe(DRAWN_TOKEN_BYTES) if drawn else token
    return Listening(taken, shown or "localhost", taken.getsockname()[1], token, told=drawn, origin=origin)


def _check(token: str) -> None:
    if len(token) < MIN_TOKEN:
        raise SinkError(
            f"--web-token has {len(token)} characters, which can be guessed: give {MIN_TOKEN} or more, or none, "
            "so that one is generated"
        )
    if not _FIT_FOR_AN_ADDRESS.fullmatch(token):
        raise SinkError("--web-token has characters that do not fit into an address: give letters, digits and . _ ~ -")


def _origin(text: str) -> str:
    """The origin as a browser sends it: in lower case, and without the port that its scheme has anyway."""
    try:
        parts = urlsplit(text.strip().lower())
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in _PORTS or not host or parts.username or parts.path.strip("/") or parts.query or parts.fragment:
        raise SinkError(f"--web-origin {text!r} is not an origin: give scheme and name alone, as https://shelf.example")
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}" if port in (None, _PORTS[scheme]) else f"{scheme}://{name}:{port}"


def _bound(host: str, port: int) -> socket.socket:
    """IPv4 where a name has both, because that is what a browser on this machine tries too."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return socket.create_server((str(address[0]), port), family=family)
