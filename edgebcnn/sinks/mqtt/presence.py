"""Keeps a device's MQTT status true, and notices a second run under the same device name.

The status topic holds "online" or "offline", retained. The broker publishes "offline" as the last will of a connection
that was lost, which it may notice long after the device is connected again. So each connection subscribes to its own
status and publishes "online" again whenever "offline" arrives.

Two runs under one device name would mix their events. Each connection therefore publishes `hello RUN` to the session
topic, which it subscribes to as well, and a run that is connected already answers `here RUN`.
"""

from __future__ import annotations

import re
import secrets
import time
import unicodedata
import zlib
from collections.abc import Callable

REPEAT_S = 30.0  # how often "online" is repeated where the broker does not let us read our own status
MAX_LEVEL = 100  # characters of a device name in topics; far more than anybody reads

ONLINE, OFFLINE = b"online", b"offline"

Publication = tuple[str, bytes, bool]
"""Topic, payload, and whether the broker keeps it for later subscribers."""


class Presence:
    """The status of one run on its topics; the MQTT connection feeds it messages and publishes what is due.

    Args:
        topic: The device's topic, `PREFIX/DEVICE`.
        clock: Seconds that never go back.

    Attributes:
        subscriptions: Topics to subscribe to.
        last_will: What the broker publishes when the connection is lost.
        other_run: Whether another run is connected under the same device name.
    """

    def __init__(self, topic: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._status_topic, self._session_topic = f"{topic}/status", f"{topic}/session"
        self._run = secrets.token_hex(6).encode()
        self._clock = clock
        self.subscriptions = (self._status_topic, self._session_topic)
        self.last_will: Publication = (self._status_topic, OFFLINE, True)
        self.begin()

    def begin(self) -> None:
        """Forgets what an earlier connection heard."""
        self.other_run = False
        self._reads = self._was_online = self._must_answer = False
        self._published_s: float | None = None
        self._is_due = False

    @property
    def hello(self) -> Publication:
        """What a new connection publishes after it has subscribed."""
        return self._session_topic, b"hello " + self._run, False

    @property
    def reads(self) -> bool:
        """Whether our own hello arrived: the broker lets us read our topics, and their retained status is known."""
        return self._reads

    @property
    def was_online(self) -> bool:
        """Whether the status was "online" before we published it: a run is connected, or was lost just now."""
        return self._was_online

    def take(self, topic: str, body: bytes) -> None:
        """Takes a message of one of the subscriptions."""
        if topic == self._status_topic:
            self._was_online |= self._published_s is None and body == ONLINE
            self._is_due |= self._published_s is not None and body != ONLINE
            return
        word, _, run = body.partition(b" ")
        if run == self._run:
            self._reads = True
        elif word in (b"hello", b"here"):
            self.other_run |= word == b"here"
            self._must_answer |= word == b"hello"

    def online(self) -> Publication:
        """The status to publish once connected, and whenever it is due."""
        self._published_s, self._is_due = self._clock(), False
        return self._status_topic, ONLINE, True

    def due(self) -> list[Publication]:
        """What must be published now, if anything."""
        if self._published_s is None:  # not admitted yet
            return []
        found: list[Publication] = []
        if self._is_due or (not self._reads and self._clock() - self._published_s >= REPEAT_S):
            found.append(self.online())
        if self._must_answer:
            self._must_answer = False
            found.append((self._session_topic, b"here " + self._run, False))
        return found


def topic_level(name: str) -> str:
    """A device name as one level of a topic: letters and digits of any script stay, all else becomes `_`."""
    name = unicodedata.normalize("NFC", name)[:MAX_LEVEL]
    level = "".join(each if _is_plain(each) else " " for each in name)
    return re.sub(r" +", "_", level).strip("_") or f"device_{_digest(name)}"


def ascii_level(name: str) -> str:
    """The same in ASCII, as Home Assistant's discovery topics need it; unlike names stay unlike."""
    level = topic_level(name)
    if level.isascii():
        return level
    return "_".join(filter(None, (re.sub(r"[^A-Za-z0-9_-]+", "_", level).strip("_"), _digest(name))))


def _is_plain(character: str) -> bool:
    return character in "_-" or character.isalnum() or unicodedata.category(character).startswith("M")


def _digest(name: str) -> str:
    return f"{zlib.crc32(unicodedata.normalize('NFC', name).encode(errors='backslashreplace')):08x}"
