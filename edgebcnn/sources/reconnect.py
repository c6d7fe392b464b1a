"""Sets when a live source counts as lost, and for how long to reconnect."""

from __future__ import annotations

from dataclasses import dataclass

STALL_TIMEOUT_S = 10.0  # longer than a camera's own pauses (exposure change, key frame), shorter than a person waits
MAX_OUTAGE_S = 600.0  # a network that restarts takes minutes; after ten, a fresh process or a person must look
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 1.5  # with the opening itself, a source that returns is read again within 3 s
HEALTHY_S = 5.0  # a source that gives frames for shorter than this and is lost again was never back

SHORTEST_STALL_S = 2.0  # a network that repeats a lost packet pauses for up to a second
STALL_INTERVALS = 20  # a camera that misses so many of its own frame intervals is gone


@dataclass(frozen=True)
class Patience:
    """When a live source counts as lost, and for how long it reconnects.

    Attributes:
        stall_timeout_s: Longest time without a frame. A source that gave frames faster is lost sooner: after
            `STALL_INTERVALS` of its frame intervals, at least `SHORTEST_STALL_S`.
        max_outage_s: Budget of a loss: the run ends when the source was away for so long, or kept coming back for
            moments only. 0 ends it at the first loss.
    """

    stall_timeout_s: float = STALL_TIMEOUT_S
    max_outage_s: float = MAX_OUTAGE_S

    def stall_s(self, interval_s: float | None) -> float:
        """How long a source with that frame interval may be silent; None before its second frame."""
        if interval_s is None:
            return self.stall_timeout_s
        return min(self.stall_timeout_s, max(SHORTEST_STALL_S, STALL_INTERVALS * interval_s))
