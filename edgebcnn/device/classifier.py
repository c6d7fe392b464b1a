"""Turns a frame into a prediction: preprocessing, inference and dequantization."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, Label, ModelFile, Precision, Tensor
from edgebcnn.device.admission import admit
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.runtime import Runtime, TensorSpec, load_runtime
from edgebcnn.errors import BundleError, DeviceError
from edgebcnn.preprocessing import Preprocessing, read_photo

PREFERRED: tuple[Precision, ...] = ("int8", "mixed", "dynamic", "fp16", "float32", "int16")
"""The smallest and fastest first; int16 last, because no CPU is fast at it."""

BATCH_TOLERANCE = 1 / 128  # two steps of a uint8 probability: other kernels may round otherwise
INT8_OFFSET = 128  # an int8 input is the uint8 pixel less this


Image = str | os.PathLike[str] | NDArray[np.uint8]
"""A photo's path, or a `(h, w, 3)` uint8 array."""

ColorOrder = Literal["bgr", "rgb"]
"""Order of the channels of an image: OpenCV reads BGR, Pillow and most other libraries RGB."""


@dataclass(frozen=True)
class RankedProduct:
    """A product that an image may show.

    Attributes:
        class_id: Its index in the bundle's labels.
        label: Its name.
        gtin: Its GTIN/UPC, where the bundle has one.
        score: Its probability, 0-1.
    """

    class_id: int
    label: str
    gtin: str | None
    score: float


@dataclass(frozen=True)
class Prediction:
    """The product of one image, and the scores of all products.

    Attributes:
        class_id: Index of the most probable product in `labels`; the lowest among equals.
        label: Its name.
        score: Its probability, 0-1.
        scores: `(classes,)` float32: the probability of every product, in the order of `labels`.
        labels: All products of the bundle.
    """

    class_id: int
    label: str
    score: float
    scores: NDArray[np.float32] = field(repr=False)
    labels: tuple[Label, ...] = field(repr=False)

    @classmethod
    def of(cls, scores: NDArray[np.float32], labels: Sequence[Label]) -> Prediction:
        """The prediction that scores `(classes,)` float32 make, where `labels` are the products in their order."""
        class_id = int(scores.argmax())
        return cls(class_id, labels[class_id].name, float(scores[class_id]), scores, tuple(labels))

    @property
    def gtin(self) -> str | None:
        """GTIN/UPC of the most probable product, where the bundle has one."""
        return self.labels[self.class_id].gtin

    def top(self, k: int = 5) -> tuple[RankedProduct, ...]:
        """The k most probable products, best first; equals in the order of their ids, as `class_id` is chosen."""
        ranked = np.argsort(-self.scores, kind="stable")[:k]
        products = ((int(class_id), self.labels[class_id]) for class_id in ranked)
        return tuple(
            RankedProduct(class_id, label.name, label.gtin, float(self.scores[class_id]))
            for class_id, label in products
        )


@runtime_checkable
class BatchRuntime(Protocol):
    """A runtime that may run several photos at once."""

    def invoke_batch(self, batch: NDArray[Any]) -> NDArray[Any] | None:
        """Runs the model on `(n, h, w, 3)`; None where it takes one photo alone."""
        ...


@dataclass(frozen=True)
class Receipt:
    """What ran a model.

    Attributes:
        runtime: Name of the runtime.
        version: Its version.
        delegate: What took ops from the runtime's own kernels; None where nothing did.
        adapter: The processor behind the delegate, where it says so.
        threads: CPU threads; None where the CPU does not compute.
        ops_taken: How many ops the delegate took.
        ops_left: How many it left.
        left: Names of the ops that it left, with their number.
        precision: The model file.
        fallback: Why the CPU computes what a device profile wanted elsewhere; None where it did not.
    """

    runtime: str
    version: str
    delegate: str | None
    adapter: str | None
    threads: int | None
    ops_taken: int
    ops_left: int
    left: dict[str, int]
    precision: Precision
    fallback: str | None = None

    @classmethod
    def of(cls, runtime: Runtime, precision: Precision, *, fallback: str | None = None) -> Receipt:
        """The receipt of a loaded model."""
        return cls(
            runtime=runtime.name,
            version=runtime.version,
            delegate=runtime.delegate,
            adapter=runtime.adapter,
            threads=runtime.threads,
            ops_taken=len(runtime.taken),
            ops_left=len(runtime.left),
            left=dict(sorted(Counter(runtime.left).items())),
            precision=precision,
            fallback=fallback,
        )

    def __str__(self) -> str:
        """`LiteRT 2.3.0 · XNNPACK · 2 threads · 68 of 68 ops · int8`."""
        parts = [f"{self.runtime} {self.version}", self.delegate or "no delegate"]
        if self.adapter:
            parts.append(self.adapter)
        if self.threads:
            parts.append(f"{self.threads} thread{'s' if self.threads != 1 else ''}")
        parts += [f"{self.ops_taken} of {self.ops_taken + self.ops_left} ops", self.precision]
        if self.fallback:
            parts.append(f"CPU FALLBACK: {self.fallback}")
        return " · ".join(parts)

    @property
    def left_in_words(self) -> str:
        """`2 QUANTIZE, 1 SOFTMAX`."""
        return ", ".join(f"{count} {name}" for name, count in self.left.items())

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


