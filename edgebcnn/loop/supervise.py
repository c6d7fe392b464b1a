"""Supervises the loop: a watchdog over its stages, and notifications to systemd.

Each stage of the loop reports its start. A thread checks whether one takes too long, by the monotonic clock, which a
corrected wall clock does not affect: native code that hangs cannot be interrupted, but it can be detected. systemd gets
datagrams at the socket that NOTIFY_SOCKET names (sd_notify(3)); without it, nothing is sent.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from edgebcnn.errors import HangError
from edgebcnn.sources.frames import Source

HANG_S = 30.0  # the slowest board classifies a frame within seconds
LOOK_EVERY_S = 1.0
GOLDEN_STAGE = "replay"

OnHang = Callable[[str, float], None]
"""Called once, in the watchdog's thread, with the stage that hangs and its duration in seconds."""


class Watchdog:
    """Watches the stages of a loop while its block runs.

    Args:
        on_hang: Called once when a stage hangs.
        on_turn: Called each second in which nothing hangs, in the watchdog's thread.
        hang_s: Longest time that a stage may take.
    """

    def __init__(self, *, on_hang: OnHang, on_turn: Callable[[], None] = lambda: None, hang_s: float = HANG_S) -> None:
        self._on_hang, self._on_turn, self._hang_s = on_hang, on_turn, hang_s
        self._stage = ("start", time.monotonic())

    def enter(self, stage: str) -> None:
        """Ends the stage before, and begins this one."""
        self._stage = (stage, time.monotonic())  # one assignment, so that no lock is needed

    def stage_s(self) -> float:
        """Returns for how long the loop has been in its current stage; may be called from any thread."""
        return time.monotonic() - self._stage[1]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches until the block ends."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="watchdog", daemon=True)
        self.enter("start")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(LOOK_EVERY_S)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(min(LOOK_EVERY_S, self._hang_s / 4)):
            stage, since_s = self._stage
            took_s = time.monotonic() - since_s
            if took_s > self._hang_s:
                self._on_hang(stage, took_s)
                return
            self._on_turn()


class ServiceManager:
    """Notifies systemd, where it started this process with `Type=notify`.

    Args:
        environment: Where to look up NOTIFY_SOCKET.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._status = ""

    def ready(self) -> None:
        """Reports that the source is open and the model is loaded."""
        self._send("READY=1")

    def alive(self, status: str) -> None:
        """Reports that the loop runs; `systemctl status` shows `status`."""
        news = [] if status == self._status else [f"STATUS={status}"]
        self._status = status
        self._send("\n".join(["WATCHDOG=1", *news]))

    def stopping(self) -> None:
        """Reports that the loop ends."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A service manager that does not listen is no reason to stop classifying.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as datagrams:
            datagrams.setblocking(False)
            datagrams.sendto(message.encode(), self._address)


def end_at_once(stage: str, took_s: float) -> None:
    """Reports which stage hangs and ends the process; hanging native code would never let it end otherwise.

    Readings are handed to the system one by one, so that none is lost.
    """
    print(
        f"Error: the loop hangs: the stage '{stage}' has taken {took_s:.0f} s; restart the run, or let systemd "
        "restart it (docs/service.md)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(HangError.exit_code)


@contextmanager
def watched(
    source: Source, *, on_hang: OnHang = end_at_once, manager: ServiceManager | None = None
) -> Iterator[Watchdog]:
    """Yields the watchdog of a loop that reads `source`, and notifies systemd until the block ends.

    Args:
        source: An open source; `systemctl status` shows its status.
        on_hang: Called when a stage hangs.
        manager: The service manager; by default the one that the environment names.
    """
    manager = manager or ServiceManager()
    watchdog = Watchdog(on_hang=on_hang, on_turn=lambda: manager.alive(source.status()))
    manager.ready()
    try:
        with watchdog.watching():
            yield watchdog
    finally:
        manager.stopping()
