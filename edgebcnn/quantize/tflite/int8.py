"""Quantizes a float model file to int8 with ranges that we choose.

    observe on photos ── choose a range for each tensor ── TensorFlow's quantizer ── correct the biases ── once more
            └── scale the channels, where a recipe says so ── observe again

Outlier splitting comes first: the few weights of a dense layer that are far larger than its others.

TensorFlow's own converter does the same with min-max ranges and the biases as they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision
from edgebcnn.errors import EdgebcnnError, QuantizationError
from edgebcnn.model.keras import tf, tflite_quantizer
from edgebcnn.model.pooling import SQRT_EPSILON
from edgebcnn.native import muted_native_stderr
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance
from edgebcnn.quantize.calibration.observe import Activation, annotated, observe, ranges_in_file
from edgebcnn.quantize.calibration.ranges import Int8Rules, Range, choose_range, share_clipped, sqnr_db
from edgebcnn.quantize.tflite.bias import bias_corrected
from edgebcnn.quantize.tflite.equalize import Equalized, equalized
from edgebcnn.quantize.tflite.outliers import without_outliers
from edgebcnn.report.calibration import EqualizedGroup, TensorRange

QuantizedIo = Literal["uint8", "int8"]

_NAMED_OPS = re.compile(r"(?:TF Select|Custom) ops: ([\w, ]+)|Node number \d+ \((\w+)\)|for op: '(\w+)'")


@dataclass(frozen=True)
class RangedFloatModel:
    """A float model file and the ranges from which its int8 form is quantized.

    Attributes:
        float_tflite: Content of the file.
        ranges: Of its tensors, by `Activation.index`.
        means: E[x] of the channels of its tensors where biases are to be corrected; empty where they are not.
    """

    float_tflite: bytes
    ranges: Mapping[int, Range]
    means: Mapping[int, NDArray[np.float64]]

    def quantized(self, io: QuantizedIo, *, wide: Collection[str] = ()) -> tuple[bytes, bytes]:
        """The int8 file, and the float file with the biases that it was made of.

        Args:
            io: What the int8 file takes and gives.
            wide: Tensors of the float file whose ops stay in float.

        Raises:
            QuantizationError: TensorFlow cannot quantize the file.
        """
        corrected = self.float_tflite
        content = _quantized(annotated(corrected, self.ranges), io, wide)
        if self.means:
            corrected = bias_corrected(corrected, content, self.means)
            content = _quantized(annotated(corrected, self.ranges), io, wide)
        return content, corrected


@dataclass(frozen=True)
class Int8Model:
    """An int8 model file.

    Attributes:
        content: The file.
        tensors: How its ranges fit the observed values, in the order of computation.
        corrected: The float file with biases that compensate the rounding of its weights.
        ranged: The float file that it was quantized from, with the ranges.
        original: The float file as it was before outlier splitting and equalization, with its means but no ranges; for
            files that stay in float between their ops.
        equalized: Groups of tensors whose channels were scaled for `ranged`.
    """

    content: bytes
    tensors: tuple[TensorRange, ...]
    corrected: bytes
    ranged: RangedFloatModel
    original: RangedFloatModel
    equalized: tuple[EqualizedGroup, ...] = ()


def quantize(
    float_tflite: bytes,
    calibration_u8: NDArray[np.uint8],
    *,
    rules: Int8Rules,
    preprocessing: Preprocessing,
    square_roots: Collection[str] = (),
    io: QuantizedIo = "uint8",
    advance: Advance = lambda photos: None,
) -> Int8Model:
    """Quantizes a float model file. The same file, photos and rules give the same bytes.

    Args:
        float_tflite: Content of the file.
        calibration_u8: `(n, h, w, 3)` uint8 RGB photos, n ≥ 1.
        rules: How ranges are chosen, whether channels are equalized and biases corrected. The image's range is that of
            all pixels, and some ops fix theirs (tanh, softmax).
        preprocessing: The model's.
        square_roots: Names of the layers that take a signed square root.
        io: What the file takes and gives.
        advance: Called with 1 after each photo, in each of `rules.passes`.

    Raises:
        DataError: the rules name a layer that the model lacks.
        QuantizationError: TensorFlow cannot quantize the file.
        ValueError: no calibration photos.
    """
    if not len(calibration_u8):
        raise ValueError("int8 needs calibration photos")

    def observed(content: bytes) -> tuple[Activation, ...]:
        try:
            return observe(content, calibration_u8, preprocessing=preprocessing, advance=advance)
        except RuntimeError as error:
            raise refusal(str(error), "int8") from error

    source = without_outliers(float_tflite) if rules.outliers_apart else float_tflite
    activations = observed(source)
    rules.check_layers(name for activation in activations for name in activation.names)
    original, scaled = RangedFloatModel(float_tflite, {}, _means(activations, rules)), Equalized(source, ())
    if rules.equalization:
        scaled = equalized(source, activations)
        activations = observed(scaled.content)
    ranges = {each.index: _chosen(each, rules, preprocessing, square_roots) for each in activations}
    ranged = RangedFloatModel(scaled.content, ranges, _means(activations, rules))
    content, corrected = ranged.quantized(io)
    tensors = _tensors(content, activations, rules)
    return Int8Model(content, tensors, corrected, ranged, original, scaled.groups)


@contextmanager
def converting(precision: Precision) -> Iterator[None]:
    """Keeps a converter quiet, and turns its errors into one sentence.

    Raises:
        QuantizationError: it raised anything but an error of ours.
    """
    try:
        with muted_native_stderr():
            yield
    except EdgebcnnError:  # a progress callback may interrupt the work
        raise
    except Exception as error:  # converters' own exceptions are private and derive from nothing narrower
        raise refusal(str(error), precision) from error


def refusal(message: str, precision: Precision) -> QuantizationError:
    """One sentence from the error of TensorFlow or LiteRT for a model that it cannot convert or run."""
    named = {op for match in _NAMED_OPS.finditer(message) for op in next(filter(None, match.groups())).split(", ")}
    if named:
        ops = ", ".join(sorted(named))
        return QuantizationError(f"{ops} has no {precision} form in TFLite: train with another pooling or tail")
    first_line, _, _ = message.strip().partition("\n")
    return QuantizationError(f"the model cannot be converted to {precision} TFLite: {first_line}")


def _means(activations: Sequence[Activation], rules: Int8Rules) -> dict[int, NDArray[np.float64]]:
    return {activation.index: activation.means for activation in activations} if rules.bias_correction else {}


def _chosen(
    activation: Activation, rules: Int8Rules, preprocessing: Preprocessing, square_roots: Collection[str]
) -> Range:
    if activation.is_input:
        low, high = ((pixel - preprocessing.mean) / preprocessing.std for pixel in (0, 255))
        return Range(low, high)
    before_sqrt = SQRT_EPSILON if activation.feeds.intersection(square_roots) else None
    return choose_range(activation.seen, rules.of(activation.names), before_sqrt=before_sqrt)


def _quantized(annotated_tflite: bytes, io: QuantizedIo, wide: Collection[str]) -> bytes:
    dtype = tf.as_dtype(io)
    with converting("int8"):
        content: bytes = tflite_quantizer()(
            annotated_tflite, input_data_type=dtype, output_data_type=dtype, denylisted_nodes=sorted(wide) or None
        )
    return content


def _tensors(content: bytes, activations: Sequence[Activation], rules: Int8Rules) -> tuple[TensorRange, ...]:
    in_file = ranges_in_file(content)
    return tuple(
        TensorRange(
            name=activation.name,
            method=rules.of(activation.names).range_method,
            lowest=activation.seen.low,
            p0_1=activation.seen.percentile(0.1),
            p99_9=activation.seen.percentile(99.9),
            highest=activation.seen.high,
            low=in_file[activation.tensor].low,
            high=in_file[activation.tensor].high,
            clipped=share_clipped(activation.seen, in_file[activation.tensor]),
            sqnr_db=sqnr_db(activation.seen, in_file[activation.tensor]),
        )
        for activation in activations
        if activation.tensor in in_file
    )
