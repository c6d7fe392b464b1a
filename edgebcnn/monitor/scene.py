"""The length of a scene: images of one place that are closer in time show the same, and count once.

Agreement counts scenes, because a thousand images of one pack are not a thousand independent samples. A whole frame
changes with every customer; in a slot one pack stands for hours, in light that changes as slowly.
"""

from __future__ import annotations

FRAME_SCENE_S = 10.0
SLOT_SCENE_S = 3600.0


def scene_length_s(given: float | None, *, is_slot: bool) -> float:
    """Returns the seconds within which images of one place count as one scene.

    Args:
        given: Length that a user gave; None for the default of the place.
        is_slot: Whether the place is a slot of a shelf rather than the whole frame.
    """
    if given is not None:
        return given
    return SLOT_SCENE_S if is_slot else FRAME_SCENE_S
