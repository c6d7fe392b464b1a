"""Decodes every photo and camera frame: within one pixel limit, upright, and only where the file is whole.

A header may claim any size, and a decoder takes memory for what is claimed: 631 bytes can ask for 12 GB. So the size is
read from the header first. The orientation that EXIF gives a JPEG is applied here for photos and frames alike, because
OpenCV applies it and libjpeg does not.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 100_000_000  # 300 MB decoded; network cameras and most phones have at most 64 megapixels

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"  # an IEND chunk is always the same: no content, and the checksum of that

_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers that no length follows
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_EXIF, _ORIENTATION = b"Exif\0\0", 0x0112
_MAX_TIFF_ENTRIES = 512
_TIFF_WIDTH, _TIFF_HEIGHT = 256, 257
_TIFF_TYPES = {3: "H", 4: "I"}

Size = tuple[int, int]


def decode(encoded: bytes) -> NDArray[np.uint8]:
    """Decodes one image, turned upright as its EXIF orientation says.

    Returns:
        `(h, w, 3)` uint8 BGR.

    Raises:
        ValueError: it is cut short, is not an image of a known format, or claims more than `MAX_PIXELS`.
    """
    if not encoded:
        raise ValueError("the file is empty")
    if is_cut_short(encoded):
        # OpenCV 4 decodes the part that is there and fills the rest with grey, without an error.
        raise ValueError("the file is cut short")
    check_size(encoded)
    is_jpeg = encoded.startswith(JPEG_START)
    flags = cv2.IMREAD_COLOR | (cv2.IMREAD_IGNORE_ORIENTATION if is_jpeg else 0)
    try:
        image_bgr = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(f"OpenCV cannot decode it ({error.err})") from error
    if image_bgr is None:
        raise ValueError("not an image that OpenCV can decode")
    return upright(np.asarray(image_bgr, np.uint8), jpeg_orientation(encoded)) if is_jpeg else np.asarray(image_bgr)


def check_size(encoded: bytes) -> None:
    """Checks the size that an image's header claims, before anything is decoded.

    Raises:
        ValueError: it is not an image of a known format, or claims more than `MAX_PIXELS`.
    """
    try:
        size = claimed_size_px(encoded)
    except (struct.error, ValueError, IndexError):  # the header itself is cut or wrong
        size = None
    if size is None or min(size) < 1:
        raise ValueError("not an image that OpenCV can decode")
    if size[0] * size[1] > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} megapixels"
        raise ValueError(f"it claims {size[0]} x {size[1]} pixels, more than the limit of {limit}: make it smaller")


def claimed_size_px(encoded: bytes) -> Size | None:
    """Width and height that an image's header claims; None where the format is not known."""
    return next((size(encoded) for magic, size in _FORMATS if magic.match(encoded)), None)


def is_cut_short(encoded: bytes) -> bool:
    """Whether a JPEG lacks its end marker, a PNG its IEND chunk, or a WebP part of its RIFF length."""
    if encoded.startswith(JPEG_START):
        # An end marker before the first scan belongs to an embedded thumbnail. Inside a scan every 0xFF is stuffed, so
        # that an end marker found from there on is the real one (ITU-T T.81, B.1.1.5).
        return encoded.find(JPEG_END, _jpeg_scan_start(encoded)) < 0
    if encoded.startswith(_PNG_START):
        return _PNG_END not in encoded
    if encoded.startswith(b"RIFF") and encoded[8:12] == b"WEBP":
        return len(encoded) < int.from_bytes(encoded[4:8], "little") + 8
    return False


def jpeg_orientation(encoded: bytes) -> int:
    """EXIF orientation of a JPEG, 1-8; 1 where there is none that is valid."""
    for marker, start, end in _jpeg_segments(encoded):
        if marker == _APP1 and encoded.startswith(_EXIF, start):
            try:
                fields = _tiff_fields(encoded[start + len(_EXIF) : end])
            except (struct.error, ValueError, IndexError):
                return 1
            return found if 1 <= (found := fields.get(_ORIENTATION, 1)) <= 8 else 1
    return 1


