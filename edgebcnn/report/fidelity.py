"""Compares the edge model with the full and the compact one on the same labeled photos.

It needs only NumPy and the standard library. `page` renders it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import (
    CONFIDENCE,
    AccuracyDrop,
    McNemar,
    Proportion,
    accuracy,
    agreement,
    mcnemar_exact,
    top_k_accuracy,
)
from edgebcnn.report.comparison import compare
from edgebcnn.report.drift import holm
from edgebcnn.report.evaluation import CALIBRATION_BINS, TOP_K, expected_calibration_error

if TYPE_CHECKING:
    from edgebcnn.bundle import Label

_DRAWS = 2000


@dataclass(frozen=True)
class Measured:
    """A mean, or what is made of means, with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, float | int]:
        """Everything by name."""
        return {**asdict(self), "confidence": CONFIDENCE}


@dataclass(frozen=True)
class Bin:
    """The photos whose score lies in one fifteenth of the scale.

    Attributes:
        score: Mean of their scores.
        accuracy: How often the model is right on them.
    """

    score: float
    accuracy: Proportion


@dataclass(frozen=True)
class Quality:
    """One model on the photos.

    Attributes:
        accuracy: Of its top-1, by the labels.
        top5: Photos whose product is among its five most probable; None where there are five products or fewer.
        calibration_error: `expected_calibration_error`.
        mean_score: Mean of its highest probabilities.
        reliability: Accuracy by score.
    """

    accuracy: Proportion
    top5: Proportion | None
    calibration_error: Measured
    mean_score: Measured
    reliability: tuple[Bin, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "accuracy": self.accuracy.as_json(),
            "top5": None if self.top5 is None else self.top5.as_json(),
            "calibration_error": self.calibration_error.as_json(),
            "mean_score": self.mean_score.as_json(),
            "reliability": [{"score": each.score, "accuracy": each.accuracy.as_json()} for each in self.reliability],
        }


@dataclass(frozen=True)
class Distance:
    """One model held against another on the same photos.

    Attributes:
        first: The model.
        second: What it is held against.
        agreement: Photos on which both have the same top-1.
        drop: Accuracy of `second` less that of `first`.
        mcnemar: Whether their accuracies differ by more than chance.
        shift: Mean of ½ Σ |p - q| between their probabilities, 0-1.
        shift_quantiles: Of the same, what 50, 90 and 99 % of the photos do not exceed.
        score_change: Mean of the score of `first` less that of `second`.
    """

    first: str
    second: str
    agreement: Proportion
    drop: AccuracyDrop
    mcnemar: McNemar
    shift: Measured
    shift_quantiles: tuple[float, float, float]
    score_change: Measured

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "first": self.first,
            "second": self.second,
            "agreement": self.agreement.as_json(),
            "accuracy_drop": self.drop.as_json(),
            "mcnemar": self.mcnemar.as_json(),
            "probability_shift": {
                **self.shift.as_json(),
                **dict(zip(("p50", "p90", "p99"), self.shift_quantiles, strict=True)),
            },
            "score_change": self.score_change.as_json(),
        }


@dataclass(frozen=True)
class ProductFidelity:
    """One product's photos.

    Attributes:
        name: The product.
        accuracy: Of each model.
        agreement: Of the edge with the full model.
        drop: Accuracy of the full model less that of the edge model.
        p_value: McNemar's, with Holm's correction for the number of products.
    """

    name: str
    accuracy: Mapping[str, Proportion]
    agreement: Proportion
    drop: AccuracyDrop
    p_value: float

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "name": self.name,
            "accuracy": {model: share.as_json() for model, share in self.accuracy.items()},
            "agreement": self.agreement.as_json(),
            "accuracy_drop": self.drop.as_json(),
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class Confusion:
    """A product that one model takes for another product more often than the other model does.

    Attributes:
        product: What the photos show.
        taken_for: What they are taken for.
        full: Share of the product's photos on which the full model does.
        edge: Share on which the edge model does.
        p_value: McNemar's, with Holm's correction for the number of pairs that changed.
    """

    product: str
    taken_for: str
    full: Proportion
    edge: Proportion
    p_value: float

    @property
    def gained(self) -> int:
        """Photos that the edge model takes for it, less those that the full one does."""
        return self.edge.successes - self.full.successes

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "product": self.product,
            "taken_for": self.taken_for,
            "full": self.full.as_json(),
            "edge": self.edge.as_json(),
            "gained": self.gained,
            "p_value": self.p_value,
        }


@dataclass(frozen=True)
class Disagreement:
    """A photo that the edge and the full model name differently.

    Attributes:
        position: Its row in the arrays.
        truth: The product that it shows.
        said: What each model says.
        scores: How sure each is.
    """

    position: int
    truth: str
    said: Mapping[str, str]
    scores: Mapping[str, float]


