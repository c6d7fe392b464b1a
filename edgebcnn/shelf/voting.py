"""Votes on the product in a slot over many predictions, some of which are wrong."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from edgebcnn.shelf.slots import Rules

MEMORY_VOTES = 6  # once there are more, the oldest fade: one odd look cannot change much, a new pack soon does


class Kind(str, Enum):
    """What kind of thing is in a slot."""

    PRODUCT = "product"
    EMPTY = "empty"
    UNKNOWN = "unknown"
    OCCLUDED = "occluded"


@dataclass(frozen=True)
class Content:
    """What is in a slot: the product `class_id` where it is one."""

    kind: Kind
    class_id: int | None = None


EMPTY, UNKNOWN, OCCLUDED = Content(Kind.EMPTY), Content(Kind.UNKNOWN), Content(Kind.OCCLUDED)


class Ballot:
    """Mean of what the looks at one content said.

    After k votes the next counts 1 / (k + 1), but never less than 1 / `MEMORY_VOTES`: a mean that becomes an
    exponential one.
    """

    def __init__(self, classes: int) -> None:
        self._mean = np.zeros(classes + 1)
        self.count = 0

    @property
    def mean(self) -> NDArray[np.float64]:
        """`(classes + 1,)`: probability of each product, and last of nothing at all."""
        return self._mean

    def add(self, probabilities: NDArray[np.float64]) -> None:
        """Adds one vote, `(classes + 1,)`."""
        self.count += 1
        self._mean = self._mean + (probabilities - self._mean) / min(self.count, MEMORY_VOTES)

    def clear(self) -> None:
        """Forgets all votes: something else may be there now."""
        self.count = 0
        self._mean = np.zeros_like(self._mean)

    def score(self, content: Content) -> float:
        """Voted probability of a content; of an unknown one, what the best product lacks of certainty."""
        if content.kind is Kind.PRODUCT and content.class_id is not None:
            return float(self._mean[content.class_id])
        return float(self._mean[-1]) if content.kind is Kind.EMPTY else float(1 - self._mean.max())


def elect(ballot: Ballot, held: Content | None, rules: Rules) -> Content:
    """What the votes say, where a settled content `held` has the advantage.

    The best content wins if its mean reaches `min_score`. The one held stays as long as it is no more than `margin`
    below `min_score` and below the best. If none is good enough, it is unknown.
    """
    mean = ballot.mean
    best = int(mean.argmax())
    winner = EMPTY if best == len(mean) - 1 else Content(Kind.PRODUCT, best)
    if held is not None and held.kind in (Kind.PRODUCT, Kind.EMPTY):
        of_held = ballot.score(held)
        if of_held >= rules.needed_score - rules.margin and mean[best] - of_held < rules.margin:
            return held
    return winner if mean[best] >= rules.needed_score else UNKNOWN
