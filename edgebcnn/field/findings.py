"""Compares edge and full model in the field with their agreement at export, and finds what has changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.field.losses import Usual, equal_weight_n
from edgebcnn.report.agreement import CONFIDENCE, Proportion, agreement, difference_interval
from edgebcnn.report.drift import Drift, benjamini_hochberg, drift, drift_by_product, holm
from edgebcnn.report.weighted import WeightedShare, weighted_share

LOOKS = ("brightness", "contrast", "warmth", "sharpness")

SPREAD = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Shares of frames below the five numbers of a `Spread`."""


FALSE_DISCOVERIES = 0.1
"""Upper bound on the false discovery rate of the suspected products."""

Level = Literal["suffered", "suspected"]

LEVELS: dict[Level, str] = {
    "suffered": "Agreement fell; that any name here is wrong has a probability of 5 % at most.",
    "suspected": "Agreement seems to have fallen; of the names here and above, 1 in 10 is wrong on average, at most.",
}
"""The guarantee of each level."""


@dataclass(frozen=True)
class Frames:
    """Frames or photos, and the predictions of both models.

    Attributes:
        edge: `(n,)` class ids, by the edge model.
        scores: `(n,)` its probabilities of them.
        full: `(n, k)` the full model's probabilities.
        embedding: `(n, d)` what the full model pools them from, see `edgebcnn.train.steps.with_embedding`.
        looks: `(n, 4)`: `LOOKS` of each.
    """

    edge: NDArray[np.int64]
    scores: NDArray[np.float64]
    full: NDArray[np.float32]
    embedding: NDArray[np.floating]
    looks: NDArray[np.float64]

    @property
    def product(self) -> NDArray[np.int64]:
        """`(n,)` class ids, by the full model."""
        return np.asarray(self.full.argmax(axis=1), np.int64)

    def where(self, rows: NDArray[np.bool_]) -> Frames:
        """Some of them."""
        return Frames(self.edge[rows], self.scores[rows], self.full[rows], self.embedding[rows], self.looks[rows])


@dataclass(frozen=True)
class ProductFinding:
    """Agreement on one product, as the full model names it.

    Attributes:
        name: The product.
        field: In the field.
        export: At export; None where no photo there shows it.
        p_value: How often agreement falls so much by chance (`losses`), with Holm's correction for the number of
            products.
        q_value: The same with Benjamini and Hochberg's.
    """

    name: str
    field: WeightedShare
    export: Proportion | None
    p_value: float
    q_value: float

    @property
    def level(self) -> Level | None:
        """The level of evidence for a loss, see `LEVELS`."""
        if self.p_value <= 1 - CONFIDENCE:
            return "suffered"
        return "suspected" if self.q_value <= FALSE_DISCOVERIES else None

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        export = None if self.export is None else self.export.as_json()
        return {
            "name": self.name,
            "field": self.field.as_json(),
            "export": export,
            "p_value": self.p_value,
            "q_value": self.q_value,
            "level": self.level,
        }


@dataclass(frozen=True)
class Spread:
    """Where a number lies: `SPREAD` quantiles.

    Attributes:
        name: Of the number, as in the drifts.
        export: At export.
        field: In the field.
    """

    name: str
    export: tuple[float, ...]
    field: tuple[float, ...]


@dataclass(frozen=True)
class Findings:
    """The findings of an audit.

    Attributes:
        agreement: Of edge and full model on all frames with a product, estimated from the sample.
        export: On the photos of the export.
        drifts: The full model's predictions, its embedding, the edge model's score, and each of `LOOKS`, against the
            export's photos; corrected for their number.
        spreads: Where the numbers among them lie.
        products: Agreement by product, the most significant loss first.
        product_drifts: The full model's embedding by product, against the export's photos.
    """

    agreement: WeightedShare
    export: Proportion
    drifts: tuple[Drift, ...]
    spreads: tuple[Spread, ...]
    products: tuple[ProductFinding, ...]
    product_drifts: tuple[Drift, ...]

    @property
    def change(self) -> tuple[float, float, float]:
        """Agreement in the field less that at export, with its 95 % interval."""
        return (self.agreement.value - self.export.value, *difference_interval(self.agreement, self.export))

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        value, low, high = self.change
        return {
            "agreement": self.agreement.as_json(),
            "export": self.export.as_json(),
            "change": {"value": value, "low": low, "high": high, "confidence": CONFIDENCE},
            "drifts": [each.as_json() for each in self.drifts],
            "spreads": [asdict(each) for each in self.spreads],
            "levels": LEVELS,
            "products": [each.as_json() for each in self.products],
            "product_drifts": [each.as_json() for each in self.product_drifts],
        }


