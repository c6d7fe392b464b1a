"""Is a JPEG from the network whole, and what does it show?

OpenCV and FFmpeg fill what is missing in a damaged JPEG with something: a picture with a hole decodes to one that is
shifted and grey, which a model would name as readily as any. libjpeg notices and warns; simplejpeg turns its warnings
into errors. Where there is no wheel of simplejpeg (32-bit ARM), only pictures that are cut short are noticed.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.preprocessing import is_cut_short

try:
    import simplejpeg
except ModuleNotFoundError:
    simplejpeg = None

NOTICES_EVERY_DAMAGE = simplejpeg is not None

START, END = b"\xff\xd8", b"\xff\xd9"


def decoded(jpeg: bytes) -> NDArray[np.uint8] | None:
    """`(h, w, 3)` uint8 BGR, or None where the picture is damaged or is no JPEG."""
    jpeg = jpeg[max(0, jpeg.find(START)) :]
    if not jpeg.startswith(START) or is_cut_short(jpeg):
        return None
    if simplejpeg is None:
        image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
        return None if image is None else np.asarray(image, np.uint8)
    try:
        return np.asarray(simplejpeg.decode_jpeg(jpeg, "BGR", strict=True), np.uint8)
    except ValueError:  # what libjpeg says of it
        return None
