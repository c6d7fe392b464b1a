"""Where do readings go?"""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO

from edgebcnn.atomic import storage_errors
from edgebcnn.camera.reading import Reading
from edgebcnn.progress import Reporter


class Sink(Protocol):
    """Takes each reading as it comes."""

    def write(self, reading: Reading) -> None:
        """Takes one reading."""
        ...

    def close(self) -> None:
        """Finishes; the loop calls it once, however it ended."""
        ...


class Record(Protocol):
    """What a line of JSON can be made of."""

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        ...


class TerminalSink:
    """One line a frame for a person."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, reading: Reading) -> None:
        """Prints `frame 12  Oatly Oat Milk  98.4 %  age 21 ms  latency 1.9 ms`."""
        name = reading.photo or f"frame {reading.frame}"
        wrong = f"  (is {reading.truth})" if reading.truth not in (None, reading.label) else ""
        times = f"age {reading.age_ms:.0f} ms  latency {reading.latency_ms:.1f} ms"
        print(f"{name}  {reading.label}  {100 * reading.score:.1f} %  {times}{wrong}", file=self._stream, flush=True)

    def close(self) -> None:
        """Leaves the stream open: it is the caller's."""


class JsonLinesSink:
    """One JSON object a line, appended and handed to the system at once, so that a kill loses no reading.

    Raises:
        StorageError: the path cannot be written; said before the loop starts.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with storage_errors(path):
            self._file = path.open("ab", buffering=0)

    def write(self, reading: Record) -> None:
        """Appends one line, or nothing of it.

        Raises:
            StorageError: the disk is full.
        """
        line = (json.dumps(reading.as_json(), ensure_ascii=False, allow_nan=False) + "\n").encode()
        with storage_errors(self._path):
            self._append(line)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _append(self, line: bytes) -> None:
        written = 0
        try:
            while written < len(line):
                written += self._file.write(line[written:])
        except OSError:
            with suppress(OSError):  # a pipe or device cannot be shortened
                os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size - written)
            raise


class ProgressSink:
    """A progress bar, for a source whose end is known."""

    def __init__(self, reporter: Reporter, total: int) -> None:
        self._stack = ExitStack()
        self._advance = self._stack.enter_context(reporter.progress("frames", total))
        self._passed = 0

    def write(self, reading: Reading) -> None:
        """Moves the bar to the frame that was read, past those that could not be."""
        self._advance(reading.frame + 1 - self._passed)
        self._passed = reading.frame + 1

    def close(self) -> None:
        """Leaves the terminal to what is printed next."""
        self._stack.close()
