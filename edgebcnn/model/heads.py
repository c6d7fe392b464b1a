"""Which poolings there are, what sizes each one, and what may follow it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CompactPooling = Literal["hadamard", "quadratic", "projected", "lrbc", "maclaurin", "tensor_sketch", "gap"]
Pooling = Literal["outer", CompactPooling]
Tail = Literal["tanh", "sqrt", "l2", "none"]


@dataclass(frozen=True)
class Head:
    """What one pooling takes.

    Attributes:
        tails: What may follow it; the first one if nothing is said.
        rank: Its size if nothing is said; None where the feature map decides.
    """

    tails: tuple[Tail, ...]
    rank: int | None = None


HEADS: dict[Pooling, Head] = {
    "outer": Head(tails=("sqrt",)),
    "hadamard": Head(tails=("tanh", "sqrt", "l2"), rank=512),
    # Of MobileNetV2 and 81 products, just below a twentieth of the outer product's parameters.
    "quadratic": Head(tails=("tanh", "sqrt", "l2"), rank=1016),
    # The outer product of d channels each, whose descriptor and classifier grow with d².
    "projected": Head(tails=("tanh", "sqrt", "l2"), rank=64),
    "lrbc": Head(tails=("none",), rank=100),
    "maclaurin": Head(tails=("tanh", "sqrt", "l2"), rank=2048),
    "tensor_sketch": Head(tails=("tanh", "sqrt", "l2"), rank=2048),
    "gap": Head(tails=("none",)),
}


def check(pooling: Pooling, rank: int | None, tail: Tail | None) -> None:
    """Checks that a pooling takes that rank and that tail, where they are given.

    Raises:
        ValueError: it does not.
    """
    head = HEADS[pooling]
    if rank is not None and head.rank is None:
        raise ValueError(f"{pooling} pooling has no rank: leave it out")
    if rank is not None and pooling == "tensor_sketch" and (rank < 2 or rank & (rank - 1)):
        raise ValueError(f"tensor_sketch takes a rank that is a power of two, as the FFT of TFLite does, not {rank}")
    if rank is not None and pooling == "quadratic" and rank % 2:
        raise ValueError(f"quadratic takes an even rank, for as many positive squares as negative ones, not {rank}")
    if tail is not None and tail not in head.tails:
        raise ValueError(f"{pooling} pooling takes no {tail} tail: leave it out")
