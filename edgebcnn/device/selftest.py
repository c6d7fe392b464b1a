"""Does a device compute for the golden photos what the model computed when it was exported?

Runtimes differ in how they round, so outputs are compared in quantization steps and not bit by bit. A step is 1/256 of
probability: what a uint8 output distinguishes; float outputs are held to the same.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import GOLDEN_NAME, Bundle, Precision
from edgebcnn.errors import BundleError
from edgebcnn.report.agreement import Proportion, accuracy, agreement

STEPS = 256

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
            self._file = self._path.open("rb")
        except OSError as error:
            raise BundleError(f"{self._path} cannot be read ({error.strerror}): export the bundle again") from error
        try:
            self._archive = zipfile.ZipFile(self._file)
            arrays = {name: self._array(name) for name in ("class_ids", "full", edge)}
            with self._archive.open("pixels.npy") as pixels:
                self.shape, _ = _header(pixels)
            # Bundles of before had no hard photos.
            known = "hard.npy" in self._archive.namelist()
            arrays["hard"] = self._array("hard") if known else np.zeros(self.shape[0], np.bool_)
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            self._file.close()
            raise BundleError(f"{self._path} has no golden photos for {precision}: export the bundle again") from error
        shapes = {"pixels": self.shape, **{name: array.shape for name, array in arrays.items()}}
        self._check(bundle, shapes, edge)
        edges = arrays[edge].astype(np.float32) / np.float32(STEPS if arrays[edge].dtype == np.uint8 else 1)
        self.answers = GoldenAnswers(arrays["class_ids"], arrays["full"], edges, arrays["hard"])

    def photos(self) -> Iterator[NDArray[np.uint8]]:
        """Yields each photo, `(height_px, width_px, 3)` uint8 RGB, in the order of the answers.

        Raises:
            BundleError: the file cannot be read any more.
        """
        try:
            with self._archive.open("pixels.npy") as stream:
                shape, dtype = _header(stream)
                size = math.prod(shape[1:]) * dtype.itemsize
                for _ in range(shape[0]):
                    yield np.frombuffer(stream.read(size), dtype).reshape(shape[1:])
        except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise BundleError(f"{self._path} cannot be read any more ({error}): copy the bundle again") from error

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _array(self, name: str) -> NDArray[Any]:
        with self._archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)

    def _check(self, bundle: Bundle, shapes: Mapping[str, tuple[int, ...]], edge: str) -> None:
        size = bundle.manifest.preprocessing
        n, outputs = self.shape[0], (self.shape[0], len(bundle.labels))
        pixels = (n, size.height_px, size.width_px, 3)
        expected = {"pixels": pixels, "class_ids": (n,), "hard": (n,), "full": outputs, edge: outputs}
        for name, shape in expected.items():
            if shapes[name] != shape or not n:
                self.close()
                raise BundleError(
                    f"{self._path}: {name} has shape {shapes[name]}, not {shape}: export the bundle again"
                )


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array that follows in the stream, row after row."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    if is_fortran or dtype != np.uint8:
        raise ValueError(f"photos are {dtype}")
    return shape, dtype


def _top1(outputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Most probable class of each row; -1 where there is none, because something in it is NaN."""
    return np.where(np.isnan(outputs).any(axis=1), -1, outputs.argmax(axis=1))
