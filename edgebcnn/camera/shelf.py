"""What happens to a frame where slots are watched? Slot by slot, events of what settled, sinks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TextIO

from edgebcnn.camera.source import Frame, Source
from edgebcnn.shelf.event import SlotEvent
from edgebcnn.shelf.watch import ShelfWatch


class SlotSink(Protocol):
    """Takes each event as it comes."""

    def write(self, event: SlotEvent, /) -> None:
        """Takes one event."""
        ...

    def close(self) -> None:
        """Finishes; called once."""
        ...


class SlotLines:
    """One line an event for a person."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: SlotEvent, /) -> None:
        """Prints the event, as `SlotEvent` writes it."""
        print(event, file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the stream open: it is the caller's."""


class ShelfReader:
    """Shows frames to a watch and tells the sinks which states settled."""

    def __init__(self, watch: ShelfWatch, source: Source, sinks: Sequence[SlotSink] = ()) -> None:
        self._watch = watch
        self._source = source
        self._sinks = sinks
        self.last_change_s: float | None = None

    def read(self, frame: Frame) -> None:
        """Takes in one frame.

        Raises:
            DataError: the slots do not fit frames of this size.
            StorageError: a sink cannot write.
        """
        # The frames of a file come as fast as they are decoded; what lasted how long, its own rate says.
        at_s = frame.index / self._source.fps if self._source.fps else frame.captured_monotonic_s
        changes = self._watch.look(frame.image_bgr, at_s=at_s)
        if self._watch.last_change_s == at_s:
            self.last_change_s = frame.captured_monotonic_s
        shelves = {shelf.shelf: shelf for shelf in self._watch.compliance()} if changes else {}
        for change in changes:
            event = SlotEvent.of(
                change,
                shelves[change.now.shelf],
                source=self._source.name,
                frame=frame.index,
                captured_monotonic_s=frame.captured_monotonic_s,
            )
            for sink in self._sinks:
                sink.write(event)

    def close(self) -> None:
        """Closes the sinks."""
        for sink in self._sinks:
            sink.close()
