"""Outer product of few projected channels of each stream; descriptor and classifier grow with d²."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray

from edgebcnn.model.factorize import project
from edgebcnn.model.head import BilinearClassifier, Head, HeadShape, Weights, as_convolution
from edgebcnn.progress import Advance


class Projected(Head):
    """(U A)ᵀ(V B) / L, flattened."""

    tails = ("tanh", "sqrt", "l2")
    rank = 64
    starts_from_full = True

    def max_rank(self, channels: Sequence[int]) -> int:
        """No more channels than the smaller stream has."""
        return min(channels)

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds both projections and their outer product."""
        from edgebcnn.model.pooling import OuterProduct, two_projections

        return OuterProduct(name="outer_product")(two_projections(maps, shape.rank))

    def from_full(
        self, full: BilinearClassifier, shape: HeadShape, drawn: Callable[[str], list[NDArray[Any]]], advance: Advance
    ) -> Weights:
        """The truncated higher-order SVD of all products' forms."""
        u, v, p = project(full.weights, shape.rank, symmetric=full.symmetric, scales=full.scales)
        return {"project_u": as_convolution(u), "project_v": as_convolution(v), "logits": [p, full.bias]}


HEAD = Projected()
