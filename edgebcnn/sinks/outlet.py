"""How does a slow or dead sink not hold up the loop? Each sits behind a bounded queue, in a thread of its own."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import Enum

from edgebcnn.errors import StorageError
from edgebcnn.sinks.event import Event

CAPACITY = 1024  # half a minute of 30 frames a second, and about 2 MB
PATIENCE_S = 20.0  # a disk that was full for longer needs a person; less than what a watchdog takes for a hang
RETRY_S = 0.2
POLL_S = 0.05  # how soon a wait notices that somebody is in a hurry
DRAIN_S = 10.0  # at the end of a source: nobody waits
HURRIED_DRAIN_S = 0.4  # after a signal, so that everything has ended within a second
GRACE_S = 0.4  # for a sink to save what it could not deliver


class WhenFull(Enum):
    """What happens to an event that finds its queue full."""

    DROP_OLDEST = "drop"  # the oldest of the queue makes room, and is counted
    WAIT = "wait"  # the loop waits, for `PATIENCE_S` at most, and then ends


@dataclass(frozen=True)
class Counts:
    """What became of the events of one sink.

    Attributes:
        sink: Its name.
        delivered: Written, printed, or confirmed by the other side.
        dropped: Lost because a queue or spool was full.
        refused: Lost because the other side will never take them.
        waiting: Kept on the disk for the next run.
    """

    sink: str
    delivered: int = 0
    dropped: int = 0
    refused: int = 0
    waiting: int = 0

    def __str__(self) -> str:
        """`mqtt 117 delivered · 3 waiting`."""
        losses = {"dropped": self.dropped, "refused": self.refused, "waiting": self.waiting}
        told = (f" · {number} {what}" for what, number in losses.items() if number)
        return f"{self.sink} {self.delivered} delivered{''.join(told)}"

    def as_json(self) -> dict[str, str | int]:
        """Every count by name."""
        return asdict(self)


class Deadline:
    """Until when a sink may still deliver: seconds from now, fewer as soon as somebody is in a hurry."""

    def __init__(self, in_a_hurry: Callable[[], bool]) -> None:
        self._in_a_hurry = in_a_hurry
        self._end_s = time.monotonic() + DRAIN_S

    @property
    def remaining_s(self) -> float:
        """Seconds that are left, 0 once it has passed."""
        if self._in_a_hurry():
            self._end_s = min(self._end_s, time.monotonic() + HURRIED_DRAIN_S)
        return max(0.0, self._end_s - time.monotonic())


class EventSink(ABC):
    """Where events go. Opened before the loop starts; then only its outlet's thread calls it.

    Attributes:
        name: What messages and counts call it.
    """

    name: str

    @abstractmethod
    def write(self, event: Event) -> None:
        """Takes one event, and may take its time.

        Raises:
            StorageError: not now; the event is offered again.
        """

    def close(self, deadline: Deadline) -> None:  # noqa: B027 - some hold nothing open
        """Finishes what was written before; called once."""

    def counts(self, written: int, dropped: int) -> Counts:
        """What became of the events, of which the outlet saw `written` written and `dropped` ones."""
        return Counts(self.name, delivered=written, dropped=dropped)


class Outlet:
    """One sink, its queue and its thread."""

    def __init__(
        self,
        sink: EventSink,
        *,
        when_full: WhenFull,
        in_a_hurry: Callable[[], bool] = lambda: False,
        capacity: int = CAPACITY,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._sink = sink
        self._when_full = when_full
        self._in_a_hurry = in_a_hurry
        self._capacity = capacity
        self._patience_s = patience_s
        self._queue: deque[Event] = deque()
        self._changed = threading.Condition()
        self._writing = self._written = self._dropped = 0
        self._deadline: Deadline | None = None
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=f"sink {sink.name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Queues an event.

        Raises:
            StorageError: the sink cannot write, or a sink that must not lose anything stands still.
        """
        with self._changed:
            if self._failure:
                raise self._failure
            if len(self._queue) >= self._capacity:
                self._make_room()
            self._queue.append(event)
            self._changed.notify_all()

    def start_to_close(self) -> None:
        """Lets the thread end once the queue is empty, or when it is late."""
        with self._changed:
            self._deadline = self._deadline or Deadline(self._in_a_hurry)
            self._changed.notify_all()

    def finish(self) -> None:
        """Waits for the thread's end; what it left behind is counted as dropped.

        Raises:
            StorageError: the sink failed, or must not lose anything and did.
        """
        self.start_to_close()
        assert self._deadline is not None
        while self._thread.is_alive() and self._deadline.remaining_s:
            self._thread.join(POLL_S)
        self._thread.join(GRACE_S)
        with self._changed:
            lost = len(self._queue) + self._writing
            self._dropped, self._writing = self._dropped + lost, 0
            self._queue.clear()
            if self._failure:
                raise self._failure
        if lost and self._when_full is WhenFull.WAIT:
            raise StorageError(f"{lost} events did not get into {self._sink.name} in time: check its disk")

    def counts(self) -> Counts:
        """What became of the events so far."""
        return self._sink.counts(self._written, self._dropped)

    def _make_room(self) -> None:
        if self._when_full is WhenFull.DROP_OLDEST:
            self._queue.popleft()
            self._dropped += 1
            return
        give_up_s = time.monotonic() + self._patience_s
        while len(self._queue) >= self._capacity and not self._failure and not self._in_a_hurry():
            self._changed.wait(POLL_S)
            if time.monotonic() > give_up_s:
                raise StorageError(
                    f"{self._sink.name} has taken no event for {self._patience_s:g} s: check its disk and try again"
                )

    def _work(self) -> None:
        try:
            try:
                while event := self._next():
                    self._write(event)
            finally:
                self.start_to_close()
                assert self._deadline is not None
                self._sink.close(self._deadline)
        except Exception as error:  # whatever it is, `put` and `finish` raise it in the loop's thread
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _next(self) -> Event | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._deadline)
            if not self._queue or (self._deadline and not self._deadline.remaining_s):
                return None
            self._writing = 1
            event = self._queue.popleft()
            self._changed.notify_all()
            return event

    def _write(self, event: Event) -> None:
        """Writes it; a disk that is full may have room later."""
        give_up_s = time.monotonic() + self._patience_s
        while True:
            try:
                self._sink.write(event)
            except StorageError:
                is_last_try = self._deadline and not self._deadline.remaining_s
                if is_last_try or (self._when_full is WhenFull.WAIT and time.monotonic() > give_up_s):
                    raise
                time.sleep(RETRY_S)
            else:
                with self._changed:
                    self._writing, self._written = 0, self._written + 1
                return
