"""Keeps events that a broker or server has not taken yet, in memory and in a SQLite file, in order.

A few wait in memory while the other side keeps up. Once it is slow or gone they wait in the file, which survives a kill
or a power cut, and the next run continues with them.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from edgebcnn.atomic import storage_errors
from edgebcnn.errors import StorageError

IN_MEMORY = 64  # events that a kill can cost while the other side keeps up; writing each to the disk wears it out

# Exclusive: two runs that drained one file would deliver twice. A write-ahead log with NORMAL needs no flush for each
# event, and a power cut may cost the last seconds but never the file.
_SCHEMA = """
PRAGMA locking_mode=EXCLUSIVE;
PRAGMA journal_mode=WAL;
PRAGMA synchronous=NORMAL;
PRAGMA wal_autocheckpoint=100;
CREATE TABLE IF NOT EXISTS waiting (number INTEGER PRIMARY KEY, subtopic TEXT, holds INTEGER, body BLOB);
"""


@dataclass(frozen=True)
class Message:
    """An event on its way: its destination and its bytes.

    Attributes:
        number: Its place in the backlog; 0 before it has one.
        subtopic: Subtopic of the event.
        holds_until_next: Whether the event reports a state that lasts.
        body: The event as JSON.
    """

    number: int
    subtopic: str
    holds_until_next: bool
    body: bytes


class Backlog:
    """A first-in-first-out queue of messages, in memory and on disk, for one thread that adds and one that removes.

    Attributes:
        path: The SQLite file.
        dropped: Messages dropped, oldest first, because the file reached its size limit.
        damaged: Where an unreadable file was moved to; None where there was none.

    Raises:
        StorageError: the file cannot be written, or another run uses it.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self.path = path
        self.dropped = 0
        self.damaged: Path | None = None
        self._max_bytes = max_bytes
        self._changed = threading.Condition()
        self._memory: deque[Message] = deque()
        self._spares_disk = True
        self._is_closed = False
        with storage_errors(path):
            self._made = [each for each in (path, *path.parents) if not each.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            self._disk = self._opened()
        self._on_disk: int
        self._bytes: int
        self._on_disk, self._bytes, newest = self._disk.execute(
            "SELECT count(*), coalesce(sum(length(body)), 0), coalesce(max(number), 0) FROM waiting"
        ).fetchone()
        self._next = newest + 1
        self._lent = self._delivered = 0  # up to these numbers they are with the sender, and done with

    def __len__(self) -> int:
        """Messages that wait."""
        return len(self._memory) + self._on_disk

    def append(self, subtopic: str, body: bytes, *, holds_until_next: bool) -> None:
        """Adds the newest message.

        Raises:
            StorageError: the disk is full; the message was not added.
        """
        with self._changed:
            message = Message(self._next, subtopic, holds_until_next, body)
            if self._spares_disk and not self._on_disk and len(self._memory) < IN_MEMORY:
                self._memory.append(message)
            else:
                self._save([message])
                self._drop_what_is_too_much()
            self._next += 1
            self._changed.notify_all()

    def first(self, limit: int, *, wait_s: float) -> Sequence[Message]:
        """Returns the oldest messages, which stay until `remove`; none where none came within the wait."""
        with self._changed:
            if not len(self):
                self._changed.wait(wait_s)
            if self._is_closed:
                return []
            oldest = list(islice(self._memory, limit)) or self._read(limit)
            self._lent = oldest[-1].number if oldest else self._lent
            return oldest

    def wake(self) -> None:
        """Ends the wait of `first`."""
        with self._changed:
            self._changed.notify_all()

    def remove(self, messages: Sequence[Message]) -> None:
        """Removes the oldest messages, which were delivered."""
        with self._changed:
            if self._is_closed or not messages:
                return
            for message in messages:
                if self._memory and self._memory[0].number == message.number:
                    self._memory.popleft()
                else:
                    self._on_disk, self._bytes = self._on_disk - 1, self._bytes - len(message.body)
            self._delivered = messages[-1].number
            # On a full disk not even this works: the next removal takes them along.
            with suppress(StorageError):
                self._change("DELETE FROM waiting WHERE number <= ?", [(self._delivered,)])

    def spare_the_disk(self, spare: bool) -> None:
        """Sets whether a few messages stay in memory, because the other side keeps up, or all go to the disk.

        Raises:
            StorageError: the disk is full; what is in memory stays there.
        """
        with self._changed:
            self._spares_disk = spare
            if not spare:
                self._empty_memory()

    def close(self) -> None:
        """Saves waiting messages; a run that never had a message leaves no new file.

        Raises:
            StorageError: the disk is full.
        """
        with self._changed:
            try:
                self._empty_memory()
            finally:
                self._is_closed = True
                self._disk.close()
                if self._next == 1:
                    self._remove_what_was_made()
                self._changed.notify_all()

    def _remove_what_was_made(self) -> None:
        with suppress(OSError):  # somebody put something else there meanwhile: it stays
            for made in self._made:
                if made == self.path:
                    made.unlink()
                else:
                    made.rmdir()

    def _opened(self) -> sqlite3.Connection:
        try:
            return _connected(self.path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StorageError(f"another run uses {self.path}: give each run its own events.spool") from error
            raise StorageError(f"cannot write {self.path}: {error}; choose a path that you can write") from error
        except sqlite3.DatabaseError:
            self.damaged = self.path.with_suffix(".damaged")
            self.path.replace(self.damaged)
            return _connected(self.path)

    def _read(self, limit: int) -> list[Message]:
        query = "SELECT number, subtopic, holds, body FROM waiting WHERE number > ? ORDER BY number LIMIT ?"
        with _errors_of(self.path):
            rows = self._disk.execute(query, [self._delivered, limit]).fetchall()
        return [Message(number, subtopic, bool(holds), body) for number, subtopic, holds, body in rows]

    def _save(self, messages: Sequence[Message]) -> None:
        rows = [(each.number, each.subtopic, each.holds_until_next, each.body) for each in messages]
        self._change("INSERT INTO waiting VALUES (?, ?, ?, ?)", rows)
        self._on_disk += len(rows)
        self._bytes += sum(len(each.body) for each in messages)

    def _change(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        with _errors_of(self.path):
            try:
                with self._disk:
                    self._disk.executemany(statement, rows)
            except sqlite3.OperationalError:  # full: the log may be what fills the disk, so empty it and try again
                self._disk.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                with self._disk:
                    self._disk.executemany(statement, rows)

    def _empty_memory(self) -> None:
        if self._memory:
            self._save(self._memory)
            self._memory.clear()

    def _drop_what_is_too_much(self) -> None:
        query = "SELECT number, length(body) FROM waiting WHERE number > ? ORDER BY number LIMIT 1"
        while self._bytes > self._max_bytes:
            with _errors_of(self.path):
                oldest = self._disk.execute(query, [self._lent]).fetchone()
            if oldest is None:
                return
            self._change("DELETE FROM waiting WHERE number = ?", [oldest[:1]])
            self._on_disk, self._bytes, self.dropped = self._on_disk - 1, self._bytes - oldest[1], self.dropped + 1


def _connected(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=0.5, check_same_thread=False)  # we hold a lock of our own
    try:
        connection.executescript(_SCHEMA)
        return connection
    except BaseException:
        connection.close()
        raise


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StorageError(f"cannot write {path}: {error}; free some space and try again") from error
