"""How does every event reach every sink?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.sinks.event import Event, Stamp
from edgebcnn.sinks.outlet import Counts, Outlet
from edgebcnn.sources.frames import Frame


class EventSinks:
    """What the loop hands its readings to: each becomes an event, and each event goes into every outlet's queue.

    Attributes:
        stamp: Makes this run's events; `publish` takes those of other kinds.
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
        """Queues one event, also for the outlets that follow one that failed.

        Raises:
            StorageError: a sink that must not lose anything cannot write.
        """
        _each(self._outlets, lambda outlet: outlet.put(event))

    def close(self) -> None:
        """Delivers what is queued: for seconds at the end of a source, for half a second once a signal came.

        Raises:
            StorageError: a sink that must not lose anything lost something.
        """
        for outlet in self._outlets:
            outlet.start_to_close()
        _each(self._outlets, Outlet.finish)

    def counts(self) -> tuple[Counts, ...]:
        """What became of the events so far, sink by sink."""
        return tuple(outlet.counts() for outlet in self._outlets)


def _each(outlets: Sequence[Outlet], act: Callable[[Outlet], None]) -> None:
    """Does it to all of them, then raises what the first that failed raised."""
    failures = []
    for outlet in outlets:
        try:
            act(outlet)
        except Exception as error:  # raised below
            failures.append(error)
    if failures:
        raise failures[0]
