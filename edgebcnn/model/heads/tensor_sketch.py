"""Tensor Sketch: the circular convolution of two count sketches, by FFT; float only.

Gao et al. 2016, arXiv 1511.06062, algorithm 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.factorize import Array, combine_buckets
from edgebcnn.model.head import BilinearClassifier, Head, HeadShape, Weights
from edgebcnn.progress import Advance


class TensorSketchHead(Head):
    """Mean over locations of (C₁ a) * (C₂ b)."""

    tails = ("tanh", "sqrt", "l2")
    rank = 2048
    starts_from_full = True
    no_int8 = (
        "no TFLite runtime computes its FFT in integers: export it with --fp16, or train with --pooling maclaurin, "
        "which sketches the same and is all integer"
    )

    def check_rank(self, rank: int) -> None:
        """Refuses ranks that the FFT of TFLite does not take."""
        if rank < 2 or rank & (rank - 1):
            raise ValueError(
                f"tensor_sketch takes a rank that is a power of two, as the FFT of TFLite does, not {rank}"
            )

    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds the sketch, whose hashes are drawn and never trained."""
        from edgebcnn.model.pooling import TensorSketch

        return TensorSketch(shape.rank, shape.seed, name="tensor_sketch")([maps[0], maps[-1]])

    def from_full(
        self, full: BilinearClassifier, shape: HeadShape, drawn: Callable[[str], list[NDArray[Any]]], advance: Advance
    ) -> Weights:
        """The mean of the weights that share a bucket."""
        buckets, factors = _buckets(drawn("tensor_sketch"), shape.rank)
        return {"logits": [combine_buckets(full.weights, buckets, factors, shape.rank), full.bias]}


def _buckets(hashes: Sequence[NDArray[Any]], size: int) -> tuple[NDArray[np.integer], Array]:
    """Bucket and factor of every entry of the outer product."""
    a, b = hashes
    buckets = (np.abs(a)[:, np.newaxis] + np.abs(b) - 2) % size
    return buckets, np.outer(np.sign(a), np.sign(b)) * np.sqrt(size / (len(a) * len(b)))


HEAD = TensorSketchHead()
