"""Limits how many frames per second the loop reads, and lowers the limit while nothing happens on a shelf."""

from __future__ import annotations

from dataclasses import dataclass

IDLE_FPS, IDLE_AFTER_S = 1.0, 30.0


@dataclass(frozen=True)
class FrameRateLimit:
    """Frames per second at most, and fewer while a shelf is idle, which saves power.

    Attributes:
        fps: Limit; None for no limit.
        idle_fps: Limit while nothing changes; None for the same limit.
        idle_after_s: Seconds without a change after which the shelf counts as idle.
    """

    fps: float | None = None
    idle_fps: float | None = None
    idle_after_s: float = IDLE_AFTER_S

    @property
    def longest_pause_s(self) -> float:
        """The longest time between the starts of two frames under this limit; 0 where there is none."""
        return max((1 / rate for rate in (self.fps, self.idle_fps) if rate), default=0.0)

    def pause_s(self, begun_s: float, now_s: float, *, last_change_s: float | None) -> float:
        """Seconds to wait before the next frame.

        Args:
            begun_s: Start of the last frame.
            now_s: Now, on the same clock.
            last_change_s: Time of the last change on the shelf; None where changes are not watched.
        """
        is_idle = last_change_s is not None and begun_s - last_change_s >= self.idle_after_s
        rates = [rate for rate in (self.fps, self.idle_fps if is_idle else None) if rate is not None]
        return max(0.0, 1 / min(rates) - (now_s - begun_s)) if rates else 0.0
