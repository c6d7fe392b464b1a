"""How does a Keras model become a `.tflite` file?

| precision | weights                      | between ops | input and output              |
|-----------|------------------------------|-------------|-------------------------------|
| `int8`    | int8, a scale per channel    | int8        | uint8 pixels, uint8 in 1/256  |
| `fp16`    | float16                      | float32     | float32                       |
| `float32` | float32                      | float32     | float32                       |

Every file has one signature, `image` to `probabilities`, for one photo. The same model and pixels give the same bytes.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision, Tensor
from edgebcnn.errors import QuantizationError
from edgebcnn.model.keras import keras, tf
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance

_NAMED_OPS = re.compile(r"(?:TF Select|Custom) ops: ([\w, ]+)|Node number \d+ \((\w+)\)")


def convert(
    model: keras.Model,
    precision: Precision,
    *,
    preprocessing: Preprocessing,
    calibration_u8: NDArray[np.uint8] | None = None,
    advance: Advance = lambda photos: None,
) -> bytes:
    """Converts a model of logits to a model of probabilities in one `.tflite` file.

    Args:
        model: `(n, h, w, 3)` float32 image, normalized, to `(n, k)` logits.
        precision: Numbers to compute in.
        preprocessing: The model's.
        calibration_u8: `(n, h, w, 3)` uint8 RGB photos to take the ranges of `int8` from.
        advance: Called with 1 after each calibration photo that was run.

    Raises:
        QuantizationError: the converter has no TFLite op for a part of the model, or int8 input would not be pixels.
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
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    return _converted(converter, precision)


def check_pixel_input(tensor: Tensor, preprocessing: Preprocessing) -> None:
    """Checks that a quantized input is a pixel: one grey level is one step, and black is 0.

    Then frames go in as they are. The zero point must be a whole number and a mean of 127.5 is none, so that all pixels
    look half a grey level brighter to the model; no photo is that exact.

    Raises:
        QuantizationError: it is not.
    """
    if tensor.dtype != "uint8" or tensor.scale is None or tensor.zero_point is None:
        raise QuantizationError(
            f"the converted model takes {tensor.dtype} and not uint8 pixels: please report this bug"
        )
    worst_level = abs(255 * (tensor.scale * preprocessing.std - 1))
    if worst_level > 0.01 or abs(tensor.zero_point - preprocessing.mean) > 0.51:
        raise QuantizationError(
            f"a grey level is not one step of the converted input (scale {tensor.scale:.6g}, zero point "
            f"{tensor.zero_point}): normalize with a mean in 0-255, not {preprocessing.mean}, and train again"
        )


def _module(model: keras.Model, preprocessing: Preprocessing) -> tf.Module:
    image = tf.TensorSpec((1, preprocessing.height_px, preprocessing.width_px, 3), tf.float32, name="image")
    module = tf.Module()
    # The converter needs the weights; given the model, it would trace every layer of it for nothing.
    module.weights = model.weights

    def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"probabilities": tf.nn.softmax(model(image, training=False))}

    module.serve = tf.function(serve, input_signature=[image])
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


def _converted(converter: tf.lite.TFLiteConverter, precision: Precision) -> bytes:
    try:
        with _muted_native_stderr():
            content: bytes = converter.convert()
    # The converter's own exception is private and derives from nothing narrower.
    except Exception as error:
        raise QuantizationError(_reason(str(error), precision)) from error
    return content


def _reason(message: str, precision: Precision) -> str:
    named = {op.strip() for groups in _NAMED_OPS.findall(message) for part in groups for op in part.split(",")} - {""}
    if named:
        return (
            f"{', '.join(sorted(named))} cannot be converted to {precision} TFLite: train with another pooling or tail"
        )
    return f"the model cannot be converted to {precision} TFLite: {message.strip().splitlines()[0]}"


@contextmanager
def _muted_native_stderr() -> Iterator[None]:
    """Drops what C++ prints to file descriptor 2; Python's stderr, where progress is shown, goes on."""
    sys.stderr.flush()
    kept = os.dup(2)
    with ExitStack() as stack:
        stack.callback(os.close, kept)
        if _is_descriptor_2(sys.stderr):
            stack.enter_context(redirect_stderr(stack.enter_context(open(os.dup(kept), "w"))))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        stack.callback(os.close, nowhere)
        os.dup2(nowhere, 2)
        stack.callback(os.dup2, kept, 2)
        yield


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a stream in memory has no descriptor
        return False
