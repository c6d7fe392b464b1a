"""How does systemd learn that the loop is ready, turns, and stops?

By datagrams to the socket that it names in NOTIFY_SOCKET (sd_notify(3)); elsewhere nothing is sent.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class ServiceManager:
    """systemd, where it started this process with `Type=notify`; else nobody.

    Args:
        environment: Where NOTIFY_SOCKET is looked up.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""

    def ready(self) -> None:
        """The source is open and the model loaded."""
        self._send("READY=1")

    def alive(self, status: str) -> None:
        """The loop turns; `systemctl status` shows `status`."""
        news = [] if status == self._status else [f"STATUS={status}"]
        self._status = status
        self._send("\n".join(["WATCHDOG=1", *news]))

    def stopping(self) -> None:
        """The loop ends."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A service manager that does not listen is no reason to stop classifying.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
            datagrams.setblocking(False)
            datagrams.sendto(message.encode(), self._address)