@dataclass(frozen=True)
class Fidelity:
    """Full, compact and edge model on the same photos.

    Attributes:
        n: Photos.
        quality: Each model alone, the full one first.
        distances: Edge with full, edge with compact, compact with full.
        products: Those with photos, the largest loss first.
        confusions: Pairs on which edge and full differ, those that the edge model gained most of first.
        disagreements: Photos on which edge and full differ, those that the edge model lost first.
    """

    n: int
    quality: Mapping[str, Quality]
    distances: tuple[Distance, ...]
    products: tuple[ProductFidelity, ...]
    confusions: tuple[Confusion, ...]
    disagreements: tuple[Disagreement, ...]

    def as_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Everything by name; a photo by the one that it has in `names`."""
        return {
            "n": self.n,
            "quality": {model: quality.as_json() for model, quality in self.quality.items()},
            "distances": [distance.as_json() for distance in self.distances],
            "products": [product.as_json() for product in self.products],
            "confusions": [confusion.as_json() for confusion in self.confusions],
            "disagreements": [{"photo": names[each.position], **asdict(each)} for each in self.disagreements],
        }


def fidelity(
    truth: NDArray[np.integer],
    probabilities: Mapping[str, NDArray[np.floating]],
    labels: Sequence[Label],
    *,
    scores: Mapping[str, NDArray[np.floating]] | None = None,
) -> Fidelity:
    """All figures of the three models, from their probabilities on the same photos.

    Args:
        truth: `(n,)` integer class ids.
        probabilities: `(n, classes)` of `full`, `compact` and `edge`, 0-1.
        labels: The products, in the order of class ids.
        scores: `(n, classes)` of the same models, from temperatures that were fitted without each photo: the
            calibration error is of these. None where `probabilities` were not fitted on these photos.

    Raises:
        ValueError: shapes, dtypes or class ids do not fit, or a probability is NaN or outside 0-1.
        KeyError: `full` or `edge` is missing.
    """
    pairs = compare(truth, probabilities, labels).pairs
    top1 = {name: of_model.argmax(axis=1) for name, of_model in probabilities.items()}
    names = [label.name for label in labels]
    return Fidelity(
        n=len(truth),
        quality={name: _quality((scores or probabilities)[name], truth) for name in probabilities},
        distances=tuple(_distance(pair.first, pair.second, probabilities, truth) for pair in pairs),
        products=_products(top1, truth, names),
        confusions=_confusions(top1["full"], top1["edge"], truth, names),
        disagreements=_disagreements(top1, probabilities, truth, names),
    )


def calibration_error(probabilities: NDArray[np.floating], truth: NDArray[np.integer]) -> Measured:
    """`expected_calibration_error` with its 95 % interval, from normal draws of what each bin adds to it.

    The error of a sample is too large, and that of a draw around it again: so the draws are mirrored at it. Where a
    model that keeps what its scores promise has as large an error in one of 20 samples, the interval begins at 0
    (consistency resampling, Bröcker, Smith 2007).

    Args:
        probabilities: `(n, classes)`, 0-1.
        truth: `(n,)` integer class ids.

    Raises:
        ValueError: shapes, dtypes or class ids do not fit, or a probability is NaN or outside 0-1.
    """
    error = expected_calibration_error(probabilities, truth)
    score, is_right, in_bin = _scored(probabilities, truth)
    rng, n = np.random.default_rng(0), len(truth)
    gap = in_bin * (is_right - score)[:, None]
    drawn = rng.multivariate_normal(gap.mean(axis=0), np.cov(gap.T, bias=True) / n, size=_DRAWS, method="eigh")
    ends = np.quantile(np.abs(drawn).sum(axis=1), [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2])
    low, high = (2 * error - ends).tolist()
    by_chance = rng.normal(size=(_DRAWS, CALIBRATION_BINS)) * np.sqrt((score * (1 - score)) @ in_bin) / n
    is_chance = error <= np.quantile(np.abs(by_chance).sum(axis=1), CONFIDENCE)
    return Measured(error, 0.0 if is_chance else max(0.0, low), max(error, high), n)


def _quality(probabilities: NDArray[np.floating], truth: NDArray[np.integer]) -> Quality:
    score, is_right, in_bin = _scored(probabilities, truth)
    bins = (photos for photos in in_bin.T.astype(bool) if photos.any())
    return Quality(
        accuracy=Proportion(int(is_right.sum()), len(truth)),
        top5=top_k_accuracy(probabilities, truth, k=TOP_K) if probabilities.shape[1] > TOP_K else None,
        calibration_error=calibration_error(probabilities, truth),
        mean_score=_mean(score),
        reliability=tuple(
            Bin(float(score[photos].mean()), Proportion(int(is_right[photos].sum()), int(photos.sum())))
            for photos in bins
        ),
    )


def _scored(
    probabilities: NDArray[np.floating], truth: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Score of each photo, whether it is right, and in which bin it is, `(n, bins)` of 0 and 1."""
    score = np.clip(probabilities.max(axis=1).astype(np.float64), 0, 1)
    of_bin = np.clip(np.ceil(score * CALIBRATION_BINS).astype(np.int64) - 1, 0, CALIBRATION_BINS - 1)
    return score, probabilities.argmax(axis=1) == truth, np.eye(CALIBRATION_BINS)[of_bin]