def upright(image: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """The image, turned and mirrored as an EXIF orientation says; `(h, w, 3)` or `(w, h, 3)` uint8."""
    if orientation >= 5:  # the rows of the file are columns of the picture
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return np.ascontiguousarray(image)


def _jpeg_segments(encoded: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of the content of each segment up to the first scan, which is the last one yielded."""
    position = 2
    # libjpeg passes over what stands between two segments, and so do we.
    while (position := encoded.find(b"\xff", position)) >= 0 and position + 4 <= len(encoded):
        marker = encoded[position + 1]
        if marker in (0x00, 0xFF) or marker in _STANDALONE:  # no marker, a fill byte, or a marker without content
            position += 1 if marker == 0xFF else 2
            continue
        end = position + 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        yield marker, position + 4, end
        if marker == _START_OF_SCAN:
            return
        position = end


def _jpeg_scan_start(encoded: bytes) -> int:
    ends = [start if marker == _START_OF_SCAN else end for marker, start, end in _jpeg_segments(encoded)]
    return ends[-1] if ends else 2


def _jpeg_size(encoded: bytes) -> Size | None:
    for marker, start, _ in _jpeg_segments(encoded):
        if marker in _START_OF_FRAME:
            height, width = struct.unpack_from(">HH", encoded, start + 1)
            return width, height
    return None


def _png_size(encoded: bytes) -> Size:
    width, height = struct.unpack_from(">II", encoded, 16)
    return width, height


def _bmp_size(encoded: bytes) -> Size:
    if struct.unpack_from("<I", encoded, 14) == (12,):  # the header of OS/2
        width, height = struct.unpack_from("<HH", encoded, 18)
    else:
        width, height = struct.unpack_from("<ii", encoded, 18)
    return abs(width), abs(height)  # a negative height counts from the top


def _webp_size(encoded: bytes) -> Size | None:
    kind = encoded[12:16]
    if kind == b"VP8X":
        sides = (int.from_bytes(encoded[start : start + 3], "little") + 1 for start in (24, 27))
        return next(sides), next(sides)
    if kind == b"VP8L":
        bits = int.from_bytes(encoded[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", encoded, 26)
        return width & 0x3FFF, height & 0x3FFF
    return None


def _tiff_size(encoded: bytes) -> Size:
    fields = _tiff_fields(encoded)
    return fields.get(_TIFF_WIDTH, 0), fields.get(_TIFF_HEIGHT, 0)


def _tiff_fields(content: bytes) -> dict[int, int]:
    """Whole-number fields of the first directory of a TIFF, which EXIF is too."""
    order = {b"II": "<", b"MM": ">"}[content[:2]] if content[:2] in (b"II", b"MM") else ""
    if not order:
        raise ValueError("no byte order")
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, start)
    fields = {}
    for entry in range(min(count, _MAX_TIFF_ENTRIES)):
        at = start + 2 + 12 * entry
        tag, kind = struct.unpack_from(f"{order}HH", content, at)
        if kind in _TIFF_TYPES:
            (fields[tag],) = struct.unpack_from(order + _TIFF_TYPES[kind], content, at + 8)
    return fields


_FORMATS: tuple[tuple[re.Pattern[bytes], Callable[[bytes], Size | None]], ...] = (
    (re.compile(re.escape(JPEG_START)), _jpeg_size),
    (re.compile(re.escape(_PNG_START)), _png_size),
    (re.compile(rb"BM"), _bmp_size),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), _webp_size),
    (re.compile(rb"II\*\0|MM\0\*"), _tiff_size),
)
"""The formats of `PHOTO_SUFFIXES`; what OpenCV could decode beyond them has no limit here, and is refused."""
