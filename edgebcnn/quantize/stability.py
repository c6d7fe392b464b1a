"""Measures how far an int8 model depends on the choice of calibration photos.

A second model is calibrated on training photos that the first did not use, as many and chosen alike, and both predict
training photos that neither used. Noise, black frames or other extreme images give ranges that real photos do not, and
the predictions differ; a few real photos, even of one product, may be enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.device.classifier import INT8_OFFSET
from edgebcnn.progress import Advance
from edgebcnn.report.agreement import agreement
from edgebcnn.report.calibration import Stability

if TYPE_CHECKING:
    from edgebcnn.images.dataset import Photo

MAX_PHOTOS = 128
"""Of the second calibration: more would take longer and change little."""

MAX_PROBES = 256
"""Photos on which both models are compared."""

MIN_PROBES = 16
"""With fewer, the interval is too wide to be of use."""


def split_others(others: Sequence[Photo], used: int) -> tuple[Sequence[Photo], Sequence[Photo]]:
    """Photos for the second calibration, and photos to compare on; both empty where there are too few.

    Args:
        others: Training photos that the first calibration did not use, in the order of choice.
        used: How many photos it used.
    """
    if len(others) < 2 * MIN_PROBES:
        return (), ()
    count = min(used, MAX_PHOTOS, len(others) // 2)
    return others[:count], others[count : count + MAX_PROBES]


def compared(
    first: bytes, second: bytes, probes_u8: NDArray[np.uint8], *, photos: int, advance: Advance = lambda photos: None
) -> Stability:
    """Compares the predictions of two int8 models on the same photos.

    Args:
        first: The model file.
        second: The file that other photos gave.
        probes_u8: `(n, h, w, 3)` uint8 RGB, n ≥ 1.
        photos: How many photos the second was calibrated on.
        advance: Called with 1 after each photo.
    """
    models = [Interpreter(model_content=content).get_signature_runner() for content in (first, second)]
    predicted = []
    for photo_u8 in probes_u8:
        predicted.append([_probabilities(model, photo_u8) for model in models])
        advance(1)
    first_256ths, second_256ths = np.array(predicted, np.int64).transpose(1, 0, 2)
    distance = np.abs(first_256ths - second_256ths).sum(axis=1).mean() / 2 / 256
    return Stability(agreement(first_256ths.argmax(axis=1), second_256ths.argmax(axis=1)), float(distance), photos)


def _probabilities(model: Any, photo_u8: NDArray[np.uint8]) -> NDArray[Any]:
    """Probabilities in 1/256, less an offset that is the same for every prediction of the file."""
    takes_int8 = model.get_input_details()["image"]["dtype"] == np.int8
    image = (photo_u8.astype(np.int16) - INT8_OFFSET).astype(np.int8) if takes_int8 else photo_u8
    return np.asarray(model(image=image[np.newaxis])["probabilities"][0])
