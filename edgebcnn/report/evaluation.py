"""Scores one model on labeled photos: overall, by product, by confused pair, and photo by photo.

It needs only NumPy and the standard library, like all of `report`. Averages of precision, recall and F1 come from
scikit-learn in `edgebcnn.evaluation.evaluate`; `Averages` holds them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import Proportion, accuracy, check_probabilities, top_k_accuracy

if TYPE_CHECKING:
    from edgebcnn.bundle import Label

CALIBRATION_BINS = 15
"""As in Guo et al. 2017, so that figures can be compared with published ones."""

TOP_K = 5

_ROUNDING = 1e-4  # a softmax in float16 may add up to a little more than 1


@dataclass(frozen=True)
class Averages:
    """Precision, recall and F1, each averaged over products; 0-1."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Mistake:
    """A product that another product is taken for, and how often."""

    name: str
    count: int


@dataclass(frozen=True)
class ProductFigures:
    """One product's photos.

    Attributes:
        name: The product.
        accuracy: Share of its photos that are predicted correctly.
        taken_for: The most frequent wrong prediction, the lowest class id among equals; None without errors.
    """

    name: str
    accuracy: Proportion
    taken_for: Mistake | None


@dataclass(frozen=True)
class ConfusedPair:
    """Two products that are taken for each other.

    Attributes:
        first: The one that is taken for the other more often.
        second: The other.
        first_as_second: Photos of the first that are predicted as the second.
        second_as_first: The reverse.
    """

    first: str
    second: str
    first_as_second: int
    second_as_first: int

    @property
    def count(self) -> int:
        """Photos in both directions."""
        return self.first_as_second + self.second_as_first


@dataclass(frozen=True)
class WrongAnswer:
    """One misclassified photo.

    Attributes:
        position: Row of the photo in the arrays.
        truth: The product that it shows.
        predicted: The predicted product.
        score: Probability of the predicted product.
        true_score: Probability of the right product.
    """

    position: int
    truth: str
    predicted: str
    score: float
    true_score: float


@dataclass(frozen=True)
class Evaluation:
    """One model on labelled photos.

    Attributes:
        top1: Photos whose product is the most probable one.
        top5: Photos whose product is among the five most probable; None where the model knows five or fewer.
        coarse: Photos named as a product of the right coarse class, of those whose product has one; None where none
            has.
        mean_score: Mean of the highest probabilities; below `top1` the model is too modest, above it too sure.
        calibration_error: `expected_calibration_error`.
        products: Products with photos, in the order of class ids.
        confused: Pairs of products with photos named wrong, most first.
        wrong: Every photo named wrong, highest score first: what the model was surest of.
        unseen: Products of the model of which there is no photo.
    """

    top1: Proportion
    top5: Proportion | None
    coarse: Proportion | None
    mean_score: float
    calibration_error: float
    products: tuple[ProductFigures, ...]
    confused: tuple[ConfusedPair, ...]
    wrong: tuple[WrongAnswer, ...]
    unseen: tuple[str, ...]

    @property
    def n(self) -> int:
        """Photos."""
        return self.top1.n


def score_predictions(
    probabilities: NDArray[np.floating | np.integer], truth: NDArray[np.integer], labels: Sequence[Label]
) -> Evaluation:
    """All figures of one model on labelled photos.

    Args:
        probabilities: `(n, classes)`, 0-1.
        truth: `(n,)` integer class ids.
        labels: The products, in the order of class ids.

    Raises:
        ValueError: shapes, dtypes or class ids do not fit, or a probability is NaN or outside 0-1.
    """
    check_probabilities(probabilities, truth)
    if probabilities.shape[1] != len(labels):
        raise ValueError(f"probabilities are of {probabilities.shape[1]} classes and there are {len(labels)} labels")
    predicted = probabilities.argmax(axis=1)
    is_wrong = predicted != truth
    mistakes = Counter(zip(truth[is_wrong].tolist(), predicted[is_wrong].tolist(), strict=True))
    return Evaluation(
        top1=accuracy(predicted, truth),
        top5=top_k_accuracy(probabilities, truth, k=TOP_K) if len(labels) > TOP_K else None,
        coarse=_coarse_accuracy(predicted, truth, labels),
        mean_score=float(probabilities.max(axis=1).mean()),
        calibration_error=expected_calibration_error(probabilities, truth),
        products=_products(truth, mistakes, labels),
        confused=_confused_pairs(mistakes, labels),
        wrong=_wrong_answers(probabilities, truth, labels),
        unseen=tuple(labels[class_id].name for class_id in np.setdiff1d(np.arange(len(labels)), truth)),
    )


