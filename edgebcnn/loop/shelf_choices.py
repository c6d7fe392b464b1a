"""Choices of a run about the slots that it watches, and how often it classifies them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgebcnn.bundle import Bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import CameraError
from edgebcnn.loop.frame_rate import IDLE_AFTER_S, IDLE_FPS, FrameRateLimit
from edgebcnn.shelf.slots import load_slots
from edgebcnn.shelf.tracker import ChangeGate
from edgebcnn.shelf.watch import ShelfWatch
from edgebcnn.sources.frames import Source


@dataclass(frozen=True)
class ShelfChoices:
    """Choices of `edgebcnn run` about slots.

    Attributes:
        slots: The slots file; None classifies whole frames.
        recheck_after: Seconds after which an unchanged slot is classified again.
        skip_unchanged: Whether only slots whose pixels change are classified before that.
        max_fps: Frames per second to process of a live source; None for no limit.
        idle_fps: The same while no slot changes; None for `IDLE_FPS`.
        idle_after: Seconds without a change after which that applies; None for `IDLE_AFTER_S`.
    """

    slots: Path | None
    recheck_after: float
    skip_unchanged: bool
    max_fps: float | None
    idle_fps: float | None
    idle_after: float | None

    def watch(self, bundle: Bundle, classifier: Classifier) -> ShelfWatch | None:
        """Opens the slots file; None where there is none."""
        if self.slots is None:
            return None
        return ShelfWatch(
            load_slots(self.slots),
            bundle.labels,
            classifier.scores,
            width_over_height=bundle.manifest.preprocessing.width_over_height,
            min_score=bundle.manifest.scores.min_score if bundle.manifest.scores else None,
            gate=ChangeGate(enabled=self.skip_unchanged, floor_s=self.recheck_after),
        )

    def frame_rate(self, source: Source) -> FrameRateLimit:
        """The limit for a live source; a file is read frame by frame, without a limit."""
        if source.is_live:
            idle_fps = IDLE_FPS if self.idle_fps is None else self.idle_fps
            idle_after_s = IDLE_AFTER_S if self.idle_after is None else self.idle_after
            return FrameRateLimit(self.max_fps, idle_fps if self.slots else None, idle_after_s)
        given = {"--max-fps": self.max_fps, "shelf.idle_fps": self.idle_fps, "shelf.idle_after": self.idle_after}
        for choice, value in given.items():
            if value is not None:
                raise CameraError(f"{source.name} is read frame by frame: omit {choice}, which is for live sources")
        return FrameRateLimit()
