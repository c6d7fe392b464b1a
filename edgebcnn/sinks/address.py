"""Addresses and credentials of brokers and servers, which no message, log or event ever contains."""

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
    """A parsed address; printing it prints no secret.

    Attributes:
        scheme: For example `mqtts`.
        host: Name or IP address.
        port: The given port, or the default of the scheme.
        path: Path with query; that of a webhook may be a secret.
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
        """`https://host:443`, which may be shown."""
        return f"{self.scheme}://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parsed_address(text: str, *, flag: str, ports: dict[str, int]) -> Address:
    """Parses an address.

    Args:
        text: The address.
        flag: The flag that it was given with, for messages.
        ports: Accepted schemes, each with its default port.

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
        raise SinkError(f"{flag} is not a valid address: give {shapes}")
    return Address(
        parts.scheme,
        parts.hostname,
        port or ports[parts.scheme],
        SecretStr(parts.path + (f"?{parts.query}" if parts.query else "")),
        unquote(parts.username or ""),
        SecretStr(unquote(parts.password or "")),
    )


def secret_from(path: Path, *, flag: str) -> SecretStr:
    """Reads a password or token from the first line of a file.

    Raises:
        SinkError: it cannot be read, or is empty.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise SinkError(
            f"{flag} {path} cannot be read ({reason}): give a file with the secret in its first line"
        ) from None
    if not lines or not lines[0].strip():
        raise SinkError(f"{flag} {path} is empty: write the secret into its first line")
    return SecretStr(lines[0].strip())


def reason_of(error: OSError | UnicodeError) -> str:
    """Returns why a connection failed, in a few words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message})"
    if isinstance(error, TimeoutError):
        return "nothing answers there"
    if isinstance(error, UnicodeError):
        return "that is not a valid host name"
    return (error.strerror or type(error).__name__).lower()


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Makes a TLS context that trusts the system's certificates, or those of a file.

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
    """Returns host and port of `9464`, `0.0.0.0:9464` or `[::]:9464`; a port alone listens on loopback.

    Raises:
        SinkError: it is not a port.
    """
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise SinkError(f"{flag} {text} is not a port: give PORT, or HOST:PORT to listen beyond this machine")
    return host.strip("[]") or LOOPBACK, int(port)
