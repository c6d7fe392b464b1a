"""Random Maclaurin: the Hadamard product of two random projections that are never trained.

Gao et al. 2016, arXiv 1511.06062, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.factorize import combine
from edgebcnn.model.head import BilinearClassifier, Head, HeadShape, Weights
from edgebcnn.progress import Advance


class Maclaurin(Head):
    """Mean over locations of (U a) ∘ (V b), with U and V of random signs."""

    tails = ("tanh", "sqrt", "l2")
    rank = 2048
    starts_from_full = True

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds both frozen projections and the mean of their product."""
        from edgebcnn.model.pooling import HadamardProduct, RandomSigns, projection

        u, v = (
            projection(shape.rank, f"project_{side}", RandomSigns([shape.seed, number]), trainable=False)
            for number, side in enumerate("uv")
        )
        return HadamardProduct(name="hadamard_product")([u(maps[0]), v(maps[-1])])

    def from_full(
        self, full: BilinearClassifier, shape: HeadShape, drawn: Callable[[str], list[NDArray[Any]]], advance: Advance
    ) -> Weights:
        """The combination of the drawn forms that comes closest, by least squares."""
        u, v = (np.asarray(drawn(f"project_{side}")[0][0, 0], np.float64) for side in "uv")
        return {"logits": [combine(full.weights, u, v, symmetric=full.symmetric), full.bias]}

    def folded(self, weights: Mapping[str, list[NDArray[Any]]], scale: Any, shift: Any) -> Weights:
        """The rows of U take the scale."""
        return {"project_u": [weights["project_u"][0] * scale], "tail_BN": [shift]}


HEAD = Maclaurin()
