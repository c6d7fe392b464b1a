"""Does the loop still turn, and who is told when it does not?

Each stage of a turn says that it begins. A thread looks by the monotonic clock, which a corrected wall clock does not
touch, whether one has taken too long: native code that hangs cannot be interrupted, but it can be seen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HANG_S = 30.0  # the slowest board classifies a frame within seconds
LOOK_EVERY_S = 1.0

OnHang = Callable[[str, float], None]
"""Called once with the stage that hangs and for how long, in the watchdog's thread."""


class Watchdog:
    """Watches the stages of a loop while its block runs.

    Args:
        on_hang: Told once when a stage hangs.
        on_turn: Called each second in which nothing hangs, in the watchdog's thread.
        hang_s: How long a stage may take.
    """

    def __init__(self, *, on_hang: OnHang, on_turn: Callable[[], None] = lambda: None, hang_s: float = HANG_S) -> None:
        self._on_hang, self._on_turn, self._hang_s = on_hang, on_turn, hang_s
        self._stage = ("start", time.monotonic())

    def enter(self, stage: str) -> None:
        """The stage before is over, and this one begins."""
        self._stage = (stage, time.monotonic())  # one assignment, so that no lock is needed

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches until the block ends."""
        over = threading.Event()
        thread = threading.Thread(target=self._watch, args=(over,), name="watchdog", daemon=True)
        self.enter("start")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(LOOK_EVERY_S)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(min(LOOK_EVERY_S, self._hang_s / 4)):
            stage, since_s = self._stage
            took_s = time.monotonic() - since_s
            if took_s > self._hang_s:
                self._on_hang(stage, took_s)
                return
            self._on_turn()
