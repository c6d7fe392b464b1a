"""Outer product: every pair of channels, as published for the full model (Lin et al. 2015, arXiv 1504.07889)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgebcnn.model.head import Head, HeadShape


class Outer(Head):
    """X = AᵀB / L, flattened."""

    tails = ("sqrt",)

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds the outer product."""
        from edgebcnn.model.pooling import OuterProduct

        return OuterProduct(name="outer_product")([maps[0], maps[-1]])


HEAD = Outer()