class Classifier:
    """A bundle's model in a runtime, with the bundle's preprocessing and labels; `edgebcnn.load` opens one.

    Several threads may use it, as frames and golden photos do; a runtime itself serves one at a time. `close`, or the
    end of a `with` block, frees the model.

    Attributes:
        labels: Products, in the order of the model's outputs.
        receipt: What runs it.
    """

    def __init__(
        self,
        runtime: Runtime,
        labels: Sequence[Label],
        *,
        preprocessing: Preprocessing,
        precision: Precision,
        fallback: str | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.receipt = Receipt.of(runtime, precision, fallback=fallback)
        self._loaded: Runtime | None = runtime
        self._invoking = threading.Lock()
        self._preprocessing = preprocessing
        self._takes_batches = isinstance(runtime, BatchRuntime)
        self._batches_are_checked = False

    @classmethod
    def from_bundle(
        cls,
        bundle: Bundle,
        *,
        precision: Precision | None = None,
        threads: int | None = None,
        profile: DeviceProfile | None = None,
        fallback: str | None = None,
    ) -> Classifier:
        """Loads one of a bundle's models and runs it once, so that the first frame does not pay for the set-up.

        A file that this machine has not run yet is tried first, in a process of its own (`edgebcnn.device.admission`).
        Whether a profile's delegate computes what it should is not looked at; `edgebcnn.device.delegate` does that.

        Args:
            bundle: The bundle.
            precision: Which model; by default as `preferred_precision` chooses.
            threads: CPU threads; by default the profile's.
            profile: Runtime and delegate; by default the CPU.
            fallback: For the receipt: why the CPU computes what another profile wanted elsewhere.

        Raises:
            BundleError: there is no model of that precision, or its file crashes or does not fit the manifest.
            DeviceError: the runtime or the delegate is not installed, or cannot load the model.
        """
        chosen = precision or preferred_precision(bundle, profile)
        admit(bundle.model_path(chosen), profile, threads=threads)
        return cls.load_untried(bundle, precision=chosen, threads=threads, profile=profile, fallback=fallback)

    @classmethod
    def load_untried(
        cls,
        bundle: Bundle,
        *,
        precision: Precision | None = None,
        threads: int | None = None,
        profile: DeviceProfile | None = None,
        fallback: str | None = None,
    ) -> Classifier:
        """Loads like `from_bundle`, but in this process at once, which a damaged model file may crash.

        For a process that is itself a trial, and for files that this process has written or tried.

        Args:
            bundle: As `from_bundle`, and so are the others.
            precision: Which model.
            threads: CPU threads.
            profile: Runtime and delegate.
            fallback: For the receipt.

        Raises:
            BundleError: as `from_bundle`.
            DeviceError: as `from_bundle`.
        """
        chosen = precision or preferred_precision(bundle, profile)
        path = bundle.model_path(chosen)
        runtime = load_runtime(path, profile, threads=threads)
        preprocessing = bundle.manifest.preprocessing
        _check_model(path, runtime, bundle.manifest.models[chosen], preprocessing, classes=len(bundle.labels))
        runtime.invoke(np.zeros(runtime.input.shape, runtime.input.dtype))
        return cls(runtime, bundle.labels, preprocessing=preprocessing, precision=chosen, fallback=fallback)

    def __enter__(self) -> Classifier:
        """The classifier, which the end of the `with` block closes."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Frees the model and its delegate; the classifier cannot be used afterwards."""
        with self._invoking:
            self._loaded = None

    def classify(self, image: Image, *, color: ColorOrder = "bgr") -> Prediction:
        """Predicts the product of one image.

        Args:
            image: A photo's path, or a `(h, w, 3)` uint8 array of any size, such as a frame of OpenCV.
            color: Order of the channels of an array.

        Raises:
            UnreadablePhotoError: the photo cannot be read.
            ValueError: the array is no 8-bit color image.
        """
        return self.predict(self.prepare(read_image(image, color=color)))

    def classify_many(self, images: Sequence[Image], *, color: ColorOrder = "bgr") -> list[Prediction]:
        """Predicts the product of each image, in one inference where the runtime can.

        Args:
            images: As for `classify`; all are held in memory.
            color: Order of the channels of arrays.

        Raises:
            UnreadablePhotoError: a photo cannot be read.
            ValueError: an array is no 8-bit color image.
        """
        if not images:
            return []
        scores = self.scores([read_image(image, color=color) for image in images])
        return [Prediction.of(row, self.labels) for row in scores]

    def prepare(self, frame_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Prepares one frame as the bundle says; another thread may, while the model runs.

        Args:
            frame_bgr: `(h, w, 3)` uint8 BGR, of any size.

        Returns:
            `(height_px, width_px, 3)` uint8 RGB.
        """
        return self._preprocessing.apply(frame_bgr)

    def predict(self, pixels_rgb: NDArray[np.uint8]) -> Prediction:
        """Predicts the product of one frame that is prepared.

        Args:
            pixels_rgb: `(height_px, width_px, 3)` uint8 RGB, from `prepare`.
        """
        return Prediction.of(self.probabilities(pixels_rgb[np.newaxis])[0], self.labels)

    def scores(self, frames_bgr: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Probabilities of several frames, in one invoke where the runtime allows.

        The first batch is also run photo by photo: a graph that computes other values from a batch gets no second one.

        Args:
            frames_bgr: Each `(h, w, 3)` uint8 BGR, of any size; one at least.

        Returns:
            `(n, classes)` float32.
        """
        pixels = np.stack([self._preprocessing.apply(frame) for frame in frames_bgr])
        if len(pixels) == 1 or not self._takes_batches:
            return self.probabilities(pixels)
        assert isinstance(self._runtime, BatchRuntime)
        with self._invoking:
            output = self._runtime.invoke_batch(self._model_input(pixels))
        batched = None if output is None else _dequantized(output, self._runtime.output)
        if batched is not None and self._batches_are_checked:
            return batched
        single = self.probabilities(pixels)
        self._batches_are_checked = True
        self._takes_batches = batched is not None and bool(np.abs(batched - single).max() <= BATCH_TOLERANCE)
        return single

    def probabilities(self, pixels_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Probabilities of photos that are already prepared, one photo at a time.

        Args:
            pixels_rgb: `(n, height_px, width_px, 3)` uint8 RGB, from `Preprocessing.apply`.

        Returns:
            `(n, classes)` float32.

        Raises:
            ValueError: another dtype or shape.
        """
        expected = self._runtime.input.shape[1:]
        if pixels_rgb.dtype != np.uint8 or pixels_rgb.shape[1:] != expected:
            raise ValueError(f"pixels must be uint8 (n, {expected}), not {pixels_rgb.dtype} {pixels_rgb.shape}")
        probabilities = np.empty((len(pixels_rgb), len(self.labels)), np.float32)
        for row, pixels in zip(probabilities, pixels_rgb, strict=True):
            with self._invoking:
                output = self._runtime.invoke(self._model_input(pixels)[np.newaxis])
            row[:] = _dequantized(output[0], self._runtime.output)
        return probabilities

    @property
    def _runtime(self) -> Runtime:
        if self._loaded is None:
            raise DeviceError("this classifier is closed: load the bundle again")
        return self._loaded

    def _model_input(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        dtype = self._runtime.input.dtype
        if dtype == np.uint8:
            return pixels
        if dtype == np.int8:
            return (pixels.astype(np.int16) - INT8_OFFSET).astype(np.int8)
        return self._preprocessing.normalize(pixels)


def read_image(image: Image, *, color: ColorOrder = "bgr") -> NDArray[np.uint8]:
    """`(h, w, 3)` uint8 BGR of a photo's path or of an array whose channels are in the order of `color`.

    Raises:
        UnreadablePhotoError: the photo cannot be read.
        ValueError: the array is no 8-bit color image; nothing is guessed from its values.
    """
    if isinstance(image, str | os.PathLike):
        return read_photo(Path(image))
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ValueError(f"an image is a path or a uint8 array (height, width, 3), not {found}: convert it")
    if not image.size:
        raise ValueError(f"an image needs at least one pixel, this array is {image.shape}")
    if color not in get_args(ColorOrder):
        raise ValueError(f"color={color!r} is unknown: give 'bgr' or 'rgb'")
    return image if color == "bgr" else np.ascontiguousarray(image[..., ::-1])


def preferred_precision(bundle: Bundle, profile: DeviceProfile | None = None) -> Precision:
    """The profile's precision where the bundle has it, the first of `PREFERRED` that it has otherwise."""
    order = (profile.precision, *PREFERRED) if profile else PREFERRED
    return next(precision for precision in order if precision in bundle.manifest.models)


def _dequantized(output: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    if spec.dtype == np.float32:
        return output
    # In the output's own 8 bits, subtracting the zero point would wrap around.
    return (output.astype(np.int32) - spec.zero_point).astype(np.float32) * np.float32(spec.scale)


def _check_model(
    path: Path, runtime: Runtime, declared: ModelFile, preprocessing: Preprocessing, *, classes: int
) -> None:
    _check_tensor(path, "input", runtime.input, declared.input, (1, preprocessing.height_px, preprocessing.width_px, 3))
    _check_tensor(path, "output", runtime.output, declared.output, (1, classes))


def _check_tensor(path: Path, role: str, found: TensorSpec, declared: Tensor, shape: tuple[int, ...]) -> None:
    expected = {"shape": shape, "dtype": declared.dtype, "scale": declared.scale, "zero point": declared.zero_point}
    actual = {"shape": found.shape, "dtype": found.dtype.name, "scale": found.scale, "zero point": found.zero_point}
    for name, value in expected.items():
        same = actual[name] == value
        if name == "scale" and declared.scale is not None:
            same = math.isclose(found.scale, declared.scale, rel_tol=1e-6)  # float32 in the file, decimal in the JSON
        if value is not None and not same:
            raise BundleError(
                f"{path}: its {role} has {name} {actual[name]}, the bundle says {value}: export the bundle again"
            )
