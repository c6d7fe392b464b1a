"""Mean squares of one learned projection: the Hadamard product with U = V, at half its cost.

Nothing is lost: uᵀa · vᵀb = ¼ (uᵀa + vᵀb)² - ¼ (uᵀa - vᵀb)², so every bilinear form of rank r/2 is among those of r
squares, a positive and a negative one for each of its terms. Rank 2d holds `hadamard` of rank d, with as many
parameters in the projections.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.factorize import SWEEPS, squares
from edgebcnn.model.head import BilinearClassifier, Head, HeadShape, Weights, shared_projections
from edgebcnn.progress import Advance


class Quadratic(Head):
    """Mean over locations of (U a) ∘ (U a); of two streams, of the sum of their projections."""

    tails = ("tanh", "sqrt", "l2")
    rank = 1016  # with MobileNetV2 and 81 products, just below a twentieth of the outer product's parameters
    sweeps = SWEEPS
    starts_from_full = True

    def check_rank(self, rank: int) -> None:
        """Refuses odd ranks."""
        if rank % 2:
            raise ValueError(f"quadratic takes an even rank, for as many positive squares as negative ones, not {rank}")

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds the projection and its mean squares."""
        from edgebcnn.model.pooling import MeanSquare, shared_projection

        return MeanSquare(name="mean_square")(shared_projection(maps, shape.rank))

    def from_full(
        self, full: BilinearClassifier, shape: HeadShape, drawn: Callable[[str], list[NDArray[Any]]], advance: Advance
    ) -> Weights:
        """The CP decomposition of all products' forms, each term written as two squares."""
        shared, p = squares(full.weights, shape.rank, symmetric=full.symmetric, scales=full.scales, advance=advance)
        return {**shared_projections(shared, full), "logits": [p, full.bias]}

    def folded(self, weights: Mapping[str, list[NDArray[Any]]], scale: Any, shift: Any) -> Weights:
        """The projection takes the root of |scale|, and the classifier its sign, because tanh is odd."""
        sign = np.where(scale < 0, -1.0, 1.0)
        projections = [name for name in ("project", "project_a", "project_b") if weights.get(name)]
        kernel, bias = weights["logits"]
        return {
            **{name: [weights[name][0] * np.sqrt(np.abs(scale))] for name in projections},
            "tail_BN": [shift * sign],
            "logits": [kernel * sign[:, np.newaxis], bias],
        }


HEAD = Quadratic()
