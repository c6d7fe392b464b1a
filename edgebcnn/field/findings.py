"""How far is the edge model from the full model in the field, is that worse than at export, and what has changed?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.agreement import CONFIDENCE, Proportion, agreement, difference_interval
from edgebcnn.report.drift import Drift, drift, drift_by_product, holm
from edgebcnn.report.weighted import WeightedShare, weighted_share

LOOKS = ("brightness", "contrast", "warmth", "sharpness")


@dataclass(frozen=True)
class Frames:
    """Frames or photos, and what both models say of them.

    Attributes:
        edge: `(n,)` class ids, by the edge model.
        scores: `(n,)` its probabilities of them.
        full: `(n, k)` the full model's probabilities.
        looks: `(n, 4)`: `LOOKS` of each.
    """

    edge: NDArray[np.int64]
    scores: NDArray[np.float64]
    full: NDArray[np.float32]
    looks: NDArray[np.float64]

    @property
    def product(self) -> NDArray[np.int64]:
        """`(n,)` class ids, by the full model."""
        return np.asarray(self.full.argmax(axis=1), np.int64)

    def where(self, rows: NDArray[np.bool_]) -> Frames:
        """Some of them."""
        return Frames(self.edge[rows], self.scores[rows], self.full[rows], self.looks[rows])


@dataclass(frozen=True)
class ProductFinding:
    """Agreement on one product, as the full model names it.

    Attributes:
        name: The product.
        field: In the field.
        export: At export; None where no photo there shows it.
        p_value: How often agreement falls so much by chance (Fisher's exact test, one-sided, on the effective number
            of frames), with Holm's correction for the number of products.
    """

    name: str
    field: WeightedShare
    export: Proportion | None
    p_value: float

    @property
    def suffered(self) -> bool:
        """Whether chance is no explanation, at 5 %."""
        return self.p_value <= 1 - CONFIDENCE

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        export = None if self.export is None else self.export.as_json()
        return {
            "name": self.name,
            "field": self.field.as_json(),
            "export": export,
            "p_value": self.p_value,
            "suffered": self.suffered,
        }


@dataclass(frozen=True)
class Findings:
    """What an audit says.

    Attributes:
        agreement: Of edge and full model on all frames with a product, estimated from the sample.
        export: On the photos of the export.
        drifts: The edge model's score, the full model's answers, and each of `LOOKS`, against the export's photos;
            corrected for their number.
        products: Agreement by product, the largest loss first.
        product_drifts: The full model's answers by product, against the export's photos.
    """

    agreement: WeightedShare
    export: Proportion
    drifts: tuple[Drift, ...]
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
    """Everything that a sample and the photos of the export tell.

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
    return Findings(
        agreement=weighted_share(holds, kept_with, groups=scenes),
        export=agreement(export.edge, export.product),
        drifts=_drifts(export, field.where(is_plain)) if is_plain.any() else (),
        products=_products(field, export, kept_with, scenes, names),
        product_drifts=drift_by_product(
            np.sqrt(export.full),
            np.sqrt(field.full[is_plain]),
            products_before=export.product,
            products_now=field.product[is_plain],
            names=names,
        ),
    )


def looks(pixels_rgb: NDArray[np.uint8]) -> NDArray[np.float64]:
    """`LOOKS` of pictures, `(n, 4)`: mean and standard deviation of the grey value, 0-255; red less blue, as a share of
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
    """Answers are compared as square roots of probabilities, whose distance is Hellinger's."""
    pairs: Mapping[str, tuple[NDArray[Any], NDArray[Any]]] = {
        "edge score": (before.scores, now.scores),
        "full model's answers": (np.sqrt(before.full), np.sqrt(now.full)),
        **{name: (before.looks[:, column], now.looks[:, column]) for column, name in enumerate(LOOKS)},
    }
    found = [drift(*pair, name=name) for name, pair in pairs.items()]
    corrected = holm(np.array([each.p_value for each in found]))
    return tuple(replace(each, p_value=float(p_value)) for each, p_value in zip(found, corrected, strict=True))


def _products(
    field: Frames, export: Frames, kept_with: NDArray[np.floating], scenes: NDArray[np.integer], names: Sequence[str]
) -> tuple[ProductFinding, ...]:
    holds = field.edge == field.product
    found = []
    for product in np.unique(field.product).tolist():
        now, before = field.product == product, export.product == product
        share = weighted_share(holds[now], kept_with[now], groups=scenes[now])
        known = agreement(export.edge[before], export.product[before]) if before.any() else None
        found.append(ProductFinding(names[product], share, known, 1.0 if known is None else _fall(share, known)))
    corrected = holm(np.array([each.p_value for each in found]))
    products = [replace(each, p_value=float(p_value)) for each, p_value in zip(found, corrected, strict=True)]
    return tuple(sorted(products, key=lambda each: (each.p_value, each.field.value, each.name)))


def _fall(now: WeightedShare, before: Proportion) -> float:
    """Fisher's exact p-value, one-sided: of so many agreements among both, so few or fewer fall to the field.

    The effective number is rounded down and the agreements up, so that it errs towards "chance".
    """
    n = max(1, int(min(now.effective_n, now.n)))
    agreed = min(n, math.ceil(now.value * n - 1e-9))
    total = agreed + before.successes
    fewest = max(0, total - before.n)
    ways = sum(math.comb(n, few) * math.comb(before.n, total - few) for few in range(fewest, agreed + 1))
    return ways / math.comb(n + before.n, total)
