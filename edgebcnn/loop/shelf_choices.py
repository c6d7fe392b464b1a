"""Which slots did the user ask to watch, and how little work may that take?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgebcnn.bundle import Bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import CameraError
from edgebcnn.loop.pace import IDLE_AFTER_S, IDLE_FPS, Pace
from edgebcnn.shelf.slots import load_slots
from edgebcnn.shelf.tracker import ChangeGate
from edgebcnn.shelf.watch import ShelfWatch
from edgebcnn.sources.frames import Source


@dataclass(frozen=True)
class ShelfChoices:
    """The flags of `edgebcnn run` about slots, as they were given."""

    slots: Path | None
    floor: float
    no_gate: bool
    fps: float | None
    idle_fps: float | None
    idle_after: float | None

    def watch(self, bundle: Bundle, classifier: Classifier) -> ShelfWatch | None:
        """The watch of the slots file, where there is one."""
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

    def pace(self, source: Source) -> Pace:
        """How fast a live source is read; a file is read frame by frame, as fast as it can be."""
        if source.is_live:
            idle_fps = IDLE_FPS if self.idle_fps is None else self.idle_fps
            idle_after_s = IDLE_AFTER_S if self.idle_after is None else self.idle_after
            return Pace(self.fps, idle_fps if self.slots else None, idle_after_s)
        given = {"--fps": self.fps, "--idle-fps": self.idle_fps, "--idle-after": self.idle_after}
        for flag, value in given.items():
            if value is not None:
                raise CameraError(f"{source.name} is read frame by frame: leave out {flag}, which is for live sources")
        return Pace()
