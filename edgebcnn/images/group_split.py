"""Assigns groups of photos to splits, close to the requested shares of each product and without dividing a group.

A greedy search in the manner of iterative stratification (Sechidis, Tsoumakas, Vlahavas 2011, "On the Stratification of
Multi-Label Data"), with groups instead of single examples. scikit-learn's StratifiedGroupKFold makes folds of one size
only, so that fractions would have to be put together from ten or twenty of them, each as large as the largest group.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

# What one photo that train lacks costs, times the product's photos: more than any other consideration.
_LACKING_COST = 100.0
_EMPTY_COST = 10.0  # of a split that lacks the product: each gets some where the product has enough groups
_MAX_PASSES = 20
_EVERYTHING = -1  # stands for a product that every photo shows: keeps the splits' total sizes near the target


def assign(
    groups: Sequence[Mapping[int, int]], fractions: Mapping[str, float], *, min_train: int, rng: random.Random
) -> list[str]:
    """Chooses a split for each group.

    The cost of a choice is Σ (n - f·N)² / N over products and splits, for a product of N photos of which n are in a
    split that asks for the share f. Added to it are the costs above, first of all for a product with fewer than
    `min_train` photos in train. Groups are placed from the largest to the smallest, each where it costs least, and then
    moved one by one while that lowers the cost.

    Args:
        groups: For each group, how many photos of which class ids it holds.
        fractions: Share of the photos that each split asks for; `train` is one of them; in sum 1.
        min_train: Photos of each product that train needs.
        rng: Orders groups of one size.

    Returns:
        For each group its split.
    """
    counts = [{**group, _EVERYTHING: sum(group.values())} for group in groups]
    cost = _Cost(counts, fractions, min_train)
    order = rng.sample(range(len(counts)), len(counts))
    order.sort(key=lambda index: -counts[index][_EVERYTHING])
    chosen: dict[int, str] = {}
    for index in order:
        chosen[index] = min(fractions, key=lambda split: cost.of_adding(counts[index], split))
        cost.add(counts[index], chosen[index])
    for _ in range(_MAX_PASSES):
        if not any([_moved(index, counts[index], chosen, fractions, cost) for index in order]):
            break
    return [chosen[index] for index in range(len(counts))]


def _moved(
    index: int, group: Mapping[int, int], chosen: dict[int, str], fractions: Mapping[str, float], cost: _Cost
) -> bool:
    """Whether the group found a better split."""
    before = chosen[index]
    cost.add(group, before, sign=-1)
    costs = {split: cost.of_adding(group, split) for split in fractions}
    best = min(costs, key=costs.__getitem__)
    if costs[best] > costs[before] - 1e-9:  # rounding must not move it to and fro
        best = before
    chosen[index] = best
    cost.add(group, best)
    return best != before


class _Cost:
    """The counts of each product in each split so far, and what they cost."""

    def __init__(self, groups: Sequence[Mapping[int, int]], fractions: Mapping[str, float], min_train: int) -> None:
        self._totals: Counter[int] = Counter()
        for group in groups:
            self._totals.update(group)
        self._fractions = fractions
        self._min_train = min_train
        self._counts = {split: Counter[int]() for split in fractions}

    def add(self, group: Mapping[int, int], split: str, *, sign: int = 1) -> None:
        for product, count in group.items():
            self._counts[split][product] += sign * count

    def of_adding(self, group: Mapping[int, int], split: str) -> float:
        """How the cost changes if the group comes into the split."""
        return sum(
            self._of(product, split, self._counts[split][product] + count)
            - self._of(product, split, self._counts[split][product])
            for product, count in group.items()
        )

    def _of(self, product: int, split: str, count: int) -> float:
        total = self._totals[product]
        cost = (count - self._fractions[split] * total) ** 2 / total
        if split == "train":
            return cost + _LACKING_COST * total * max(0, min(self._min_train, total) - count)
        return cost + _EMPTY_COST * (count == 0)
