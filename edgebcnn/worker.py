"""Threads that work in the background: their queue, their deadline at the end, and how their failures are raised.

`BackgroundTask` runs one function until it is stopped. `Worker` handles queued items, one at a time, so that a slow
disk, network or model never delays the thread that queues them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Generic, TypeVar

from edgebcnn.errors import StorageError

PATIENCE_S = 20.0  # a disk that was full for longer needs a person; less than what a watchdog takes for a hang
POLL_S = 0.05  # how soon a wait notices that it should end early
DRAIN_S = 10.0  # at the end of a source: nobody waits
HURRIED_DRAIN_S = 0.4  # after a signal, so that everything has ended within a second
GRACE_S = 0.4  # after the deadline, for the item in hand and for saving what could not be delivered

Item = TypeVar("Item")


class WhenFull(Enum):
    """What `Worker.put` does when the queue is full."""

    DROP_OLDEST = "drop oldest"  # the oldest queued item makes room
    DROP_NEWEST = "drop newest"  # the new item is not queued
    WAIT = "wait"  # the caller waits for room, for the worker's patience at most, and then fails


class Deadline:
    """The time by which queued items must be handled; it moves closer as soon as `in_a_hurry` is true.

    Args:
        in_a_hurry: Whether somebody waits for the end, as after Ctrl-C.
        drain_s: Seconds from now, where nobody does.
    """

    def __init__(self, in_a_hurry: Callable[[], bool] = lambda: False, *, drain_s: float = DRAIN_S) -> None:
        self._in_a_hurry = in_a_hurry
        self._end_s = time.monotonic() + drain_s

    @property
    def remaining_s(self) -> float:
        """Seconds that are left, 0 once the deadline has passed."""
        if self._in_a_hurry():
            self._end_s = min(self._end_s, time.monotonic() + HURRIED_DRAIN_S)
        return max(0.0, self._end_s - time.monotonic())


class BackgroundTask:
    """A thread that runs one function and keeps its exception for the thread that started it.

    The thread is a daemon: one that hangs in native code or in the network does not keep the process alive.

    Args:
        name: Name of the thread.
        run: What to run; it should return soon after `stop`.
    """

    def __init__(self, name: str, run: Callable[[], None]) -> None:
        self._run = run
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run_guarded, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Asks the thread to end; does not wait for it."""
        self._stopping.set()

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

    @property
    def is_alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def failure(self) -> Exception | None:
        """The exception that ended the function; None while there is none."""
        return self._failure

    def raise_failure(self) -> None:
        """Raises the exception that ended the function, if one did."""
        if self._failure:
            raise self._failure

    def pause(self, seconds: float) -> bool:
        """Waits, and no longer than until `stop`; called from within the thread.

        Returns:
            Whether the task is stopping.
        """
        return self._stopping.wait(seconds)

    def join(self, timeout_s: float) -> None:
        """Waits for the end of the thread, for that long at most."""
        self._thread.join(timeout_s)

    def join_until(self, deadline: Deadline, *, unless: Callable[[], bool] = lambda: False) -> None:
        """Waits until the thread ends, the deadline passes, or `unless` is true."""
        while self._thread.is_alive() and deadline.remaining_s and not unless():
            self._thread.join(POLL_S)

    def _run_guarded(self) -> None:
        try:
            self._run()
        except Exception as error:  # whatever it is, `raise_failure` raises it in the thread that started this one
            self._failure = error


