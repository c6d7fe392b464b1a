"""The file of a kept frame: a PNG of the model input, pixel for pixel, with its record in a text chunk.

One file holds both, so that no image is without its record, and any viewer shows it. PNG has a checksum in every chunk
and an end mark, so that a truncated or changed file is detected.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from edgebcnn.bundle import Precision
from edgebcnn.errors import DataError
from edgebcnn.loop.reading import Text
from edgebcnn.untrusted.files import open_file, read_bytes
from edgebcnn.untrusted.images import decode

SUFFIX = ".png"

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER_END = 33  # the signature and IHDR; our chunk comes next, so that reading it needs no pixel
_KEYWORD = b"edgebcnn\0"
_MAX_RECORD_BYTES = 1 << 16
_FIRST_YEAR, _LAST_YEAR = 1971, 9998  # what every time zone can express as seconds since 1970
_LATER = ("shelf", "slot", "faces_blurred")  # fields that samples of before do not have
_FASTEST = [cv2.IMWRITE_PNG_COMPRESSION, 1]  # 6 takes four times as long for a twentieth less


def moment(time: str) -> datetime:
    """The moment that an ISO 8601 time with its time zone names.

    Raises:
        ValueError: it names none.
    """
    found = datetime.fromisoformat(time.replace("Z", "+00:00"))
    if found.tzinfo is None or not _FIRST_YEAR <= found.year <= _LAST_YEAR:
        raise ValueError("times are ISO 8601 in UTC")
    return found


class Record(BaseModel):
    """The record of a kept frame.

    Attributes:
        schema_version: Version of this record.
        id: `RUN-NUMBER`; RUN is that of the run's events.
        bundle: Digest of the bundle that ran.
        precision: Its model file that ran.
        rate: Probability of keeping a frame of the run without a boost.
        boost: Factor on that probability for this frame, 1 or more.
        draw: The number, 0-1, that was drawn for it.
        class_id: Product that the edge model predicted, by its place in the bundle's labels.
        label: Its name.
        score: Its probability, 0-1.
        time: When the frame arrived, ISO 8601 in UTC.
        source: Name of the source, without credentials.
        frame: Number of the frame in the source.
        photo: Path within the folder, for photos.
        truth: Actual product, where the source provides it.
        shelf: Shelf of the slot that the frame shows, where slots are watched; missing in older samples.
        slot: Name of that slot.
        faces_blurred: How many faces were found and blurred, 0 or more; None where faces were not searched. The edge
            model classified the frame before blurring.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    id: str = Field(pattern=r"^[0-9a-f]+-[0-9]+$")
    bundle: str
    precision: Precision
    rate: float = Field(gt=0, le=1)
    boost: float = Field(ge=1)
    draw: float = Field(ge=0, le=1)
    class_id: int = Field(ge=0)
    label: str
    score: float
    time: str
    source: Text
    frame: int
    photo: Text | None
    truth: str | None
    shelf: Text | None = None
    slot: Text | None = None
    faces_blurred: int | None = Field(default=None, ge=0)

    @field_validator("time")
    @classmethod
    def _is_a_time(cls, time: str) -> str:
        moment(time)
        return time

    @property
    def rank(self) -> float:
        """The frame is in the sample while this is below rate and threshold."""
        return self.draw / self.boost

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return self.id + SUFFIX


def encoded(record: Record, pixels_rgb: NDArray[np.uint8]) -> bytes:
    """Encodes the file of a record.

    Args:
        record: The record.
        pixels_rgb: `(h, w, 3)` uint8 RGB: the model's input.
    """
    _, png = cv2.imencode(SUFFIX, pixels_rgb[..., ::-1], _FASTEST)
    content = png.tobytes()
    # Older versions, which lack these fields, read records without them and refuse the others.
    unset = {name for name in _LATER if getattr(record, name) is None}
    text_of_record = json.dumps(record.model_dump(exclude=unset))
    text = _KEYWORD + text_of_record.encode("ascii")  # the chunk is Latin-1; JSON escapes all else
    chunk = struct.pack(">I", len(text)) + b"tEXt" + text + struct.pack(">I", zlib.crc32(b"tEXt" + text))
    return content[:_HEADER_END] + chunk + content[_HEADER_END:]


def read_record(file: Path) -> Record:
    """Reads the record in a file, without decoding its pixels.

    Raises:
        DataError: the file holds no record, or cannot be read.
    """
    try:
        with open_file(file) as stream:
            return _record(file, stream)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): copy the sample again") from error


def read_pixels(file: Path) -> NDArray[np.uint8]:
    """The model's input `(h, w, 3)` uint8 RGB, every chunk of whose file is checked.

    Raises:
        DataError: the file is cut short or changed, or cannot be read.
    """
    try:
        content = read_bytes(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): copy the sample again") from error
    if not _is_whole(content):
        raise DataError(f"{file} is cut short or was changed: copy the sample again")
    try:
        picture_bgr = decode(content)
    except ValueError as error:
        raise DataError(f"{file} cannot be decoded ({error}): copy the sample again") from error
    return np.ascontiguousarray(picture_bgr[..., ::-1], np.uint8)


def _record(file: Path, stream: BinaryIO) -> Record:
    head = stream.read(_HEADER_END + 8)
    size = int.from_bytes(head[_HEADER_END : _HEADER_END + 4], "big")
    if head.startswith(_SIGNATURE) and head.endswith(b"tEXt") and size < _MAX_RECORD_BYTES:
        text, checksum = stream.read(size), stream.read(4)
        if text.startswith(_KEYWORD) and checksum == struct.pack(">I", zlib.crc32(b"tEXt" + text)):
            try:
                return Record.model_validate_json(text[len(_KEYWORD) :])
            except ValidationError as error:
                raise DataError(
                    f"{file} is a damaged record or one of another version: audit it with the edgebcnn that kept it"
                ) from error
    raise DataError(f"{file} is cut short or holds no record: copy the sample again, or remove the file")


def _is_whole(content: bytes) -> bool:
    """Returns whether signature, every checksum and the end mark are right, with nothing after it."""
    names = []
    for name, body, checksum in _chunks(content):
        if struct.pack(">I", zlib.crc32(name + body)) != checksum:
            return False
        names.append(name)
    length = len(_SIGNATURE) + sum(12 + len(body) for _, body, _ in _chunks(content))
    return content.startswith(_SIGNATURE) and names[-1:] == [b"IEND"] and length == len(content)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    position = len(_SIGNATURE)
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        yield content[position + 4 : position + 8], content[position + 8 : end], content[end : end + 4]
        position = end + 4
