"""Sends events to a web server in POST requests, each a JSON array, oldest first, repeated until one succeeds."""

from __future__ import annotations

import base64
import http.client
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from edgebcnn import __version__
from edgebcnn.errors import SinkError
from edgebcnn.sinks.address import Address, reason_of, tls_context
from edgebcnn.sinks.backlog import Message
from edgebcnn.sinks.remote import SEND_TIMEOUT_S, START_TIMEOUT_S, RefusedError, UnreachableError

PORTS = {"http": 80, "https": 443}
BATCH = 50  # about 30 kB per request

# The events themselves are at fault. Other errors may pass: a token is renewed, a server repaired.
REFUSALS = {400, 413, 415, 422}

MAX_ANSWER_BYTES = 1 << 16  # after more than this the connection is closed


class WebhookTransport:
    """A connection to a web server that stays open between requests.

    Args:
        address: Address for POST requests; user and password become Basic authentication.
        token: Sent as `Authorization: Bearer`, instead of user and password.
        ca_file: Certificates to trust in place of the system's.

    Raises:
        SinkError: the certificates cannot be read, or there are two sets of credentials.
    """

    batch = BATCH

    def __init__(self, address: Address, *, token: SecretStr | None = None, ca_file: Path | None = None) -> None:
        if token and address.user:
            raise SinkError(f"--webhook {address.origin} has a user, and there is a token: give one of the two")
        self.where = address.origin
        # What is percent-encoded already stays as it is; http.client would repeat an odd address in its error.
        self._target = SecretStr(quote(address.path.get_secret_value() or "/", safe="/?&=%:;,+@!$'()*~"))
        self._authorization = SecretStr(_authorization(address, token))
        if address.scheme == "https":
            self._connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                address.host, address.port, timeout=START_TIMEOUT_S, context=tls_context(ca_file)
            )
        else:
            self._connection = http.client.HTTPConnection(address.host, address.port, timeout=START_TIMEOUT_S)

    def connect(self) -> None:
        """Connects without a request, because only a response to events proves that the server accepts them.

        Raises:
            UnreachableError: nothing listens there, or its certificate is not trusted.
        """
        self._connection.close()
        try:
            self._connection.connect()
            self._connection.sock.settimeout(SEND_TIMEOUT_S)
        except (OSError, UnicodeError) as error:
            raise UnreachableError(reason_of(error)) from error

    def send(self, messages: Sequence[Message]) -> None:
        """Posts all in one request.

        Raises:
            UnreachableError: the server did not answer, or asks to retry later.
            RefusedError: the server does not accept the events.
        """
        if self._connection.sock is None:
            self.connect()
        body = b"[" + b",".join(each.body.strip() for each in messages) + b"]"
        try:
            status, reason, retry_after = self._posted_again_if_idle(body)
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            why = reason_of(error) if isinstance(error, OSError) else "its answer is not HTTP"
            raise UnreachableError(why) from None  # its text may repeat what we sent
        if status in REFUSALS:
            raise RefusedError(f"{status} {reason}")
        if not 200 <= status < 300:
            retry_after_s = float(retry_after) if retry_after.isdecimal() else None
            raise UnreachableError(f"it answers {status} {reason}", retry_after_s=retry_after_s)

    def rest(self) -> None:
        """Does nothing: a server may close an idle connection, and the next request opens another."""

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def _posted_again_if_idle(self, body: bytes) -> tuple[int, str, str]:
        """Posts the body, and once more if the server had closed the idle connection."""
        try:
            return self._posted(body)
        except ConnectionError:
            self.connect()
            return self._posted(body)

    def _posted(self, body: bytes) -> tuple[int, str, str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"edgebcnn/{__version__}"}
        if authorization := self._authorization.get_secret_value():
            headers["Authorization"] = authorization
        self._connection.request("POST", self._target.get_secret_value(), body, headers)
        response = self._connection.getresponse()
        response.read(MAX_ANSWER_BYTES)
        if not response.isclosed():
            self._connection.close()
        return response.status, response.reason, response.getheader("Retry-After") or ""


def _authorization(address: Address, token: SecretStr | None) -> str:
    if token:
        return f"Bearer {token.get_secret_value()}"
    if address.user:
        pair = f"{address.user}:{address.password.get_secret_value()}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"
    return ""
