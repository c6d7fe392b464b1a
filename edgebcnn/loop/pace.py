"""How many frames a second are worth reading, now that nothing happens?"""

from __future__ import annotations

from dataclasses import dataclass

IDLE_FPS, IDLE_AFTER_S = 1.0, 30.0


@dataclass(frozen=True)
class Pace:
    """Frames a second, and fewer while a shelf rests: processor and battery rest with it.

    Attributes:
        fps: At most so many; None for as many as can be.
        idle_fps: At most so many while nothing changes; None for no difference.
        idle_after_s: How long nothing must have changed.
    """

    fps: float | None = None
    idle_fps: float | None = None
    idle_after_s: float = IDLE_AFTER_S

    def pause_s(self, begun_s: float, now_s: float, *, last_change_s: float | None) -> float:
        """How long to wait before the next frame.

        Args:
            begun_s: When the last frame was begun.
            now_s: Now, on the same clock.
            last_change_s: When something on the shelf last changed; None where nobody watches for that.
        """
        rests = last_change_s is not None and begun_s - last_change_s >= self.idle_after_s
        rates = [rate for rate in (self.fps, self.idle_fps if rests else None) if rate is not None]
        return max(0.0, 1 / min(rates) - (now_s - begun_s)) if rates else 0.0
