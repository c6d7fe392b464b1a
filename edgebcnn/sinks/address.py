"""Where is the other side, and with which credentials? They are kept where no message, log or event prints them."""

from __future__ import annotations

import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import SecretStr

from edgebcnn.errors import SinkError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """An address taken apart; printing one prints no secret.

    Attributes:
        scheme: As `mqtts`.
        host: Name or number.
        port: Given, or that of the scheme.
        path: All that follows, with the query; a webhook's may be its secret.
        user: Empty where there is none.
        password: Empty where there is none.
    """

    scheme: str
    host: str
    port: int
    path: SecretStr
    user: str
    password: SecretStr

    @property
    def origin(self) -> str:
        """`https://host:443`: fit to be shown."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parsed_address(text: str, *, flag: str, ports: dict[str, int]) -> Address:
    """Takes an address apart.

    Args:
        text: What the user gave.
        flag: The flag that it was given to, for messages.
        ports: The schemes that are accepted, with the port of each.

    Raises:
        SinkError: it is not an address with one of those schemes; the message does not repeat it.
    """
    try:
        parts: SplitResult = urlsplit(text.strip())
        port = parts.port
    except ValueError:
        parts, port = SplitResult("", "", "", "", ""), None
    if parts.scheme not in ports or not parts.hostname or re.search(r"\s", text.strip()):
        shapes = " or ".join(f"{scheme}://[USER:PASSWORD@]HOST[:PORT]" for scheme in ports)
        raise SinkError(f"{flag} is not an address that can be used: give {shapes}")
    return Address(
        parts.scheme,
        parts.hostname,
        port or ports[parts.scheme],
        SecretStr(parts.path + (f"?{parts.query}" if parts.query else "")),
        unquote(parts.username or ""),
        SecretStr(unquote(parts.password or "")),
    )


def secret_from(path: Path, *, flag: str) -> SecretStr:
    """The first line of a file that holds a password or token.

    Raises:
        SinkError: it cannot be read, or is empty.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise SinkError(
            f"{flag} {path} cannot be read ({reason}): give a file with the secret in its first line"
        ) from None
    if not lines or not lines[0].strip():
        raise SinkError(f"{flag} {path} is empty: write the secret into its first line")
    return SecretStr(lines[0].strip())


def reason_of(error: OSError | UnicodeError) -> str:
    """Why a connection failed, in a few words of the system."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "nothing answers there"
    if isinstance(error, UnicodeError):
        return "that is no host's name"
    return (error.strerror or type(error).__name__).lower()


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Trusts the system's certificates, or those of a file.

    Raises:
        SinkError: the file cannot be read or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else os.fspath(ca_file))
    except OSError as error:
        raise SinkError(
            f"events.ca_file {ca_file} cannot be used ({reason_of(error)}): give certificates as PEM"
        ) from error


def listening_at(text: str, *, flag: str) -> tuple[str, int]:
    """Host and port of `9464`, `0.0.0.0:9464` or `[::]:9464`; a port alone is this machine's own.

    Raises:
        SinkError: it is no port.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise SinkError(f"{flag} {text} is not a port: give PORT, or HOST:PORT to listen beyond this machine")
    return host.strip("[]") or LOOPBACK, int(port)
