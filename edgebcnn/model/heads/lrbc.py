"""Low-rank bilinear classifiers: a quadratic form of rank r for each product (Kong and Fowlkes 2017, arXiv 1611.05109).

One projection to m channels serves all products; the rank of the pooling is m, and r is the class rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from edgebcnn.model.factorize import quadratic_forms
from edgebcnn.model.head import BilinearClassifier, Head, HeadShape, Weights, as_convolution, shared_projections
from edgebcnn.progress import Advance


class Lrbc(Head):
    """‖U₊ᵀA‖² - ‖U₋ᵀA‖² of each product."""

    tails = ("none",)
    rank = 100
    starts_from_full = True
    scaled_layer = ("factors", 0.5)  # its squares are the logits

    def max_rank(self, channels: Sequence[int]) -> int:
        """No more channels than both streams have side by side."""
        return sum(channels)

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds the shared projection, the factors of all products, and their mean squares."""
        from edgebcnn.model.keras import keras
        from edgebcnn.model.pooling import MeanSquare, projection, shared_projection

        # All r squares of a product then add up to one channel's, so that no product starts with high confidence.
        unit = keras.initializers.VarianceScaling(1 / shape.class_rank, "fan_in", "untruncated_normal")
        factors = projection(shape.classes * shape.class_rank, "factors", unit)
        return MeanSquare(name="mean_square")(factors(shared_projection(maps, shape.rank)))

    def classifier(self, shape: HeadShape) -> Any:
        """Adds up each product's positive squares, and subtracts its negative ones."""
        from edgebcnn.model.pooling import SignedSums

        return SignedSums(shape.classes, name="logits")

    def from_full(
        self, full: BilinearClassifier, shape: HeadShape, drawn: Callable[[str], list[NDArray[Any]]], advance: Advance
    ) -> Weights:
        """The co-decomposition of all products' forms."""
        shared, of_products = quadratic_forms(
            full.weights, shape.rank, shape.class_rank, symmetric=full.symmetric, scales=full.scales
        )
        return {
            **shared_projections(shared, full),
            "factors": as_convolution(of_products),
            "logits": [full.bias],
        }


HEAD = Lrbc()