def _distance(
    first: str, second: str, probabilities: Mapping[str, NDArray[np.floating]], truth: NDArray[np.integer]
) -> Distance:
    p, q = (probabilities[name].astype(np.float64) for name in (first, second))
    shift = np.abs(p - q).sum(axis=1) / 2
    test = mcnemar_exact(p.argmax(axis=1) == truth, q.argmax(axis=1) == truth)
    p50, p90, p99 = np.quantile(shift, [0.5, 0.9, 0.99]).tolist()
    return Distance(
        first=first,
        second=second,
        agreement=agreement(p.argmax(axis=1), q.argmax(axis=1)),
        drop=AccuracyDrop(test.only_second, test.only_first, len(truth)),
        mcnemar=test,
        shift=_mean(shift),
        shift_quantiles=(p50, p90, p99),
        score_change=_mean(p.max(axis=1) - q.max(axis=1)),
    )


def _products(
    top1: Mapping[str, NDArray[np.integer]], truth: NDArray[np.integer], names: Sequence[str]
) -> tuple[ProductFidelity, ...]:
    found = []
    for product in np.unique(truth).tolist():
        said = {model: of_model[truth == product] for model, of_model in top1.items()}
        shown = np.full(len(said["edge"]), product)
        test = mcnemar_exact(said["full"] == shown, said["edge"] == shown)
        found.append((names[product], said, shown, test))
    corrected = holm(np.array([test.p_value for *_, test in found])).tolist()
    products = [
        ProductFidelity(
            name=name,
            accuracy={model: accuracy(of_model, shown) for model, of_model in said.items()},
            agreement=agreement(said["edge"], said["full"]),
            drop=AccuracyDrop(test.only_first, test.only_second, len(shown)),
            p_value=p_value,
        )
        for (name, said, shown, test), p_value in zip(found, corrected, strict=True)
    ]
    return tuple(sorted(products, key=lambda each: (-each.drop.value, each.agreement.value, each.name)))


def _confusions(
    full: NDArray[np.integer], edge: NDArray[np.integer], truth: NDArray[np.integer], names: Sequence[str]
) -> tuple[Confusion, ...]:
    differ = full != edge
    pairs = {(shown, said) for by in (full, edge) for shown, said in zip(truth[differ], by[differ], strict=True)}
    found = []
    for shown, said in sorted(pair for pair in pairs if pair[0] != pair[1]):
        photos = truth == shown
        by_full, by_edge = full[photos] == said, edge[photos] == said
        n = int(photos.sum())
        shares = Proportion(int(by_full.sum()), n), Proportion(int(by_edge.sum()), n)
        found.append(Confusion(names[shown], names[said], *shares, mcnemar_exact(by_full, by_edge).p_value))
    corrected = holm(np.array([each.p_value for each in found])).tolist()
    changed = (replace(each, p_value=p) for each, p in zip(found, corrected, strict=True) if each.gained)
    return tuple(sorted(changed, key=lambda each: (-each.gained, each.product, each.taken_for)))


def _disagreements(
    top1: Mapping[str, NDArray[np.integer]],
    probabilities: Mapping[str, NDArray[np.floating]],
    truth: NDArray[np.integer],
    names: Sequence[str],
) -> tuple[Disagreement, ...]:
    rows = np.flatnonzero(top1["edge"] != top1["full"])
    lost, gained = ((top1[model] == truth)[rows] for model in ("full", "edge"))
    surest = -probabilities["edge"].max(axis=1)[rows]
    order = np.lexsort((rows, surest, np.where(lost, 0, np.where(gained, 2, 1))))
    return tuple(
        Disagreement(
            position=row,
            truth=names[truth[row]],
            said={model: names[of_model[row]] for model, of_model in top1.items()},
            scores={model: float(of_model[row].max()) for model, of_model in probabilities.items()},
        )
        for row in rows[order].tolist()
    )


def _mean(values: NDArray[np.float64]) -> Measured:
    """With the normal interval, z standard deviations of the mean to either side."""
    mean, half = (
        float(values.mean()),
        NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * float(values.std()) / len(values) ** 0.5,
    )
    return Measured(mean, mean - half, mean + half, len(values))
