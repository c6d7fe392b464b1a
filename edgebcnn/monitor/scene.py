"""For how long does a picture of one place tell what another one has told already?

Agreement counts scenes, because a thousand pictures of one pack are not a thousand looks at a model. What a whole frame
shows changes with every customer; in a slot one pack stands for hours, in light that changes as slowly.
"""

from __future__ import annotations

FRAME_SCENE_S = 10.0
SLOT_SCENE_S = 3600.0


def scene_length_s(given: float | None, *, is_slot: bool) -> float:
    """Seconds within which pictures of one place count as one scene.

    Args:
        given: What a user asked for; None for what suits the place.
        is_slot: Whether the place is a slot of a shelf, in place of all that a camera sees.
    """
    if given is not None:
        return given
    return SLOT_SCENE_S if is_slot else FRAME_SCENE_S
