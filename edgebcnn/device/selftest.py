"""Does a device compute for the golden photos what the model computed when it was exported?

Runtimes differ in how they round, so outputs are compared in quantization steps and not bit by bit. A step is 1/256 of
probability: what a uint8 output distinguishes; float outputs are held to the same.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import asdict, dataclass
from typing import Any

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
class Golden:
    """The golden photos of a bundle and what models made of them at export.

    Attributes:
        pixels: `(n, height_px, width_px, 3)` uint8 RGB.
        class_ids: `(n,)` int64, what they show.
        full: `(n, classes)` float32 probabilities of the full model.
        edge: `(n, classes)` float32 probabilities of the edge model.
        hard: `(n,)` bool, photos that were chosen because the models differ on them, or nearly do. They show whether a
            device computes the same; a share that holds them says nothing of how good the model is.
    """

    pixels: NDArray[np.uint8]
    class_ids: NDArray[np.int64]
    full: NDArray[np.float32]
    edge: NDArray[np.float32]
    hard: NDArray[np.bool_]

    def accuracy(self, outputs: NDArray[np.float32]) -> Proportion:
        """Share of the photos, without the hard ones, of which outputs `(n, classes)` name the product."""
        return accuracy(outputs.argmax(axis=1)[~self.hard], self.class_ids[~self.hard])

    def agreement(self, outputs: NDArray[np.float32]) -> Proportion:
        """Share of the photos, without the hard ones, of which outputs `(n, classes)` say what the full model says."""
        return agreement(outputs.argmax(axis=1)[~self.hard], self.full.argmax(axis=1)[~self.hard])


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
        """Every figure by name; null for a difference from NaN."""
        figures = asdict(self)
        return {name: None if value != value else value for name, value in figures.items()}


def difference(outputs: NDArray[np.float32], expected: NDArray[np.float32]) -> Difference:
    """Compares `(n, classes)` probabilities with what was expected."""
    largest = STEPS * np.abs(outputs.astype(np.float64) - expected).max(axis=1)
    return Difference(
        photos=len(outputs),
        same_top1=int((outputs.argmax(axis=1) == expected.argmax(axis=1)).sum()),
        most_steps=float(largest.max()),
        typical_steps=float(np.median(largest)),
        far=int((~(largest <= FAR_STEPS)).sum()),  # NaN is far
    )


def read_golden(bundle: Bundle, precision: Precision) -> Golden:
    """Reads the golden photos of a bundle, with the outputs of one of its models.

    Raises:
        BundleError: the bundle has none, or they do not fit its other files.
    """
    path, edge = bundle.path / GOLDEN_NAME, f"edge_{precision}"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path} cannot be read ({error.strerror}): export the bundle again") from error
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in ("pixels", "class_ids", "full", edge)}
            # Bundles of before had no hard photos.
            arrays["hard"] = archive["hard"] if "hard" in archive.files else np.zeros(len(arrays["pixels"]), np.bool_)
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path} has no golden photos for {precision}: export the bundle again") from error
    size = bundle.manifest.preprocessing
    n, outputs = len(arrays["pixels"]), (len(arrays["pixels"]), len(bundle.labels))
    pixels = (n, size.height_px, size.width_px, 3)
    expected = {"pixels": pixels, "class_ids": (n,), "hard": (n,), "full": outputs, edge: outputs}
    for name, shape in expected.items():
        if arrays[name].shape != shape or not n:
            raise BundleError(f"{path}: {name} has shape {arrays[name].shape}, not {shape}: export the bundle again")
    probabilities = arrays[edge].astype(np.float32) / (STEPS if arrays[edge].dtype == np.uint8 else 1)
    return Golden(arrays["pixels"], arrays["class_ids"], arrays["full"], probabilities, arrays["hard"])
