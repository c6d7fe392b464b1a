"""Puts each event sink behind a bounded queue and a thread, so that a slow or dead one never delays the loop."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass

from edgebcnn.errors import StorageError
from edgebcnn.sinks.event import Event
from edgebcnn.worker import PATIENCE_S, Deadline, WhenFull, Worker

CAPACITY = 1024  # half a minute of 30 frames a second, and about 2 MB
RETRY_S = 0.2


@dataclass(frozen=True)
class Counts:
    """What became of the events of one sink.

    Attributes:
        sink: Its name.
        delivered: Written, printed, or confirmed by the other side.
        dropped: Lost because a queue or spool was full.
        refused: Lost because the other side does not accept them.
        waiting: Saved on disk for the next run.
    """

    sink: str
    delivered: int = 0
    dropped: int = 0
    refused: int = 0
    waiting: int = 0

    def __str__(self) -> str:
        """`mqtt 117 delivered · 3 waiting`."""
        losses = {"dropped": self.dropped, "refused": self.refused, "waiting": self.waiting}
        parts = (f" · {number} {what}" for what, number in losses.items() if number)
        return f"{self.sink} {self.delivered} delivered{''.join(parts)}"

    def as_json(self) -> dict[str, str | int]:
        """Every count by name."""
        return asdict(self)


class EventSink(ABC):
    """A destination of events. It is opened before the loop starts; then only its outlet's thread calls it.

    Attributes:
        name: Its name in messages and counts.
    """

    name: str

    @abstractmethod
    def write(self, event: Event) -> None:
        """Writes one event, and may take its time.

        Raises:
            StorageError: it cannot be written now; the event is tried again.
        """

    def close(self, deadline: Deadline) -> None:  # noqa: B027 - some hold nothing open
        """Finishes earlier events; called once."""

    def counts(self, written: int, dropped: int) -> Counts:
        """Returns what became of the events; the outlet passed on `written` and dropped `dropped` of them."""
        return Counts(self.name, delivered=written, dropped=dropped)


class Outlet:
    """One sink with its queue and thread.

    Args:
        sink: Where events go; closed by this outlet.
        when_full: What happens to an event that finds the queue full.
        in_a_hurry: Whether somebody waits for the end.
        capacity: Events that the queue holds.
        patience_s: Longest that a sink that must not lose anything may stand still.
    """

    def __init__(
        self,
        sink: EventSink,
        *,
        when_full: WhenFull,
        in_a_hurry: Callable[[], bool] = lambda: False,
        capacity: int = CAPACITY,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._sink, self._when_full, self._patience_s = sink, when_full, patience_s
        self._worker: Worker[Event] = Worker(
            f"sink {sink.name}",
            self._write,
            capacity=capacity,
            when_full=when_full,
            on_close=sink.close,
            in_a_hurry=in_a_hurry,
            patience_s=patience_s,
            label=sink.name,
        )

    def put(self, event: Event) -> None:
        """Queues an event.

        Raises:
            StorageError: the sink cannot write, or a sink that must not lose anything stands still.
        """
        self._worker.put(event)

    def start_to_close(self) -> None:
        """Lets the thread end once the queue is empty, or at its deadline; does not wait."""
        self._worker.start_to_close()

    def finish(self) -> None:
        """Waits for the end of the thread; events left over count as dropped.

        Raises:
            StorageError: the sink failed, or must not lose anything and did.
        """
        lost = self._worker.finish()
        if lost and self._when_full is WhenFull.WAIT:
            raise StorageError(f"{lost} events did not get into {self._sink.name} in time: check its disk")

    def counts(self) -> Counts:
        """What became of the events so far."""
        return self._sink.counts(self._worker.handled, self._worker.dropped)

    def _write(self, event: Event) -> None:
        """Writes the event, and retries: a disk that is full may have room later."""
        give_up_s = time.monotonic() + self._patience_s
        while True:
            try:
                return self._sink.write(event)
            except StorageError:
                gives_up = self._when_full is WhenFull.WAIT and time.monotonic() > give_up_s
                if gives_up or self._worker.is_late:
                    raise
                time.sleep(RETRY_S)
