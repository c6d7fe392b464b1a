"""Converts a Keras model to a `.tflite` file.

| precision | weights                      | between ops | input and output              |
|-----------|------------------------------|-------------|-------------------------------|
| `int8`    | int8, a scale per channel    | int8        | uint8 pixels, uint8 in 1/256  |
| `mixed`   | int8, some layers float32    | int8        | uint8 pixels, uint8 in 1/256  |
| `int16`   | int8, a scale per channel    | int16       | float32                       |
| `dynamic` | int8, a scale per channel    | float32     | float32                       |
| `fp16`    | float16                      | float32     | float32                       |
| `float32` | float32                      | float32     | float32                       |

int8 and mixed files can have int8 input and output as well: the same less 128, for accelerators that take nothing else.
`mixed` and `int16` start from a calibrated int8 model: `edgebcnn.quantize.model_files` makes them.

Every file has one signature, `image` to `probabilities`, for one photo. The same model and pixels give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision, Tensor
from edgebcnn.device.classifier import INT8_OFFSET
from edgebcnn.errors import QuantizationError
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.pooling import SignedSqrt
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance
from edgebcnn.quantize.calibration.ranges import Int8Rules
from edgebcnn.quantize.tflite.int8 import Int8Model, QuantizedIo, converting, quantize

MAX_LEVELS_OFF = 0.51
"""Of 256 grey levels: the zero point is a whole number and a mean of 127.5 is not, so that all pixels look half a level
brighter or darker to an int8 model. No photo is that exact."""

DEFAULT_RULES = Int8Rules()


@dataclass(frozen=True)
class Int8Source:
    """A float model file that int8 files are quantized from, converted once for any number of calibrations.

    Attributes:
        float_tflite: Content of the file.
        square_roots: Names of the layers that take a signed square root.
        preprocessing: The model's.
    """

    float_tflite: bytes
    square_roots: frozenset[str]
    preprocessing: Preprocessing

    def quantized(
        self,
        calibration_u8: NDArray[np.uint8],
        *,
        rules: Int8Rules = DEFAULT_RULES,
        io: QuantizedIo = "uint8",
        advance: Advance = lambda photos: None,
    ) -> Int8Model:
        """Quantizes the file with ranges from photos; see `quantize`."""
        return quantize(
            self.float_tflite,
            calibration_u8,
            rules=rules,
            preprocessing=self.preprocessing,
            square_roots=self.square_roots,
            io=io,
            advance=advance,
        )


def int8_source(model: keras.Model, *, preprocessing: Preprocessing) -> Int8Source:
    """Converts a model of logits to the float file that its int8 form starts from.

    Args:
        model: `(n, h, w, 3)` float32 image, normalized, to `(n, k)` logits.
        preprocessing: The model's.

    Raises:
        QuantizationError: TFLite has no op for a part of the model.
    """
    roots = frozenset(layer.name for layer in model.layers if isinstance(layer, SignedSqrt))
    return Int8Source(float_file(model, "int8", preprocessing=preprocessing), roots, preprocessing)


def float_file(
    model: keras.Model, precision: Precision, *, preprocessing: Preprocessing, runtime_compat: bool = False
) -> bytes:
    """Converts a model of logits to a `.tflite` file of probabilities: `float32`, `fp16` or `dynamic`.

    `int8` gives the float file that it is quantized from, and errors that name int8.

    Args:
        model: `(n, h, w, 3)` float32 image, normalized, to `(n, k)` logits.
        precision: What the file is for.
        preprocessing: The model's.
        runtime_compat: Whether tflite-runtime 2.14 must know every op.

    Raises:
        QuantizationError: TFLite has no op for a part of the model.
    """
    module = _module(model, preprocessing)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    if precision in ("fp16", "dynamic"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "fp16":
        converter.target_spec.supported_types = [tf.float16]
    if runtime_compat:
        # A scale per channel makes its FULLY_CONNECTED, with float activations, one that the old runtime lacks.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    return converted(converter, precision)


def check_pixel_input(tensor: Tensor, preprocessing: Preprocessing) -> None:
    """Checks that a quantized input takes pixels: black is its lowest number, and one grey level is one step.

    Raises:
        QuantizationError: it does not.
    """
    if tensor.dtype == "float32" or tensor.scale is None or tensor.zero_point is None:
        raise QuantizationError(f"the converted model takes {tensor.dtype} and not pixels: please report this bug")
    black = -INT8_OFFSET if tensor.dtype == "int8" else 0
    for pixel in (0, 255):
        seen = (black + pixel - tensor.zero_point) * tensor.scale * preprocessing.std + preprocessing.mean
        if abs(seen - pixel) > MAX_LEVELS_OFF:
            raise QuantizationError(
                f"pixel {pixel} would reach the int8 model as {seen:.1f}, because integers need a zero among their "
                f"values: normalize with a mean in 0-255, not {preprocessing.mean}, and train again"
            )


def _module(model: keras.Model, preprocessing: Preprocessing) -> tf.Module:
    image = tf.TensorSpec((1, preprocessing.height_px, preprocessing.width_px, 3), tf.float32, name="image")
    module = tf.Module()
    # The converter needs the weights; given the model, it would trace every layer of it for nothing.
    module.weights = model.weights

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(model(image, training=False))}

    module.serve = tf.function(serve, autograph=False, input_signature=[image])
    return module


def converted(converter: tf.lite.TFLiteConverter, precision: Precision) -> bytes:
    """What a converter, set to that precision, makes; without a word on the terminal.

    Raises:
        QuantizationError: TFLite has no op for a part of the model, or cannot calibrate it.
    """
    with converting(precision):
        content: bytes = converter.convert()
    return content
