"""The parts that every pooling declares: sizes, tails, layers, and the way from the full model's classifier.

A pooling is one file of `edgebcnn/model/heads/`, whose name is the pooling's and which ends with `HEAD = MyHead()`.
Nothing here and nothing at the top of such a file imports Keras, so that choices are checked before TensorFlow starts.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from edgebcnn.progress import Advance

Tail = Literal["tanh", "sqrt", "l2", "none"]

Weights = dict[str, list[NDArray[Any]]]
"""Weights by layer name, in the order of Keras's `set_weights`."""


@dataclass(frozen=True)
class HeadShape:
    """The sizes of one head.

    Attributes:
        rank: Size d of the pooling; 0 where the feature map decides.
        class_rank: Rank r of each product's quadratic form, for poolings that have one.
        classes: Number of products.
        seed: Seed of the projections that are drawn rather than learned.
    """

    rank: int
    class_rank: int
    classes: int
    seed: int


@dataclass(frozen=True)
class BilinearClassifier:
    """The full model's classifier as a linear function of the outer product X: logits are ⟨Wₖ, X⟩ + bₖ.

    Attributes:
        weights: `(M, N, K)`.
        bias: `(K,)`.
        scales: Root mean square of the channels of each stream, `(M,)` and `(N,)`.
        symmetric: Whether both streams are one, so that X is symmetric.
    """

    weights: NDArray[np.float64]
    bias: NDArray[Any]
    scales: tuple[NDArray[np.float64], NDArray[np.float64]]
    symmetric: bool


class Head(ABC):
    """One pooling and the classifier behind it.

    Attributes:
        tails: Tails that may follow the pooling; the first is the default.
        rank: Default size; None where the feature map decides.
        sweeps: How often `from_full` reports progress.
        starts_from_full: Whether `from_full` is implemented; otherwise the compact model gets the backbone alone.
        scaled_layer: Layer whose kernel sets the size of the logits, and the power of the size that it takes.
        no_int8: Why the pooling has no int8 form, and what to use instead; None where it has one.
    """

    tails: ClassVar[tuple[Tail, ...]]
    rank: ClassVar[int | None] = None
    sweeps: ClassVar[int] = 0
    starts_from_full: ClassVar[bool] = False
    scaled_layer: ClassVar[tuple[str, float]] = ("logits", 1.0)
    no_int8: ClassVar[str | None] = None

    @property
    def name(self) -> str:
        """Name of the pooling, which is that of its file."""
        return type(self).__module__.rpartition(".")[2]

    def check_rank(self, rank: int) -> None:  # noqa: B027 - most poolings take every rank
        """Checks a rank, as far as that needs no streams.

        Raises:
            ValueError: the pooling cannot take it.
        """

    def max_rank(self, channels: Sequence[int]) -> int:
        """Largest rank that computes more than a smaller one, for the channels of each stream."""
        return channels[0] * channels[-1]

    @abstractmethod
    def pool(self, shape: HeadShape, maps: Sequence[Any]) -> Any:
        """Adds the layers from the feature maps, one or two on one grid, to the descriptor `(n, length)`."""

    def classifier(self, shape: HeadShape) -> Any:
        """The layer from the descriptor to the logits, called `logits`."""
        from edgebcnn.model.keras import keras

        return keras.layers.Dense(shape.classes, name="logits")

    def from_full(
        self, full: BilinearClassifier, shape: HeadShape, drawn: Callable[[str], list[NDArray[Any]]], advance: Advance
    ) -> Weights:
        """Weights of the head's layers that come closest to the full model's classifier. No photo is needed.

        Args:
            full: The full model's classifier.
            shape: Sizes of this head.
            drawn: Returns the present weights of a layer of this head, by its name.
            advance: Called with 1, `sweeps` times.
        """
        return {}

    def folded(self, weights: Mapping[str, list[NDArray[Any]]], scale: Any, shift: Any) -> Weights:
        """Weights in which the `tanh` tail's batch normalization x · scale + shift is folded into a projection.

        Args:
            weights: Weights of the model, by layer.
            scale: `(rank,)`.
            shift: `(rank,)`.

        Returns:
            The layers that change, with what is left of the shift for the layer `tail_BN`; empty where the pooling has
            no projection that can take a factor for each channel.
        """
        return {}

    def check(self, rank: int | None, tail: Tail | None) -> None:
        """Checks a rank and a tail, where they are given.

        Raises:
            ValueError: the pooling does not take them.
        """
        if rank is not None and self.rank is None:
            raise ValueError(f"{self.name} pooling has no rank: leave it out")
        if rank is not None:
            self.check_rank(rank)
        if tail is not None and tail not in self.tails:
            raise ValueError(f"{self.name} pooling takes no {tail} tail: leave it out")


def as_convolution(matrix: NDArray[Any]) -> list[NDArray[Any]]:
    """Weights of a 1×1 convolution without bias that multiplies by a matrix `(in, out)`."""
    return [matrix[np.newaxis, np.newaxis]]


def shared_projections(projection: NDArray[Any], full: BilinearClassifier) -> Weights:
    """Weights of the layers that `pooling.shared_projection` makes.

    Args:
        projection: `(M, d)` of one stream, or `(M + N, d)` of two side by side.
        full: The classifier that it was made from.
    """
    if full.symmetric:
        return {"project": as_convolution(projection)}
    channels = len(full.weights)
    return {"project_a": as_convolution(projection[:channels]), "project_b": as_convolution(projection[channels:])}
