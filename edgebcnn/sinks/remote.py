"""Delivers events to a broker or server that is slow, restarts, or is unreachable for a day.

Each event is sent until the other side confirms it: at least once, in order, each time with the same `id`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

from edgebcnn.backoff import Backoff
from edgebcnn.errors import SinkError, StorageError
from edgebcnn.progress import Reporter
from edgebcnn.sinks.backlog import Backlog, Message
from edgebcnn.sinks.event import Event
from edgebcnn.sinks.outlet import Counts, EventSink
from edgebcnn.worker import BackgroundTask, Deadline

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
MAX_RETRY_AFTER_S = 300.0  # longest wait that a server may request
IDLE_S = 1.0  # how often an idle connection is serviced
START_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 10.0
HANG_UPS_TOGETHER, HANG_UPS_ALONE = 2, 5  # in a row, before messages go one by one, and before one is passed over
LEAVE_S = 0.2  # for disconnecting; a thread that hangs in the network for longer is a daemon and ends with the process


class UnreachableError(Exception):
    """The other side cannot take events now; the message gives the reason, without credentials.

    Attributes:
        confirmed: Number of messages that it confirmed before.
        retry_after_s: Wait that it requested; None where it did not.
        is_final: Whether retrying is useless, as with a wrong password.
        remedy: What the user should do then.
        hung_up: Whether it closed the connection while it took messages, which may be too large for it.
    """

    def __init__(
        self,
        reason: str,
        *,
        confirmed: int = 0,
        retry_after_s: float | None = None,
        is_final: bool = False,
        remedy: str = "correct it",
        hung_up: bool = False,
    ) -> None:
        super().__init__(reason)
        self.confirmed = confirmed
        self.retry_after_s = retry_after_s
        self.is_final = is_final
        self.remedy = remedy
        self.hung_up = hung_up


class RefusedError(Exception):
    """The other side does not accept these messages; the message gives the reason."""


class Transport(Protocol):
    """A connection to the other side. One thread uses it, after `connect` was called before the loop.

    Attributes:
        where: Address of the other side, without credentials.
        batch: Largest number of messages per `send`.
    """

    where: str
    batch: int

    def connect(self) -> None:
        """Connects, and checks that the other side is there.

        Raises:
            UnreachableError: it is not.
        """

    def send(self, messages: Sequence[Message]) -> None:
        """Sends messages and waits until all are confirmed; connects first if needed.

        Raises:
            UnreachableError: not all were confirmed.
            RefusedError: the other side does not accept one of them.
        """

    def rest(self) -> None:
        """Services the connection; called while there is nothing to send.

        Raises:
            UnreachableError: the connection is lost.
        """

    def close(self) -> None:
        """Disconnects; called from the sending thread."""


class RemoteSink(EventSink):
    """Sends events over a transport in a background thread, and keeps waiting events in a backlog.

    Args:
        name: Its name in messages and counts.
        transport: The connection to the other side.
        backlog: Where events wait; closed by this sink.
        reporter: Informed when the connection is lost and restored.
        allow_offline: Whether to start although the other side is unreachable.

    Raises:
        SinkError: the other side is unreachable or refuses the login; raised before the loop starts.
    """

    def __init__(
        self, name: str, transport: Transport, *, backlog: Backlog, reporter: Reporter, allow_offline: bool
    ) -> None:
        self.name = name
        self._transport = transport
        self._backlog = backlog
        self._reporter = reporter
        self._delivered = self._refused = 0
        self._is_online = True
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._hang_ups = 0  # in a row, without a message confirmed
        self._one_by_one = 0  # messages of a refused batch that go alone, to find the one at fault
        self._start(allow_offline)
        self._sender = BackgroundTask(f"sender of {name}", self._send_until_closed)
        self._sender.start()

    def write(self, event: Event) -> None:
        """Adds the event to those that wait.

        Raises:
            StorageError: it has to wait on the disk, which is full.
        """
        self._raise_failure()
        self._backlog.append(event.subtopic, event.json_line, holds_until_next=event.holds_until_next)

    def close(self, deadline: Deadline) -> None:
        """Delivers waiting events until the deadline, and saves the rest on disk."""
        self._sender.join_until(deadline, unless=lambda: not len(self._backlog))
        try:
            self._backlog.spare_the_disk(False)  # before anything that may hang
        finally:
            self._sender.stop()
            self._backlog.wake()
            self._sender.join(LEAVE_S)
            waiting = len(self._backlog)
            self._backlog.close()
        self._raise_failure()
        if waiting:
            self._reporter.say(
                f"{self.name}: {waiting} events wait in {self._backlog.path} and are delivered by the next run"
            )

    def counts(self, written: int, dropped: int) -> Counts:
        """Returns the counts; an event counts as delivered once the other side confirmed it."""
        return Counts(
            self.name, self._delivered, dropped + self._backlog.dropped, self._refused, waiting=len(self._backlog)
        )

    def _raise_failure(self) -> None:
        if isinstance(self._sender.failure, StorageError):  # not to be retried: the sender has ended
            raise SinkError(f"{self.name}: {self._sender.failure}") from self._sender.failure
        self._sender.raise_failure()

    def _start(self, allow_offline: bool) -> None:
        if self._backlog.damaged:
            self._reporter.say(f"{self.name}: {self._backlog.path} was damaged and is now {self._backlog.damaged}")
        try:
            self._transport.connect()
        except UnreachableError as error:
            if error.is_final or not allow_offline:
                self._backlog.close()
                remedy = (
                    error.remedy
                    if error.is_final
                    else "check the address and start it, or start without it: --config events.allow_offline=true"
                )
                raise SinkError(f"{self._transport.where}: {error}; {remedy}") from error
            self._went_away(error)

    def _send_until_closed(self) -> None:
        while not self._sender.is_stopping:
            self._send_some()
        self._transport.close()

    def _send_some(self) -> None:
        messages = self._backlog.first(1 if self._one_by_one else self._transport.batch, wait_s=IDLE_S)
        try:
            if messages:
                self._transport.send(messages)
            elif self._is_online:
                self._transport.rest()
            else:
                self._transport.connect()
            self._came_back()
        except UnreachableError as error:
            self._delivered_some(messages[: error.confirmed])
            self._went_away(error)
            self._note_hang_up(messages, error)
            self._sender.pause(self._next_pause_s(error))
        except RefusedError as error:
            self._refuse(messages, error)
        else:
            self._delivered_some(messages)

    def _delivered_some(self, messages: Sequence[Message]) -> None:
        self._backlog.remove(messages)
        self._delivered += len(messages)
        self._one_by_one = max(0, self._one_by_one - len(messages))

    def _note_hang_up(self, messages: Sequence[Message], error: UnreachableError) -> None:
        """Some brokers answer a message that is too large by hanging up, each time: that one is passed over."""
        self._hang_ups = self._hang_ups + 1 if error.hung_up and not error.confirmed else 0
        if self._hang_ups >= HANG_UPS_ALONE and len(messages) == 1:
            self._hang_ups = 0
            self._refuse(messages, RefusedError(f"it hung up {HANG_UPS_ALONE} times at it"))
        elif self._hang_ups >= HANG_UPS_TOGETHER:
            self._one_by_one = max(self._one_by_one, len(messages))

    def _refuse(self, messages: Sequence[Message], error: RefusedError) -> None:
        if len(messages) > 1:
            self._one_by_one = len(messages)
            return
        if not self._refused:
            self._reporter.say(f"{self.name}: {self._transport.where} refuses an event ({error}): skipped and counted")
        self._backlog.remove(messages)
        self._refused += len(messages)
        self._one_by_one = max(0, self._one_by_one - 1)

    def _went_away(self, error: UnreachableError) -> None:
        if self._is_online:
            self._is_online = False
            self._reporter.say(f"{self.name}: {self._transport.where}: {error}; events wait in {self._backlog.path}")
        with suppress(StorageError):  # a few stay in memory; the next event fails at the full disk too, and is reported
            self._backlog.spare_the_disk(False)

    def _came_back(self) -> None:
        self._backoff.reset()
        if not self._is_online:
            self._is_online = True
            self._backlog.spare_the_disk(True)
            self._reporter.say(f"{self.name}: {self._transport.where}: reconnected")

    def _next_pause_s(self, error: UnreachableError) -> float:
        """Up to half shorter at random, so that a hundred devices do not come back at once."""
        asked_s = min(error.retry_after_s or 0.0, MAX_RETRY_AFTER_S)
        return max(asked_s, self._backoff.pause_s() * random.uniform(0.5, 1.0))
