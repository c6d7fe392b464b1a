"""The options of `edgebcnn run` for watching the slots of a shelf."""

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
    """The flags of `edgebcnn run` about slots, as given."""

    slots: Path | None
    floor: float
    no_gate: bool
    fps: float | None
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
            gate=ChangeGate(enabled=not self.no_gate, floor_s=self.floor),
        )

    def frame_rate(self, source: Source) -> FrameRateLimit:
        """The limit for a live source; a file is read frame by frame, without a limit."""
        if source.is_live:
            idle_fps = IDLE_FPS if self.idle_fps is None else self.idle_fps
            idle_after_s = IDLE_AFTER_S if self.idle_after is None else self.idle_after
            return FrameRateLimit(self.fps, idle_fps if self.slots else None, idle_after_s)
        given = {"--fps": self.fps, "--idle-fps": self.idle_fps, "--idle-after": self.idle_after}
        for flag, value in given.items():
            if value is not None:
                raise CameraError(f"{source.name} is read frame by frame: leave out {flag}, which is for live sources")
        return FrameRateLimit()
