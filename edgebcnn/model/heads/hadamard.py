"""Hadamard product of two learned projections: rank d of the outer product (Kim et al. 2017, arXiv 1610.04325)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from edgebcnn.model.factorize import SWEEPS, factorize
from edgebcnn.model.head import BilinearClassifier, Head, HeadShape, Weights, as_convolution
from edgebcnn.progress import Advance


class Hadamard(Head):
    """Mean over locations of (U a) ∘ (V b)."""

    tails = ("tanh", "sqrt", "l2")
    rank = 512
    sweeps = SWEEPS
    starts_from_full = True

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds both projections and the mean of their product."""
        from edgebcnn.model.pooling import HadamardProduct, two_projections

        return HadamardProduct(name="hadamard_product")(two_projections(maps, shape.rank))

    def from_full(
        self, full: BilinearClassifier, shape: HeadShape, drawn: Callable[[str], list[NDArray[Any]]], advance: Advance
    ) -> Weights:
        """The rank-d CP decomposition of all products' forms."""
        factors = factorize(full.weights, shape.rank, symmetric=full.symmetric, scales=full.scales, advance=advance)
        return {
            "project_u": as_convolution(factors.u),
            "project_v": as_convolution(factors.v),
            "logits": [factors.p, full.bias],
        }

    def folded(self, weights: Mapping[str, list[NDArray[Any]]], scale: Any, shift: Any) -> Weights:
        """The rows of U take the scale."""
        return {"project_u": [weights["project_u"][0] * scale], "tail_BN": [shift]}


HEAD = Hadamard()
