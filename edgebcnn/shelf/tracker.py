"""Decides when a slot is worth a classification, and when its state is settled.

A slot is looked at in every frame, by its pixels alone, and classified only when that can tell something:

    pixels move            nothing is judged: a hand, a person, a pack on its way
    pixels are still       classified a few times if they differ from what was classified last,
                           then once every `floor_s` seconds: pixels that stay need no second opinion
    like the empty shelf   counted as empty, without a classification
    still, and changed     something stands in the way, whatever the model takes it for: people's clothes are products
    like all around it     to a model that was never shown any

A content that the votes name for `settle_s` is settled; what is in the way for `occluded_after_s` makes it occluded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebcnn.shelf.appearance import ANY_LIGHT_GAIN, CELL_TOLERANCE, LIGHT_GAIN, Look, changed_share, noise_tolerance
from edgebcnn.shelf.slots import Rules
from edgebcnn.shelf.voting import OCCLUDED, Ballot, Content, elect

CHANGED_SHARE = 0.10  # of a slot's cells; a shake by half a pixel changes 7 % as a rule, a look-alike pack 19 % or more
VEILED_SHARE = 0.35  # of the cells around a slot: a pack that sticks out changes 25 %, a person half of them or more
UNVEILED_SHARE = 0.25  # who sways at the edge of the other share is still there; light that leans changes up to 20 %
EMPTY_SHARE = 0.15  # of the cells that may differ from the empty shelf; a pack differs in 60 % or more
TOLERANCE_GROWTH = 1.02  # a frame: the camera's noise grows at dusk, not from one frame to the next
MIN_AROUND_CELLS = 12  # fewer say nothing
STILL_S = 0.3  # after a movement, before a slot is believed to be still
MIN_VOTES = 4  # votes without which nothing is settled: two of each view
ACCEPTED_AFTER_S = 20.0  # nobody stands so still for so long: it is a part of the shelf


@dataclass(frozen=True)
class ChangeGate:
    """How much is looked at without being classified.

    Attributes:
        enabled: Where it is not, every slot is classified in every frame.
        floor_s: A slot that does not change is classified once in so many seconds all the same.
    """

    enabled: bool = True
    floor_s: float = 10.0


class SlotTracker:
    """One slot over time.

    Attributes:
        state: What is settled, or None before anything is.
        score: Its voted probability when it settled; None where it is occluded.
        from_closer: Whether the next vote should be on the closer view of the slot; every other one is.
    """

    def __init__(self, classes: int, rules: Rules, *, gate: ChangeGate, empty: Look | None = None) -> None:
        self._rules, self._gate, self._empty = rules, gate, empty
        self._ballot = Ballot(classes)
        self._nothing = np.zeros(classes + 1)
        self._nothing[-1] = 1.0
        self._slot: Look | None = None
        self._tolerance = math.inf
        self._look_around: Callable[[], Look] | None = None
        self._clear_around: Look | None = None
        self._voted_on: Look | None = None
        self._voted_veiled = False
        self._voted_s = self._moved_s = self._cleared_s = -math.inf
        self._in_the_way_since_s: float | None = None
        self._candidate: tuple[Content, float] | None = None
        self._content: Content | None = None
        self.from_closer = False
        self.state: Content | None = None
        self.score: float | None = None

    @property
    def votes(self) -> NDArray[np.float64] | None:
        """Mean of the votes so far, as `Ballot.mean`; None before the first."""
        return self._ballot.mean if self._ballot.count else None

    @property
    def is_busy(self) -> bool:
        """Whether something moves or waits to be settled."""
        pending = self._candidate is None or self._candidate[0] != self.state
        return pending or self._in_the_way_since_s is not None

    @property
    def is_contradicted(self) -> bool:
        """Whether the newest frames do not show what is settled: it moves, or another content waits to settle."""
        if self.state is None:
            return False
        return self._candidate is not None if self.state == OCCLUDED else self.is_busy

    def look(self, slot: Look, around: Callable[[], Look], *, at_s: float) -> bool:
        """Takes in one frame.

        Args:
            slot: The slot in the frame.
            around: Gives what is near it and in no slot; called while the frame is the last one, where it matters.
            at_s: When the frame was taken, on a clock that never goes back.

        Returns:
            Whether the slot should be classified, and `vote` called with the answer.
        """
        if self._slot is not None:
            # Movement looks like noise for a while; the quietest frames of late know better.
            self._tolerance = min(noise_tolerance(self._slot, slot), TOLERANCE_GROWTH * self._tolerance)
            if self._differ(self._slot, slot) > CHANGED_SHARE:
                self._moved_s = at_s
        self._slot, self._look_around = slot, around
        if not self._gate.enabled:
            return True
        if not self._is_still(at_s) or not self._wants_vote(at_s):
            return False
        if self._looks_empty():
            self._count(self._nothing, at_s)
            return False
        return True

    def vote(self, probabilities: NDArray[np.float64], *, at_s: float) -> None:
        """Takes in what the model says of the frame last looked at, `(classes + 1,)`, the last for nothing there."""
        if self._is_still(at_s):
            self._count(self._nothing if self._looks_empty() else probabilities, at_s)

    def settle(self, *, at_s: float) -> bool:
        """Draws the conclusions from one frame; True if the settled state changed."""
        content = self._judged(at_s)
        if content is None:
            return self._lack(at_s)
        self._in_the_way_since_s = None
        if self._candidate is None or self._candidate[0] != content:
            self._candidate = content, at_s
        has_held = at_s - self._candidate[1] >= self._rules.settle_s
        return has_held and self._ballot.count >= MIN_VOTES and self._settle_on(content)

    def miss(self, *, at_s: float) -> bool:
        """Takes in a frame that shows nothing at all; True if the settled state changed."""
        self._moved_s = at_s
        return self._lack(at_s)

    def _lack(self, at_s: float) -> bool:
        """Notes that the slot cannot be judged now; True if it has been so for long enough to be occluded."""
        self._candidate = None
        if self._in_the_way_since_s is None:
            self._in_the_way_since_s = at_s
        lasts = at_s - self._in_the_way_since_s >= self._rules.occluded_after_s
        return lasts and self._settle_on(OCCLUDED)

    def _judged(self, at_s: float) -> Content | None:
        """What the votes say is there; None while something is in the way."""
        if not self._is_still(at_s) or not self._ballot.count:
            return None
        content = elect(self._ballot, self._content, self._rules)
        if not self._voted_veiled:
            return content
        around = self._around()
        if self._has_stood(at_s):
            self._clear_around, self._cleared_s = around, at_s
        self._voted_veiled = self._differing_around(around) > UNVEILED_SHARE
        return None if self._voted_veiled else content

    def _settle_on(self, content: Content) -> bool:
        if content != OCCLUDED:
            self._content = content
        if content == self.state:
            return False
        self.state = content
        self.score = None if content == OCCLUDED else self._ballot.score(content)
        return True

    def _count(self, probabilities: NDArray[np.float64], at_s: float) -> None:
        """Takes in a vote on the frame last looked at; a first one where the slot has changed."""
        if self._has_changed():
            self._ballot.clear()
            self._candidate = None
        around = self._around()
        differing = self._differing_around(around)
        self._voted_veiled = differing > (UNVEILED_SHARE if self._voted_veiled else VEILED_SHARE)
        # An elbow at the edge must not become a part of the shelf, nor creep in frame by frame.
        is_due = self._clear_around is None or at_s - self._cleared_s >= self._gate.floor_s
        if is_due and differing <= CHANGED_SHARE:
            self._clear_around, self._cleared_s = around, at_s
        self._voted_on, self._voted_s = self._slot, at_s
        self._ballot.add(probabilities)
        self.from_closer = not self.from_closer

    def _wants_vote(self, at_s: float) -> bool:
        waited_s = at_s - self._voted_s
        is_open = self._ballot.count < MIN_VOTES or (self._candidate is not None and self._candidate[0] != self.state)
        is_due = waited_s >= self._gate.floor_s or (is_open and waited_s >= self._rules.settle_s / MIN_VOTES)
        return is_due or self._has_changed()

    def _has_changed(self) -> bool:
        return self._voted_on is None or self._differ(self._voted_on, _known(self._slot)) > CHANGED_SHARE

    def _looks_empty(self) -> bool:
        if self._empty is None:
            return False
        return self._differ(self._empty, _known(self._slot), ANY_LIGHT_GAIN) <= EMPTY_SHARE

    def _is_still(self, at_s: float) -> bool:
        return at_s - self._moved_s >= STILL_S

    def _around(self) -> Look:
        assert self._look_around is not None, "look comes first"
        return self._look_around()

    def _differing_around(self, around: Look) -> float:
        """Share of what is around the slot that looks other than when nothing was in the way, in whatever light."""
        if self._clear_around is None or len(around.cells) < MIN_AROUND_CELLS:
            return 0.0
        return self._differ(self._clear_around, around, ANY_LIGHT_GAIN)

    def _differ(self, before: Look, now: Look, max_gain: float = LIGHT_GAIN) -> float:
        tolerance = self._tolerance if math.isfinite(self._tolerance) else CELL_TOLERANCE
        return changed_share(before, now, tolerance=tolerance, max_gain=max_gain)

    def _has_stood(self, at_s: float) -> bool:
        """Whether what is in the way has not moved for so long that it belongs there."""
        since_s = self._in_the_way_since_s
        return since_s is not None and at_s - max(since_s, self._moved_s) >= ACCEPTED_AFTER_S


def _known(look: Look | None) -> Look:
    assert look is not None, "look comes first"
    return look
