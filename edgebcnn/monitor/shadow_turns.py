"""Chooses the image that the full model classifies next: one per scene, and of slots the one that has waited longest.

A slot is classified when it changes, and rarely otherwise. If a slot were taken only when it is classified just as the
full model is free, a slot that changes all the time would always be taken and its calm neighbors never. So the newest
image of each slot waits for its turn, one small image per slot. Whole frames come all the time, and none of them waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgebcnn.monitor.scene import scene_length_s
from edgebcnn.sources.frames import Frame

_Place = tuple[str | None, str | None]


@dataclass(frozen=True, eq=False)
class SceneImage:
    """An image for the full model, and the product that the edge model predicted."""

    frame: Frame
    class_id: int


class SceneQueue:
    """The images that wait for the full model.

    Args:
        scene_s: Seconds within which images of one place count as one scene, of which one is used; None for the
            default of the place. Each photo is a scene.
    """

    def __init__(self, scene_s: float | None) -> None:
        self._scene_s = scene_s
        self._used_s: dict[_Place, float] = {}
        self._waiting: dict[_Place, SceneImage] = {}

    def offer(self, image: SceneImage, *, at_s: float) -> None:
        """Queues an image of a new scene; it replaces an older image of its place, and takes over its turn.

        Args:
            image: The image.
            at_s: Now, on a monotonic clock.
        """
        frame = image.frame
        place = frame.shelf, frame.slot
        length_s = scene_length_s(self._scene_s, is_slot=frame.slot is not None)
        last_s = self._used_s.get(place, -math.inf)
        if frame.photo is not None or at_s - last_s >= length_s:
            self._waiting[place] = image

    def next(self, *, at_s: float) -> SceneImage | None:
        """Returns the image that has waited longest; None where none waits."""
        if not self._waiting:
            return None
        place = next(iter(self._waiting))
        self._used_s[place] = at_s
        return self._waiting.pop(place)
