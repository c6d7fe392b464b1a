"""How does a Keras model become a `.tflite` file?

| precision | weights                      | between ops | input and output              |
|-----------|------------------------------|-------------|-------------------------------|
| `int8`    | int8, a scale per channel    | int8        | uint8 pixels, uint8 in 1/256  |
| `fp16`    | float16                      | float32     | float32                       |
| `float32` | float32                      | float32     | float32                       |

int8 files can have int8 input and output as well: the same less 128, for accelerators that take nothing else.

Every file has one signature, `image` to `probabilities`, for one photo. The same model and pixels give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision, Tensor
from edgebcnn.device.classifier import INT8_OFFSET
from edgebcnn.errors import EdgebcnnError, QuantizationError
from edgebcnn.model.keras import keras, tf
from edgebcnn.native import muted_native_stderr
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance

QuantizedIo = Literal["uint8", "int8"]

MAX_LEVELS_OFF = 0.51
"""Of 256 grey levels: the zero point is a whole number and a mean of 127.5 is not, so that all pixels look half a level
brighter or darker to an int8 model. No photo is that exact."""

_NAMED_OPS = re.compile(r"(?:TF Select|Custom) ops: ([\w, ]+)|Node number \d+ \((\w+)\)")


def convert(
    model: keras.Model,
    precision: Precision,
    *,
    preprocessing: Preprocessing,
    calibration_u8: NDArray[np.uint8] | None = None,
    io: QuantizedIo = "uint8",
    advance: Advance = lambda photos: None,
) -> bytes:
    """Converts a model of logits to a model of probabilities in one `.tflite` file.

    Args:
        model: `(n, h, w, 3)` float32 image, normalized, to `(n, k)` logits.
        precision: Numbers to compute in.
        preprocessing: The model's.
        calibration_u8: `(n, h, w, 3)` uint8 RGB photos to take the ranges of `int8` from.
        io: What `int8` takes and gives.
        advance: Called with 1 after each calibration photo that was run.

    Raises:
        QuantizationError: TFLite has no op for a part of the model, or cannot calibrate it.
        ValueError: int8 without calibration photos.
    """
    module = _module(model, preprocessing)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([module.serve.get_concrete_function()], module)
    if precision == "fp16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    elif precision == "int8":
        if calibration_u8 is None or not len(calibration_u8):
            raise ValueError("int8 needs calibration photos")
        photos = _with_black_and_white(calibration_u8)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _representative(photos, preprocessing, advance)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.as_dtype(io)
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


def _with_black_and_white(photos_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The photos with one corner pixel black and one white, so that the input's range is all of 0-255."""
    photos_u8 = photos_u8.copy()
    photos_u8[0, 0, 0] = 0
    photos_u8[0, -1, -1] = 255
    return photos_u8


def _representative(
    photos_u8: NDArray[np.uint8], preprocessing: Preprocessing, advance: Advance
) -> Iterator[list[NDArray[np.float32]]]:
    for photo_u8 in photos_u8:
        yield [preprocessing.normalize(photo_u8[np.newaxis])]
        advance(1)


def converted(converter: tf.lite.TFLiteConverter, precision: Precision) -> bytes:
    """What a converter, set to that precision, makes; without a word on the terminal.

    Raises:
        QuantizationError: TFLite has no op for a part of the model, or cannot calibrate it.
    """
    try:
        with muted_native_stderr():
            content: bytes = converter.convert()
    except EdgebcnnError:  # whoever is told of the progress may end the work
        raise
    except Exception as error:  # the converter's own exception is private and derives from nothing narrower
        raise QuantizationError(_reason(str(error), precision)) from error
    return content


def _reason(message: str, precision: Precision) -> str:
    named = {op for match in _NAMED_OPS.finditer(message) for op in (match[1] or match[2]).split(", ")}
    if named:
        return f"{', '.join(sorted(named))} has no {precision} form in TFLite: train with another pooling or tail"
    first_line, _, _ = message.strip().partition("\n")
    return f"the model cannot be converted to {precision} TFLite: {first_line}"
