"""Growing pauses between attempts to reach something that is gone: a camera, a broker, a process."""

from __future__ import annotations


class Backoff:
    """Pauses that double from one attempt to the next.

    Args:
        first_s: The first pause.
        longest_s: The pause that is never exceeded.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self._longest_s = first_s, longest_s
        self._next_s = first_s

    def pause_s(self) -> float:
        """Seconds to wait before the next attempt."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return pause_s

    def reset(self) -> None:
        """Starts again with the first pause, after a success."""
        self._next_s = self._first_s