def findings(
    field: Frames,
    export: Frames,
    *,
    kept_with: NDArray[np.floating],
    is_plain: NDArray[np.bool_],
    scenes: NDArray[np.integer],
    names: Sequence[str],
) -> Findings:
    """Computes all findings from a sample and the photos of the export.

    Agreement is weighted by 1/π (`weighted_share`). Drift is tested on the plain part of the sample alone, because
    frames that were kept for their uncertainty differ by that.

    Args:
        field: The frames of the sample.
        export: The photos of the export.
        kept_with: `(n,)` π of each frame.
        is_plain: `(n,)` whether a frame is of the plain random sample.
        scenes: `(n,)` equal for frames of one scene.
        names: The products, in the order of class ids.
    """
    holds = field.edge == field.product
    plain = field.where(is_plain)
    return Findings(
        agreement=weighted_share(holds, kept_with, groups=scenes),
        export=agreement(export.edge, export.product),
        drifts=_drifts(export, plain) if is_plain.any() else (),
        spreads=_spreads(export, plain) if is_plain.any() else (),
        products=products_by_loss(field, export, kept_with=kept_with, scenes=scenes, names=names),
        product_drifts=drift_by_product(
            export.embedding,
            plain.embedding,
            products_before=export.product,
            products_now=plain.product,
            names=names,
        ),
    )


def looks(pixels_rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`LOOKS` of images, `(n, 4)`: mean and standard deviation of the grey value, 0-255; red less blue, as a share of
    the grey value; and the logarithm of the variance of the Laplacian, which blur lowers.

    Args:
        pixels_rgb: `(n, h, w, 3)` uint8 RGB.
    """  # noqa: D205 - one list
    rows = []
    for picture in pixels_rgb:
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
        brightness = float(grey.mean())
        red, _, blue = picture.reshape(-1, 3).mean(axis=0)
        edges = float(cv2.Laplacian(grey, cv2.CV_32F).var())
        rows.append((brightness, float(grey.std()), float(red - blue) / (brightness + 1), math.log(edges + 1)))
    return np.array(rows, np.float64)


def _drifts(before: Frames, now: Frames) -> tuple[Drift, ...]:
    """Predictions are compared as square roots of probabilities, whose distance is Hellinger's."""
    pairs: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "full model's answers": (np.sqrt(before.full), np.sqrt(now.full)),
        "full model's embedding": (before.embedding, now.embedding),
        **_numbers(before, now),
    }
    found = [drift(*pair, name=name) for name, pair in pairs.items()]
    corrected = holm(np.array([each.p_value for each in found]))
    return tuple(replace(each, p_value=float(p_value)) for each, p_value in zip(found, corrected, strict=True))


def _spreads(before: Frames, now: Frames) -> tuple[Spread, ...]:
    def quantiles(values: NDArray[Any]) -> tuple[float, ...]:
        return tuple(np.quantile(values, SPREAD).tolist())

    numbers = _numbers(before, now)
    return tuple(Spread(name, quantiles(was), quantiles(is_now)) for name, (was, is_now) in numbers.items())


def _numbers(before: Frames, now: Frames) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    of_looks = {name: (before.looks[:, column], now.looks[:, column]) for column, name in enumerate(LOOKS)}
    return {"edge score": (before.scores, now.scores), **of_looks}


def products_by_loss(
    field: Frames,
    export: Frames,
    *,
    kept_with: NDArray[np.floating],
    scenes: NDArray[np.integer],
    names: Sequence[str],
) -> tuple[ProductFinding, ...]:
    """Agreement by product, the most significant loss first; arguments as of `findings`."""
    holds = field.edge == field.product
    at_export = {
        product: agreement(export.edge[rows], export.product[rows])
        for product in np.unique(export.product).tolist()
        for rows in [export.product == product]
    }
    usual = Usual.of(list(at_export.values()))
    found = []
    for product in np.unique(field.product).tolist():
        rows, known = field.product == product, at_export.get(product)
        share = weighted_share(holds[rows], kept_with[rows], groups=scenes[rows])
        chance = usual.chance_of_so_few(share.value, equal_weight_n(kept_with[rows], scenes[rows]), known=known)
        found.append(ProductFinding(names[product], share, known, chance, chance))
    chances = np.array([each.p_value for each in found])
    p_values, q_values = holm(chances), benjamini_hochberg(chances)
    surest = chances.argsort(kind="stable").tolist()
    return tuple(replace(found[row], p_value=float(p_values[row]), q_value=float(q_values[row])) for row in surest)
