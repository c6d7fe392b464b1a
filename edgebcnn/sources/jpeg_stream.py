"""Cuts an MJPEG stream into JPEGs, and decodes those that arrived undamaged.

OpenCV and FFmpeg fill what is missing in a damaged JPEG: the image decodes, shifted and gray, and a model would
classify it like any other. libjpeg notices and warns; simplejpeg turns its warnings into errors. Where simplejpeg has
no wheel (32-bit ARM), only truncated JPEGs are noticed.
"""

from __future__ import annotations

import re
from email.message import Message

import numpy as np
from numpy.typing import NDArray

from edgebcnn.errors import CameraError
from edgebcnn.untrusted.images import JPEG_END, JPEG_START, check_size, decode, is_cut_short, jpeg_orientation, upright

try:
    import simplejpeg
except ModuleNotFoundError:
    simplejpeg = None

NOTICES_EVERY_DAMAGE = simplejpeg is not None

START, END = JPEG_START, JPEG_END


def decoded(jpeg: bytes) -> NDArray[np.uint8] | None:
    """`(h, w, 3)` uint8 BGR, upright, or None where the image is damaged, is no JPEG, or claims too many pixels."""
    jpeg = jpeg[max(0, jpeg.find(START)) :]
    if not jpeg.startswith(START):
        return None
    try:
        if simplejpeg is None:
            return decode(jpeg)
        if is_cut_short(jpeg):
            return None
        check_size(jpeg)
        image_bgr = np.asarray(simplejpeg.decode_jpeg(jpeg, "BGR", strict=True), np.uint8)
    except ValueError:  # what libjpeg says of it
        return None
    return upright(image_bgr, jpeg_orientation(jpeg))


MAX_PICTURE_BYTES = 32 << 20  # a 48-megapixel JPEG has 20 MB; what never ends must not fill the memory

_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE)
_HEADERS_END = re.compile(rb"\r?\n\r?\n")
_ANY_BOUNDARY = re.compile(rb"\s*--+([\w'()+,./:=?-]{1,70})[ \t]*\r?\n")


class PictureCutter:
    """Cuts the body of a `multipart/x-mixed-replace` response into its pictures.

    A picture is whole once as many bytes came as its header promises. One whose header promises too much is cut at the
    next boundary, so that it costs no other picture; one without a promise ends at a JPEG's end marker or a boundary.
    """

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = _delimiter(boundary)
        self._received = bytearray()
        self._knows_boundary = False

    def cut(self, received: bytes) -> list[bytes]:
        """Takes what came and returns the pictures that it completed, oldest first.

        Raises:
            CameraError: there is more between two boundaries than any picture has.
        """
        self._received += received
        pictures = []
        while (picture := self._next()) is not None:
            pictures.append(picture)
        if len(self._received) > MAX_PICTURE_BYTES:
            raise CameraError("sends no pictures but something without end")
        return pictures

    def _next(self) -> bytes | None:
        begun = self._delimiter.search(self._received) or self._learned()
        if begun is None:
            return None
        self._knows_boundary = True
        headers_end = _HEADERS_END.search(self._received, begun.end() - 1)
        if headers_end is None:
            return None
        promised = _LENGTH.search(self._received, begun.end(), headers_end.end())
        start = headers_end.end()
        following = self._delimiter.search(self._received, start)
        end = start + int(promised[1]) if promised else len(self._received)
        if following and following.start() < end:
            end = following.start()
        elif end > len(self._received) or (not promised and not self._received.rstrip(b"\r\n").endswith(END)):
            return None
        picture = bytes(self._received[start:end])
        del self._received[:end]
        return picture

    def _learned(self) -> re.Match[bytes] | None:
        """The first line of the body, where it looks like a boundary: some cameras announce another than they send."""
        found = None if self._knows_boundary else _ANY_BOUNDARY.match(self._received)
        if found:
            self._delimiter = _delimiter(found[1])
        return self._delimiter.search(self._received) if found else None


def _delimiter(boundary: bytes) -> re.Pattern[bytes]:
    """A whole line of dashes and the boundary: its bytes alone may stand anywhere within a JPEG."""
    return re.compile(rb"(?:\A|\r?\n)--+" + re.escape(boundary.strip(b"-")) + rb"(?:--)?[ \t]*\r?\n")


def boundary_of(content_type: str) -> bytes | None:
    """What separates the images, without dashes, or None where the response is not made of several.

    Cameras disagree on whether the two leading dashes belong to the name; the dashes are left out here.
    """
    header = Message()
    header["Content-Type"] = content_type
    if header.get_content_maintype() != "multipart":
        return None
    return header.get_boundary("").strip("-").encode()


class JpegCutter:
    """Cuts JPEGs that follow each other with nothing between.

    A picture ends at its end marker, which cannot stand within coded pixels: there, a zero follows each byte 0xFF. What
    is no picture is cut all the same, and then decodes to nothing.
    """

    def __init__(self) -> None:
        self._received = bytearray()

    def cut(self, received: bytes) -> list[bytes]:
        """Takes what came and returns the pictures that it completed, oldest first.

        Raises:
            CameraError: there is more without an end than any picture has.
        """
        looked_through = max(0, len(self._received) - 1)  # an end marker may have come in two halves
        self._received += received
        pictures = []
        while (end := self._received.find(END, looked_through)) >= 0:
            pictures.append(bytes(self._received[: end + len(END)]))
            del self._received[: end + len(END)]
            looked_through = 0
        if len(self._received) > MAX_PICTURE_BYTES:
            raise CameraError("sends no pictures but something without end")
        return pictures
