"""Compares what a device computes for the golden photos with what the model computed when it was exported.

Runtimes differ in how they round, so outputs are compared in quantization steps and not bit by bit. A step is 1/256 of
probability: what a uint8 output distinguishes; float outputs are held to the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import GOLDEN_NAME, Bundle, Precision
from edgebcnn.errors import BundleError
from edgebcnn.report.agreement import Proportion, accuracy, agreement
from edgebcnn.untrusted.files import ArrayFile, open_file

STEPS = 256
_MAX_GOLDEN_BYTES = 2 << 30  # 2,000 photos of 512 px have 1.6 GB

FAR_STEPS = 32
"""A photo is far off when one of its probabilities differs by more.

On real photos and an int8 model, a GPU in float16 was at most 7 steps off, kernels that round differently 11. Where
softmax is steepest, two steps of one logit come to 25.
"""
TOLERATED_SHARE = 0.05  # photos that lie between two products may be far off: runtimes differ on 1 to 3.5 % of top-1
FAR_TYPICAL_STEPS = 8  # half of the photos must be nearer than this; 1 step was seen


@dataclass(frozen=True)
class GoldenAnswers:
    """What the golden photos of a bundle show, and what models made of them at export.

    Attributes:
        class_ids: `(n,)` int64, what they show.
        full: `(n, classes)` float32 probabilities of the full model.
        edge: `(n, classes)` float32 probabilities of the edge model.
        hard: `(n,)` bool, photos that were chosen because the models differ on them, or nearly do. They show whether a
            device computes the same; a share that holds them says nothing of how good the model is.
    """

    class_ids: NDArray[np.int64]
    full: NDArray[np.float32]
    edge: NDArray[np.float32]
    hard: NDArray[np.bool_]

    def accuracy(self, outputs: NDArray[np.float32]) -> Proportion:
        """Share of the photos, without the hard ones, of which outputs `(n, classes)` name the product."""
        return accuracy(_top1(outputs)[~self.hard], self.class_ids[~self.hard])

    def agreement(self, outputs: NDArray[np.float32]) -> Proportion:
        """Share of the photos, without the hard ones, of which outputs `(n, classes)` say what the full model says."""
        return agreement(_top1(outputs)[~self.hard], _top1(self.full)[~self.hard])


@dataclass(frozen=True)
class Golden(GoldenAnswers):
    """The golden photos of a bundle, with those answers.

    Attributes:
        pixels: `(n, height_px, width_px, 3)` uint8 RGB.
    """

    pixels: NDArray[np.uint8]


@dataclass(frozen=True)
class Difference:
    """How far two outputs for the same photos lie apart, in steps of 1/256.

    Attributes:
        photos: How many photos.
        same_top1: Photos with the same most probable product.
        most_steps: Largest difference of a probability.
        typical_steps: Median over photos of the largest difference in each.
        far: Photos with a difference of more than `FAR_STEPS`.
    """

    photos: int
    same_top1: int
    most_steps: float
    typical_steps: float
    far: int

    @property
    def is_rounding(self) -> bool:
        """Whether runtimes that are right differ by as much; False where an output was NaN."""
        return self.far <= TOLERATED_SHARE * self.photos and self.typical_steps <= FAR_TYPICAL_STEPS

    def __str__(self) -> str:
        """`same product on 48 of 48 photos, 7 steps of 1/256 apart at most, 1 typically`."""
        return (
            f"same product on {self.same_top1} of {self.photos} photos, {self.most_steps:.3g} steps of 1/{STEPS} apart "
            f"at most, {self.typical_steps:.2g} typically"
        )

    def as_json(self) -> dict[str, Any]:
        """Every figure by name; null for a difference from NaN or infinity."""
        figures = asdict(self)
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def difference(outputs: NDArray[np.float32], expected: NDArray[np.float32]) -> Difference:
    """Compares `(n, classes)` probabilities with what was expected."""
    largest = STEPS * np.abs(outputs.astype(np.float64) - expected).max(axis=1)
    return Difference(
        photos=len(outputs),
        same_top1=int((_top1(outputs) == _top1(expected)).sum()),
        most_steps=float(largest.max()),
        typical_steps=float(np.median(largest)),
        far=int((~(largest <= FAR_STEPS)).sum()),  # NaN is far
    )


def read_golden(bundle: Bundle, precision: Precision) -> Golden:
    """Reads the golden photos of a bundle, with the outputs of one of its models.

    Raises:
        BundleError: the bundle has none, or they do not fit its other files.
    """
    with closing(GoldenFile(bundle, precision)) as file:
        pixels = np.empty(file.shape, np.uint8)
        for place, photo in zip(pixels, file.photos(), strict=True):
            place[:] = photo
    return Golden(**vars(file.answers), pixels=pixels)


class GoldenFile:
    """The golden photos of a bundle, one at a time: all at once they take tens of MB of a device's memory.

    The file stays open: a bundle that another replaces meanwhile is still the one that its models are compared with.

    Args:
        bundle: The bundle.
        precision: The model file whose answers are read.

    Attributes:
        answers: What models made of the photos at export.
        shape: `(n, height_px, width_px, 3)`.

    Raises:
        BundleError: the bundle has none, or they do not fit its other files.
    """

    def __init__(self, bundle: Bundle, precision: Precision) -> None:
        self._path, edge = bundle.path / GOLDEN_NAME, f"edge_{precision}"
        try:
            self._file = open_file(self._path)
        except OSError as error:
            raise BundleError(f"{self._path} cannot be read ({error.strerror}): export the bundle again") from error
        try:
            self._archive = ArrayFile(self._file, max_bytes=_MAX_GOLDEN_BYTES)
            arrays = self._checked_arrays(bundle, edge)
        except ValueError as error:
            self._file.close()
            raise BundleError(
                f"{self._path} has no golden photos for {precision} ({error}): export the bundle again"
            ) from error
        edges = arrays[edge].astype(np.float32) / np.float32(STEPS if arrays[edge].dtype == np.uint8 else 1)
        self.answers = GoldenAnswers(
            arrays["class_ids"].astype(np.int64, copy=False),
            arrays["full"].astype(np.float32, copy=False),
            edges,
            arrays["hard"].astype(np.bool_, copy=False),
        )

    def photos(self) -> Iterator[NDArray[np.uint8]]:
        """Yields each photo, `(height_px, width_px, 3)` uint8 RGB, in the order of the answers.

        Raises:
            BundleError: the file cannot be read any more.
        """
        try:
            yield from self._archive.rows("pixels")
        except ValueError as error:
            raise BundleError(f"{self._path} cannot be read any more ({error}): copy the bundle again") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _checked_arrays(self, bundle: Bundle, edge: str) -> dict[str, NDArray[Any]]:
        """The answers, each of the type and shape that the bundle's other files ask for."""
        size = bundle.manifest.preprocessing
        self.shape = self._archive.header("pixels").shape
        n, outputs = self.shape[0] if self.shape else 0, (*self.shape[:1], len(bundle.labels))
        expected: dict[str, tuple[str, tuple[int, ...]]] = {
            "pixels": ("u", (n, size.height_px, size.width_px, 3)),
            "class_ids": ("iu", (n,)),
            "full": ("f", outputs),
            edge: ("uf", outputs),
        }
        if "hard" in self._archive.names:  # older bundles have no hard photos
            expected["hard"] = ("b", (n,))
        for name, (kinds, shape) in expected.items():
            found = self._archive.header(name)
            if not n or found.shape != shape or found.dtype.kind not in kinds:
                raise ValueError(f"{name} is {found.dtype} {found.shape}, not {shape}")
        if self._archive.header("pixels").dtype != np.uint8:
            raise ValueError("pixels are not uint8")
        arrays = {name: self._archive.read(name) for name in expected if name != "pixels"}
        arrays.setdefault("hard", np.zeros(n, np.bool_))
        if not 0 <= int(arrays["class_ids"].min()) <= int(arrays["class_ids"].max()) < len(bundle.labels):
            raise ValueError("class_ids name products that the bundle lacks")
        return arrays


def _top1(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Most probable class of each row; -1 where there is none, because something in it is NaN."""
    return np.where(np.isnan(outputs).any(axis=1), -1, outputs.argmax(axis=1))
