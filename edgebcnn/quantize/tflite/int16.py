"""Quantizes a float model file to int16 activations and int8 weights.

TFLite calls this 16x8. Steps are 256 times as fine as those of int8, so that min-max ranges lose next to nothing; what
is left is the rounding of the weights, which corrected biases mostly make up for. No op of it ever reaches XNNPACK: on
a CPU it is many times slower than int8, and slower than float. It is for accelerators that take it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgebcnn.model.keras import int16_quantizer, tf
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance
from edgebcnn.quantize.tflite.int8 import converting


def quantize_int16(
    float_tflite: bytes,
    calibration_u8: NDArray[np.uint8],
    *,
    preprocessing: Preprocessing,
    advance: Advance = lambda photos: None,
) -> bytes:
    """Quantizes a float model file; it still takes and gives float32. The same file and photos give the same bytes.

    Args:
        float_tflite: Content of the file; its biases may be corrected for what rounding its weights to int8 adds.
        calibration_u8: `(n, h, w, 3)` uint8 RGB photos, n ≥ 1.
        preprocessing: The model's.
        advance: Called with 1 after each photo.

    Raises:
        QuantizationError: TensorFlow cannot quantize the file.
    """

    def images() -> Iterator[list[NDArray[np.float32]]]:
        for number, photo_u8 in enumerate(calibration_u8):
            image = preprocessing.normalize(photo_u8[np.newaxis])
            if not number:
                # Its range is that of all pixels, whatever the photos show.
                image[0, 0, 0], image[0, -1, -1] = preprocessing.normalize(np.array([0, 255], np.uint8))
            yield [image]
            advance(1)

    with converting("int16"):
        content = int16_quantizer()(float_tflite).calibrate_and_quantize(
            images, tf.float32, tf.float32, False, activations_type=tf.int16, bias_type=tf.int64
        )
    return bytes(content)
