"""Shows events as lines, and the progress of a source that ends, at the terminal."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TextIO

from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.printable import visible
from edgebcnn.progress import Reporter
from edgebcnn.sinks.event import Event
from edgebcnn.sinks.outlet import EventSink
from edgebcnn.sources.frames import Frame


class TerminalSink(EventSink):
    """Prints one line per event; the stream stays open, it is the caller's."""

    name = "terminal"

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, event: Event) -> None:
        """Prints the event as a line, with control characters written out."""
        print(visible(event.for_people()), file=self._stream, flush=True)


class ProgressSink:
    """A progress bar for a source whose length is known; it takes readings from the loop directly."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._stack = ExitStack()
        self._advance = self._stack.enter_context(reporter.progress("frames", total))
        self._passed = 0

    def write(self, reading: Reading) -> None:
        """Moves the bar to this frame, past the unreadable ones before it."""
        self._pass(reading.frame)

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Moves the bar to a frame whose slots were read."""
        self._pass(frame.index)

    def close(self) -> None:
        """Ends the bar."""
        self._stack.close()

    def _pass(self, frame: int) -> None:
        self._advance(frame + 1 - self._passed)
        self._passed = frame + 1
