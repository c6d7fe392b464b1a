"""Appends events to files, in whole lines whatever happens.

Each line is handed to the system at once and in one piece, so that a kill loses none. Half a line that a kill or a
power cut left is cut off when the file is opened again. A lock keeps two runs from writing one file. A file that was
renamed or removed by others, as logrotate does, is begun anew.
"""

from __future__ import annotations

import csv
import errno
import fcntl
import io
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from edgebcnn.atomic import storage_errors
from edgebcnn.errors import StorageError
from edgebcnn.printable import spreadsheet_cell
from edgebcnn.sinks.event import KINDS, SCHEMA_VERSION, Event
from edgebcnn.sinks.outlet import EventSink
from edgebcnn.worker import Deadline

MAX_LINE_BYTES = 1 << 20  # far longer than any event; how far back the last line is looked for

CSV_COLUMNS = tuple(dict.fromkeys(field for kind in KINDS for field in kind.model_fields))
"""Every field of every kind of event; fields that a kind lacks stay empty."""


@dataclass(frozen=True)
class Rotation:
    """When a file is rotated.

    Attributes:
        max_bytes: A file does not grow beyond this, unless by one line that is longer.
        keep: Rotated files that are kept, `FILE.1` the newest; older ones are deleted.
    """

    max_bytes: int
    keep: int


class LineFile:
    """A file to which whole lines are appended.

    Args:
        path: The file; made where there is none.
        opening: First bytes of each of our lines.
        header: First line of each file.
        rotation: When the file is rotated; never where None.

    Raises:
        StorageError: the path cannot be written, holds something else, or another run writes it.
    """

    def __init__(self, path: Path, opening: bytes, *, header: bytes = b"", rotation: Rotation | None = None) -> None:
        self._path = path
        self._opening = opening
        self._header = header
        self._rotation = rotation
        with storage_errors(path):
            self._file = self._opened()

    def append(self, line: bytes) -> None:
        """Appends one whole line, or nothing.

        Raises:
            StorageError: the disk is full.
        """
        with storage_errors(self._path):
            if self._was_moved():
                self._begin_anew()
            size = os.fstat(self._file.fileno()).st_size
            if not size and self._header:  # somebody emptied it, as logrotate's copytruncate does
                _append(self._file, self._header)
            if self._rotation and size > len(self._header) and size + len(line) > self._rotation.max_bytes:
                self._rotate(self._rotation.keep)
            _append(self._file, line)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _opened(self) -> io.FileIO:
        file = io.FileIO(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666), "ab")
        try:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                _lock(file, self._path)
                self._continue(file)
            elif self._rotation:
                raise StorageError(f"{self._path} is not a file that can be rotated: choose a file, or leave it out")
            else:
                _append(file, self._header)
        except BaseException:
            file.close()
            raise
        return file

    def _continue(self, file: io.FileIO) -> None:
        """Removes a truncated line that edgebcnn wrote, and refuses other content."""
        size = os.fstat(file.fileno()).st_size
        with self._path.open("rb") as reader:
            header = reader.read(len(self._header))
            reader.seek(max(0, size - MAX_LINE_BYTES))
            half = reader.read().rpartition(b"\n")[2]
        if half and not any(half.startswith(begin[: len(half)]) for begin in (self._opening, self._header) if begin):
            raise StorageError(f"{self._path} holds something else than events: choose another file")
        size -= len(half)
        os.ftruncate(file.fileno(), size)
        if not size:
            _append(file, self._header)
        elif header != self._header:
            raise StorageError(f"{self._path} has other columns than this version writes: choose another file")

    def _rotate(self, keep: int) -> None:
        """Moves `FILE` to `FILE.1`, that to `FILE.2`, and so on; a kill leaves a gap, which the next time fills."""
        if self._path.exists():  # or the disk was too full to begin a new one
            free = next(number for number in count(1) if number == keep or not self._aside(number).exists())
            for number in range(free, 1, -1):
                self._aside(number - 1).replace(self._aside(number))
            self._path.replace(self._aside(1))
        self._begin_anew()

    def _begin_anew(self) -> None:
        fresh = self._opened()
        self._file.close()
        self._file = fresh

    def _was_moved(self) -> bool:
        """Whether the path now leads to another file than the open one."""
        ours = os.fstat(self._file.fileno())
        if not stat.S_ISREG(ours.st_mode):
            return False
        try:
            return not os.path.samestat(ours, os.stat(self._path))
        except FileNotFoundError:
            return True

    def _aside(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class JsonLinesSink(EventSink):
    """Writes one JSON object per line.

    Raises:
        StorageError: the path cannot be written, or another run writes it; raised before the loop starts.
    """

    def __init__(self, path: Path, *, rotation: Rotation | None = None) -> None:
        self.name = str(path)
        self._lines = LineFile(path, b'{"schema_version": ', rotation=rotation)

    def write(self, event: Event) -> None:
        """Appends one whole line, or nothing."""
        self._lines.append(event.json_line)

    def close(self, deadline: Deadline) -> None:
        """Closes the file."""
        self._lines.close()


class CsvSink(EventSink):
    """Writes one row per event, with the columns `CSV_COLUMNS`; what is not text or a number is JSON.

    Text that a spreadsheet would run as a formula begins with an apostrophe.

    Raises:
        StorageError: the path cannot be written, has other columns, or another run writes it; raised before the loop
            starts.
    """

    def __init__(self, path: Path, *, rotation: Rotation | None = None) -> None:
        self.name = str(path)
        self._lines = LineFile(path, f"{SCHEMA_VERSION},".encode(), header=_row(list(CSV_COLUMNS)), rotation=rotation)

    def write(self, event: Event) -> None:
        """Appends one whole row, or nothing."""
        fields = event.model_dump()
        self._lines.append(_row([_cell(fields.get(column)) for column in CSV_COLUMNS]))

    def close(self, deadline: Deadline) -> None:
        """Closes the file."""
        self._lines.close()


def _lock(file: io.FileIO, path: Path) -> None:
    """Locks the file for as long as it is open, however the process ends."""
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise StorageError(f"another run writes {path}: give each run its own file") from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP):  # network file systems without locks
            raise


def _append(file: io.FileIO, line: bytes) -> None:
    written = 0
    try:
        while written < len(line):
            written += file.write(line[written:])
    except OSError:
        with suppress(OSError):  # a pipe or device cannot be shortened
            os.ftruncate(file.fileno(), os.fstat(file.fileno()).st_size - written)
        raise


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return spreadsheet_cell(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, allow_nan=False)


def _row(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow([cell.replace("\n", r"\n") for cell in cells])
    return text.getvalue().encode() + b"\n"
