"""Passes every event to every sink."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.sinks.event import Event, Stamp
from edgebcnn.sinks.outlet import Counts, Outlet
from edgebcnn.sources.frames import Frame


class EventSinks:
    """The sink that the loop writes to: each reading becomes an event, which goes into the queue of every outlet.

    Attributes:
        stamp: Makes the events of this run; `publish` takes events of any kind.
    """

    def __init__(self, outlets: Sequence[Outlet], *, stamp: Stamp) -> None:
        self._outlets = outlets
        self.stamp = stamp

    def write(self, reading: Reading) -> None:
        """Queues the event of one reading.

        Raises:
            StorageError: a sink that must not lose anything cannot write.
        """
        self.publish(self.stamp.reading(reading))

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Queues the events of the slots whose state settled.

        Raises:
            StorageError: a sink that must not lose anything cannot write.
        """
        for event in self.stamp.slots(reading):
            self.publish(event)

    def publish(self, event: Event) -> None:
        """Queues one event for every outlet, even if one of them fails.

        Raises:
            StorageError: a sink that must not lose anything cannot write.
        """
        _each(self._outlets, lambda outlet: outlet.put(event))

    def close(self) -> None:
        """Delivers queued events, for up to 10 s at the end of a source and for half a second after a signal.

        Raises:
            StorageError: a sink that must not lose anything lost something.
        """
        for outlet in self._outlets:
            outlet.start_to_close()
        _each(self._outlets, Outlet.finish)

    def counts(self) -> tuple[Counts, ...]:
        """Returns what became of the events so far, per sink."""
        return tuple(outlet.counts() for outlet in self._outlets)


def _each(outlets: Sequence[Outlet], act: Callable[[Outlet], None]) -> None:
    """Calls `act` for every outlet, then raises the first error."""
    failures = []
    for outlet in outlets:
        try:
            act(outlet)
        except Exception as error:  # raised below
            failures.append(error)
    if failures:
        raise failures[0]
