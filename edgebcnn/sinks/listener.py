"""Accepts connections from a network without letting it exhaust this process.

A page or a port for metrics shares its process with the camera loop, and with it the file descriptors that the camera,
the model and the sinks need. Whoever opens connections and sends nothing (a port scan, a browser that forgot a tab, an
attack) must cost the loop nothing: connections are limited per address and in all, those on which nobody asks for
anything are closed after a few seconds, and some descriptors are never given away.
"""

from __future__ import annotations

import errno
import ipaddress
import math
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

SWEEP_EVERY_S = 0.5
TURNED_AWAY_AT_ONCE = 64  # then the server does other work before it turns more away
EXHAUSTED_PAUSE_S = 0.1  # where even accepting fails: trying again at once would take a whole core
GRACE_S = 1.0  # a younger connection may still send its request
RESERVED_DESCRIPTORS = 64  # for camera, model, sinks and spool of the loop
RESERVED_SHARE = 0.25  # of a limit that is small

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass(frozen=True)
class Limits:
    """Limits of a listener.

    Attributes:
        connections: Open connections in all.
        per_address: Of these, from one IPv4 address or one IPv6 network of a subscriber (/64).
        idle_s: A connection without a complete request is closed after this time, however many bytes trickle in.
        stalled_s: One whose peer takes no data for this time is closed, where the system can tell.
    """

    connections: int = 128
    per_address: int = 64  # a page keeps two open; behind a proxy, all viewers have one address
    idle_s: float = 10.0
    stalled_s: float = 30.0


class BoundedListener(socket.socket):
    """A listening socket that keeps its connections within limits.

    It takes the place of the socket that it is made from, in any server that calls `accept`: asyncio's and
    `socketserver`'s alike.

    Args:
        listener: Bound and listening; it is closed, and its descriptor goes over to this one.
        limits: Limits on its connections.

    Attributes:
        turned_away: Connections that were closed because of a limit.
    """

    def __init__(self, listener: socket.socket, limits: Limits | None = None) -> None:
        super().__init__(listener.family, listener.type, listener.proto, fileno=listener.detach())
        self.setblocking(False)  # a server that waits for one more connection could not end
        self.turned_away = 0
        self._limits = limits or Limits()
        self._last_descriptor = _last_descriptor()
        self._lock = threading.RLock()  # guards the connections, and that none is closed while it is shut down
        self._connections: dict[Any, _Connection] = {}
        self._over = threading.Event()
        threading.Thread(target=self._sweep, name="idle connections", daemon=True).start()

    def accept(self) -> tuple[socket.socket, Any]:
        """Returns the next connection within the limits; those beyond them are closed at once.

        Raises:
            BlockingIOError: there is none now.
        """
        for _ in range(TURNED_AWAY_AT_ONCE):
            try:
                accepted, peer = super().accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                time.sleep(EXHAUSTED_PAUSE_S)
                break
            connection = _Connection(self, accepted, peer)
            if self._has_room(connection):
                self._set_stall_limit(connection)
                return connection, peer
            self.turned_away += 1
            connection.close()
        raise BlockingIOError(errno.EAGAIN, "no connection within the limits")

    @contextmanager
    def serving(self, peer: Any) -> Iterator[None]:
        """Keeps the connection from `peer` open while the block answers its request."""
        connection = self._connections.get(_key(peer))
        if connection is None:  # it went away meanwhile
            yield
            return
        connection.idle_since_s = math.inf
        try:
            yield
        finally:
            connection.idle_since_s = time.monotonic()

    def close(self) -> None:
        """Stops listening; open connections are left to their server."""
        self._over.set()
        super().close()

    def _has_room(self, newcomer: _Connection) -> bool:
        with self._lock:
            open_now = list(self._connections.values())
            of_address = [each for each in open_now if each.network == newcomer.network]
            if newcomer.fileno() > self._last_descriptor:
                return False
            crowds = ((of_address, self._limits.per_address), (open_now, self._limits.connections))
            for crowd, limit in crowds:
                if len(crowd) >= limit and not self._shut_one_idle(crowd):
                    return False
            self._connections[newcomer.key] = newcomer
            return True

    def _shut_one_idle(self, crowd: list[_Connection]) -> bool:
        """Makes room by closing the connection that has been idle for the longest time."""
        before_s = time.monotonic() - GRACE_S
        idle = [each for each in crowd if each.idle_since_s < before_s]
        if not idle:
            return False
        self._shut(min(idle, key=lambda each: each.idle_since_s))
        return True

    def _shut(self, connection: _Connection) -> None:
        """Ends a connection from another thread than its server's, which then finds its end and closes it.

        The server may take a moment for that, so that it no longer counts from now on; descriptors have a limit of
        their own.
        """
        self._connections.pop(connection.key, None)
        with suppress(OSError):  # the peer has gone already
            connection.shutdown(socket.SHUT_RDWR)

    def _sweep(self) -> None:
        while not self._over.wait(SWEEP_EVERY_S):
            before_s = time.monotonic() - self._limits.idle_s
            with self._lock:
                for connection in [each for each in self._connections.values() if each.idle_since_s < before_s]:
                    self._shut(connection)

    def _set_stall_limit(self, connection: socket.socket) -> None:
        if option := getattr(socket, "TCP_USER_TIMEOUT", None):
            with suppress(OSError):  # the peer has gone already
                connection.setsockopt(socket.IPPROTO_TCP, option, round(1000 * self._limits.stalled_s))

    def _forget(self, connection: _Connection) -> None:
        if self._connections.get(connection.key) is connection:
            del self._connections[connection.key]


class _Connection(socket.socket):
    """An accepted connection, and the time since which it is idle; infinity while it is served."""

    def __init__(self, listener: BoundedListener, accepted: socket.socket, peer: Any) -> None:
        super().__init__(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        self.settimeout(None)  # as `socket.accept` gives it
        self.key, self.network = _key(peer), _network(str(peer[0]))
        self.idle_since_s = time.monotonic()
        self._listener = listener

    def close(self) -> None:
        with self._listener._lock:  # its descriptor must not become another's while it is shut down
            self._listener._forget(self)
            super().close()


def _key(peer: Any) -> tuple[str, int]:
    return str(peer[0]), int(peer[1])


def _network(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _last_descriptor() -> int:
    """The highest descriptor that a connection may have; the system always gives the lowest that is free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return 1 << 30
    return limit - min(RESERVED_DESCRIPTORS, round(RESERVED_SHARE * limit))