class Worker(BackgroundTask, Generic[Item]):
    """A thread that handles the items of a bounded queue, one at a time and in order; starts at once.

    Args:
        name: Name of the thread.
        handle: Handles one item; an exception ends the worker.
        capacity: Items that the queue holds.
        when_full: What `put` does with a full queue.
        on_close: Called once in the thread after the last item, however the worker ended.
        in_a_hurry: Whether somebody waits for the end, as after Ctrl-C.
        drain_s: Seconds for queued items after `start_to_close`.
        patience_s: Seconds after which `put` gives up waiting for room.
        label: What messages call the worker, by default its name.
    """

    def __init__(
        self,
        name: str,
        handle: Callable[[Item], None],
        *,
        capacity: int,
        when_full: WhenFull = WhenFull.DROP_NEWEST,
        on_close: Callable[[Deadline], None] = lambda deadline: None,
        in_a_hurry: Callable[[], bool] = lambda: False,
        drain_s: float = DRAIN_S,
        patience_s: float = PATIENCE_S,
        label: str = "",
    ) -> None:
        super().__init__(name, self._handle_until_closed)
        self._handle, self._on_close, self._in_a_hurry = handle, on_close, in_a_hurry
        self._capacity, self._when_full, self._patience_s = capacity, when_full, patience_s
        self._drain_s, self._label = drain_s, label or name
        self._queue: deque[Item] = deque()
        self._changed = threading.Condition()
        self._in_hand = self._handled = self._dropped = 0
        self._deadline: Deadline | None = None
        self.start()

    def __len__(self) -> int:
        """Items in the queue, without the one in hand."""
        return len(self._queue)

    @property
    def is_idle(self) -> bool:
        """Whether no item is queued or in hand."""
        with self._changed:
            return not self._queue and not self._in_hand

    @property
    def is_late(self) -> bool:
        """Whether the worker is closing and its deadline has passed."""
        return self._deadline is not None and not self._deadline.remaining_s

    @property
    def handled(self) -> int:
        """Items that were handled without an exception."""
        return self._handled

    @property
    def dropped(self) -> int:
        """Items that were never handled: the queue was full, or they were left over at the end."""
        return self._dropped

    def put(self, item: Item) -> None:
        """Queues an item, or drops one where the queue is full.

        Raises:
            Exception: the one that ended the worker.
            StorageError: with `WhenFull.WAIT`, there was no room for too long.
        """
        with self._changed:
            self.raise_failure()
            if len(self._queue) >= self._capacity and not self._make_room():
                self._dropped += 1
                return
            self._queue.append(item)
            self._changed.notify_all()

    def start_to_close(self) -> None:
        """Lets the thread end once the queue is empty, or at the deadline; does not wait for it."""
        with self._changed:
            self._deadline = self._deadline or Deadline(self._in_a_hurry, drain_s=self._drain_s)
            self._changed.notify_all()
        self.stop()

    def finish(self) -> int:
        """Closes, waits for the end of the thread, and counts what is left over as dropped.

        Returns:
            Number of items left over.

        Raises:
            Exception: the one that ended the worker.
        """
        self.start_to_close()
        assert self._deadline is not None
        self.join_until(self._deadline)
        self.join(GRACE_S)
        with self._changed:
            left_over = len(self._queue) + self._in_hand
            self._dropped, self._in_hand = self._dropped + left_over, 0
            self._queue.clear()
            self.raise_failure()
        return left_over

    def _make_room(self) -> bool:
        """Whether the item may be queued; the condition is held."""
        if self._when_full is WhenFull.DROP_NEWEST:
            return False
        if self._when_full is WhenFull.DROP_OLDEST:
            self._queue.popleft()
            self._dropped += 1
            return True
        give_up_s = time.monotonic() + self._patience_s
        while len(self._queue) >= self._capacity and not self.failure and not self._in_a_hurry():
            self._changed.wait(POLL_S)
            if time.monotonic() > give_up_s:
                raise StorageError(
                    f"{self._label} has taken nothing for {self._patience_s:g} s: check its disk and try again"
                )
        return True

    def _handle_until_closed(self) -> None:
        try:
            while (item := self._next()) is not None:
                self._handle(item)
                with self._changed:
                    self._in_hand, self._handled = 0, self._handled + 1
        finally:
            self.start_to_close()
            assert self._deadline is not None
            self._on_close(self._deadline)

    def _next(self) -> Item | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._deadline)
            if not self._queue or self.is_late:
                return None
            self._in_hand = 1
            item = self._queue.popleft()
            self._changed.notify_all()
            return item