def expected_calibration_error(
    probabilities: NDArray[np.floating | np.integer], truth: NDArray[np.integer], *, bins: int = CALIBRATION_BINS
) -> float:
    """How far scores are from the accuracy that they promise, on average (Guo et al. 2017, arXiv 1706.04599).

    A photo's score is its highest probability. With B_m the photos whose score lies in ((m - 1)/M, m/M], m = 1…M,
    ECE = Σ_m |B_m|/n · |acc(B_m) - mean score(B_m)|. A model whose scores of 0.8 are right eight times in ten has 0.

    Args:
        probabilities: `(n, classes)`, 0-1.
        truth: `(n,)` integer class ids.
        bins: M, of equal width.

    Returns:
        0-1.

    Raises:
        ValueError: shapes, dtypes or class ids do not fit, or a probability is NaN or outside 0-1.
    """
    check_probabilities(probabilities, truth)
    if probabilities.min() < 0 or probabilities.max() > 1 + _ROUNDING:
        raise ValueError(f"probabilities run from {probabilities.min()} to {probabilities.max()}, not from 0 to 1")
    score = probabilities.max(axis=1).astype(np.float64)
    is_right = probabilities.argmax(axis=1) == truth
    of_bin = np.clip(np.ceil(score * bins).astype(np.int64) - 1, 0, bins - 1)
    # |B_m| cancels: each bin adds |photos right - sum of scores| / n.
    right, promised = (np.bincount(of_bin, weights, minlength=bins) for weights in (is_right, score))
    return float(np.abs(right - promised).sum() / len(truth))


def _coarse_accuracy(
    predicted: NDArray[np.integer], truth: NDArray[np.integer], labels: Sequence[Label]
) -> Proportion | None:
    pairs = [(labels[said].coarse, labels[shown].coarse) for said, shown in zip(predicted, truth, strict=True)]
    known = [(said, shown) for said, shown in pairs if shown is not None]
    return Proportion(sum(said == shown for said, shown in known), len(known)) if known else None


def _products(
    truth: NDArray[np.integer], mistakes: Mapping[tuple[int, int], int], labels: Sequence[Label]
) -> tuple[ProductFigures, ...]:
    taken_for: dict[int, Counter[int]] = {}
    for (shown, said), count in sorted(mistakes.items()):
        taken_for.setdefault(shown, Counter())[said] = count
    figures = []
    for shown, n in zip(*(column.tolist() for column in np.unique(truth, return_counts=True)), strict=True):
        wrong = taken_for.get(shown, Counter())
        most = [Mistake(labels[said].name, count) for said, count in wrong.most_common(1)]
        figures.append(ProductFigures(labels[shown].name, Proportion(n - wrong.total(), n), most[0] if most else None))
    return tuple(figures)


def _confused_pairs(mistakes: Mapping[tuple[int, int], int], labels: Sequence[Label]) -> tuple[ConfusedPair, ...]:
    one_way = {pair for pair in mistakes if (mistakes[pair], *pair) > (mistakes.get(pair[::-1], 0), *pair[::-1])}
    confused = [
        ConfusedPair(labels[a].name, labels[b].name, mistakes[a, b], mistakes.get((b, a), 0))
        for a, b in sorted(one_way)
    ]
    return tuple(sorted(confused, key=lambda pair: -pair.count))


def _wrong_answers(
    probabilities: NDArray[np.floating | np.integer], truth: NDArray[np.integer], labels: Sequence[Label]
) -> tuple[WrongAnswer, ...]:
    predicted = probabilities.argmax(axis=1)
    # Every array is indexed by the photo's own row: a list cut down to the wrong ones first gives the wrong names.
    answers = [
        WrongAnswer(
            position=row,
            truth=labels[truth[row]].name,
            predicted=labels[predicted[row]].name,
            score=float(probabilities[row, predicted[row]]),
            true_score=float(probabilities[row, truth[row]]),
        )
        for row in np.flatnonzero(predicted != truth).tolist()
    ]
    return tuple(sorted(answers, key=lambda answer: -answer.score))
