"""Which picture is the full model shown next? One a scene, and of slots the one that has waited longest.

A slot is classified when it changes, and seldom otherwise. Were it shown only where it is classified just when the full
model is free, a slot that changes all the time would be shown and its calm neighbours never. So the newest look at each
slot waits for its turn, one small picture a slot at most. Whole frames come all the time: none of them waits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgebcnn.monitor.scene import scene_length_s
from edgebcnn.sources.frames import Frame

_Place = tuple[str | None, str | None]


@dataclass(frozen=True, eq=False)
class Question:
    """A picture that the full model may be shown, and the product that the loop's model named."""

    frame: Frame
    class_id: int


class Turns:
    """What is shown, and what waits for that.

    Args:
        scene_s: Seconds within which pictures of one place count as one scene, of which one is shown; None for what
            suits the place. A photo is a scene of its own.
    """

    def __init__(self, scene_s: float | None) -> None:
        self._scene_s = scene_s
        self._shown_s: dict[_Place, float] = {}
        self._waiting: dict[_Place, Question] = {}

    def offer(self, question: Question, *, at_s: float) -> None:
        """Takes a picture of a new scene; it takes the place of an older one that waits, and its turn.

        Args:
            question: The picture.
            at_s: Now, on a clock that never goes back.
        """
        frame = question.frame
        place = frame.shelf, frame.slot
        length_s = scene_length_s(self._scene_s, is_slot=frame.slot is not None)
        last_s = self._shown_s.get(place, -math.inf)
        if frame.photo is not None or at_s - last_s >= length_s:
            self._waiting[place] = question

    def next(self, *, at_s: float) -> Question | None:
        """The picture that is shown now, of what has waited longest; None where nothing waits."""
        if not self._waiting:
            return None
        place = next(iter(self._waiting))
        self._shown_s[place] = at_s
        return self._waiting.pop(place)
