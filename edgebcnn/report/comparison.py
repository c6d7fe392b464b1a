"""Compares models on the same held-out photos, overall and product by product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import McNemar, Proportion, accuracy, agreement, check_probabilities, mcnemar_exact

if TYPE_CHECKING:
    from edgebcnn.bundle import Label


@dataclass(frozen=True)
class ModelResult:
    """One model on the held-out photos."""

    name: str
    accuracy: Proportion


@dataclass(frozen=True)
class PairResult:
    """Two models on the same held-out photos.

    Attributes:
        first: Name of the model that is compared.
        second: Name of the model that it is compared with.
        agreement: Photos on which both have the same top-1.
        mcnemar: Whether their accuracies differ by more than chance.
    """

    first: str
    second: str
    agreement: Proportion
    mcnemar: McNemar


@dataclass(frozen=True)
class ProductResult:
    """One product's held-out photos.

    Attributes:
        name: The product.
        n: Its held-out photos; 0 where it has none.
        right: Photos that each model got right, in the order of `ModelComparison.models`.
    """

    name: str
    n: int
    right: tuple[int, ...]


@dataclass(frozen=True)
class ProductDrop:
    """A product on which one model is right less often than another."""

    name: str
    n: int
    right_before: int
    right_after: int

    @property
    def drop(self) -> float:
        """Accuracy lost, 0-1."""
        return (self.right_before - self.right_after) / self.n


@dataclass(frozen=True)
class ModelComparison:
    """Several models on the same held-out photos.

    Attributes:
        models: In the order given to `compare`: the reference first, the models made from it after.
        pairs: Every two of them, the later one `first`: edge with full, edge with compact, compact with full.
        products: One for each label, in the order of class ids.
    """

    models: tuple[ModelResult, ...]
    pairs: tuple[PairResult, ...]
    products: tuple[ProductResult, ...]

    @property
    def n(self) -> int:
        """Held-out photos."""
        return self.models[0].accuracy.n

    def accuracy(self, model: str) -> Proportion:
        """Accuracy of one model.

        Raises:
            KeyError: no such model.
        """
        return self.models[self._index(model)].accuracy

    def pair(self, first: str, second: str) -> PairResult:
        """How `first` compares with `second`, in the order in which `pairs` holds them.

        Raises:
            KeyError: no such pair.
        """
        for pair in self.pairs:
            if (pair.first, pair.second) == (first, second):
                return pair
        raise KeyError(f"{first} with {second}")

    def drops(self, before: str, after: str) -> tuple[ProductDrop, ...]:
        """Products on which `after` is right less often than `before`, largest loss of accuracy first.

        Raises:
            KeyError: no such model.
        """
        was, now = self._index(before), self._index(after)
        lost = [
            ProductDrop(product.name, product.n, product.right[was], product.right[now])
            for product in self.products
            if product.right[now] < product.right[was]
        ]
        return tuple(sorted(lost, key=lambda drop: (-drop.drop, -drop.n, drop.name)))

    def _index(self, model: str) -> int:
        names = [result.name for result in self.models]
        if model not in names:
            raise KeyError(model)
        return names.index(model)


def compare(
    truth: NDArray[np.integer],
    probabilities: Mapping[str, NDArray[np.floating | np.integer]],
    labels: Sequence[Label],
) -> ModelComparison:
    """Accuracy of each model, agreement of each pair, and both per product, on the same labelled photos.

    Args:
        truth: `(n,)` integer class ids.
        probabilities: `(n, classes)` by the model's name, the reference first: `{"full": …, "compact": …, "edge": …}`.
        labels: The products, in the order of class ids.

    Raises:
        ValueError: no model or no photo, or shapes, dtypes or class ids do not fit.
    """
    if not probabilities:
        raise ValueError("there is no model to compare")
    for name, of_model in probabilities.items():
        check_probabilities(of_model, truth)
        if of_model.shape[1] != len(labels):
            raise ValueError(f"model {name} has {of_model.shape[1]} classes and there are {len(labels)} labels")
    top1 = {name: of_model.argmax(axis=1) for name, of_model in probabilities.items()}
    return ModelComparison(
        models=tuple(ModelResult(name, accuracy(predicted, truth)) for name, predicted in top1.items()),
        pairs=_every_pair(top1, truth),
        products=_every_product(top1, truth, labels),
    )


def _every_pair(top1: Mapping[str, NDArray[np.integer]], truth: NDArray[np.integer]) -> tuple[PairResult, ...]:
    names = list(top1)
    return tuple(
        PairResult(
            first,
            second,
            agreement(top1[first], top1[second]),
            mcnemar_exact(top1[first] == truth, top1[second] == truth),
        )
        for position, first in reversed(list(enumerate(names)))
        for second in names[:position]
    )


def _every_product(
    top1: Mapping[str, NDArray[np.integer]], truth: NDArray[np.integer], labels: Sequence[Label]
) -> tuple[ProductResult, ...]:
    photos = np.bincount(truth, minlength=len(labels))
    right = [np.bincount(truth[predicted == truth], minlength=len(labels)) for predicted in top1.values()]
    return tuple(
        ProductResult(label.name, int(photos[class_id]), tuple(int(of_model[class_id]) for of_model in right))
        for class_id, label in enumerate(labels)
    )
