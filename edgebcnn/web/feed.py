"""Produces the updates of a page once for all clients, so that many cost the loop no more than one."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from edgebcnn.worker import BackgroundTask

AGAIN_S = 5.0  # what did not change is sent again, so that a client that is gone without closing is noticed


class Feed:
    """Makes items in a background thread, at a steady rate and only while a client listens.

    What the thread waits for, such as a slow disk, delays neither the loop nor the server.

    Args:
        name: For the thread.
        make: Makes the next one, or None where there is nothing new.
        every_s: Least time from one to the next.
        on_failure: Called with the reason when `make` failed; the next attempt follows all the same.
    """

    def __init__(
        self, name: str, make: Callable[[], bytes | None], *, every_s: float, on_failure: Callable[[Exception], None]
    ) -> None:
        self._make, self._every_s, self._on_failure = make, every_s, on_failure
        self._wanted = threading.Event()
        self._task = BackgroundTask(f"web {name}", self._work)
        self._listeners = self._number = 0
        self._item, self._checked_s = b"", 0.0

    def start(self) -> None:
        """Starts the thread; called within the event loop that iterates over `items`."""
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._task.start()

    def end(self) -> None:
        """Ends every client's iteration; called within the same event loop."""
        self._task.stop()
        self._wanted.set()
        self._tell()

    async def items(self) -> AsyncIterator[bytes]:
        """Yields the current item and then each new one; a client that is too slow misses some."""
        self._listeners += 1
        self._wanted.set()
        fresh_s = time.monotonic() - self._every_s
        seen, sent_s = 0, 0.0
        try:
            while not self._task.is_stopping:
                news, now_s = self._news, time.monotonic()
                if self._checked_s >= fresh_s and (self._number != seen or (seen and now_s - sent_s > AGAIN_S)):
                    seen, sent_s = self._number, now_s
                    yield self._item
                else:
                    await news.wait()
        finally:
            self._listeners -= 1
            if not self._listeners and not self._task.is_stopping:
                self._wanted.clear()

    def _put(self, item: bytes | None) -> None:
        self._checked_s = time.monotonic()
        if item is not None:
            self._item = item
            self._number += 1
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _work(self) -> None:
        while self._wanted.wait() and not self._task.is_stopping:
            try:
                item = self._make()
            except Exception as error:  # a page that fails must not end the run
                self._on_failure(error)
            else:
                with suppress(RuntimeError):  # the event loop is closed: it ended in the meantime
                    self._loop.call_soon_threadsafe(self._put, item)
            self._task.pause(self._every_s)
