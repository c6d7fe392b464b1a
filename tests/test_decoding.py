"""Every image is checked by its header before a decoder takes memory for it, and comes upright from every decoder."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.errors import DataError, UnreadablePhotoError
from edgebcnn.field.record import encoded as encoded_record
from edgebcnn.field.record import read_pixels
from edgebcnn.preprocessing import read_photo
from edgebcnn.sources import jpeg_stream
from edgebcnn.sources.jpeg_stream import NOTICES_EVERY_DAMAGE, decoded
from edgebcnn.untrusted.images import MAX_PIXELS, claimed_size_px, decode
from tests.samples import record

SUFFIXES = (".jpg", ".png", ".bmp", ".webp", ".tiff")
needs_simplejpeg = pytest.param(True, marks=pytest.mark.skipif(not NOTICES_EVERY_DAMAGE, reason="needs simplejpeg"))


def corner_picture() -> NDArray[np.uint8]:
    """Blue, with one red corner at the top left, so that every turn shows."""
    picture = np.full((48, 64, 3), (200, 20, 20), np.uint8)
    picture[:24, :24] = (20, 20, 200)
    return picture


def encode(suffix: str, picture: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(suffix, picture)[1].tobytes()


def bomb(suffix: str) -> bytes:
    """A small file whose header claims 65500 x 65500."""
    content = bytearray(encode(suffix, corner_picture()))
    width, height = 64, 48
    if suffix == ".jpg":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">HH", 65500, 65500)
    elif suffix == ".png":
        content[16:24] = struct.pack(">II", 65500, 65500)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif suffix == ".bmp":
        content[18:26] = struct.pack("<ii", 65500, -65500)
    elif suffix == ".tiff":
        for tag, side in ((256, width), (257, height)):
            at = content.index(struct.pack("<HHIH", tag, 3, 1, side))
            content[at + 8 : at + 10] = struct.pack("<H", 65500)
    return bytes(content)


def with_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", 8 + len(tiff)) + b"Exif\0\0" + tiff + jpeg[2:]


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (300, 7)])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_header_tells_the_size_of_what_opencv_writes(suffix: str, size: tuple[int, int]) -> None:
    assert claimed_size_px(encode(suffix, np.zeros((size[1], size[0], 3), np.uint8))) == size


def test_a_lossy_webp_tells_its_size_too() -> None:
    lossy = cv2.imencode(".webp", corner_picture(), [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    assert claimed_size_px(lossy) == (64, 48)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".tiff"])
def test_a_photo_that_claims_too_many_pixels_is_unreadable(suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"bomb{suffix}").write_bytes(bomb(suffix))
    with pytest.raises(UnreadablePhotoError, match="65500 x 65500 pixels"):
        read_photo(tmp_path / f"bomb{suffix}")


@pytest.mark.parametrize("with_simplejpeg", [needs_simplejpeg, False])
def test_a_frame_that_claims_too_many_pixels_is_damaged(with_simplejpeg: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not with_simplejpeg:
        monkeypatch.setattr(jpeg_stream, "simplejpeg", None)
    assert decoded(bomb(".jpg")) is None


def test_a_kept_frame_that_claims_too_many_pixels_is_a_data_error(tmp_path: Path) -> None:
    content = encoded_record(record(), np.zeros((8, 8, 3), np.uint8))
    header = content[12:16] + struct.pack(">II", 65500, 65500) + content[24:29]
    (tmp_path / "5f-0.png").write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    with pytest.raises(DataError, match="65500"):
        read_pixels(tmp_path / "5f-0.png")


def test_the_limit_admits_the_largest_common_camera() -> None:
    assert MAX_PIXELS >= 9248 * 6936  # 64 megapixels


@pytest.mark.parametrize("content", [b"P6 65500 65500 255\n", b"GIF89a" + b"\xff" * 9, b"II*\0" + b"\xff" * 4, b"BM"])
def test_what_has_no_size_that_could_be_checked_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="not an image"):
        decode(content)


@pytest.mark.parametrize("with_simplejpeg", [needs_simplejpeg, False])
@pytest.mark.parametrize("orientation", range(10))
def test_an_orientation_turns_photo_and_frame_alike(
    orientation: int, with_simplejpeg: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_simplejpeg:
        monkeypatch.setattr(jpeg_stream, "simplejpeg", None)
    jpeg = with_orientation(encode(".jpg", corner_picture()), orientation)
    (tmp_path / "photo.jpg").write_bytes(jpeg)
    by_opencv = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    frame = decoded(jpeg)
    assert frame is not None and by_opencv is not None
    np.testing.assert_allclose(read_photo(tmp_path / "photo.jpg"), by_opencv, atol=2)
    np.testing.assert_allclose(frame.astype(int), by_opencv.astype(int), atol=4)  # libjpegs round chroma differently


def test_bytes_between_two_segments_are_passed_over_as_libjpeg_does() -> None:
    jpeg = encode(".jpg", corner_picture())
    at = jpeg.index(b"\xff\xdb")
    assert decode(jpeg[:at] + b"\0\0\0" + jpeg[at:]).shape == (48, 64, 3)
