"""Reads JSON, TOML, NPZ and CSV files that come from outside, within fixed limits.

A file that a user, a network share or an attacker wrote is bounded before anything uses it: its size, its nesting, the
digits of its integers, the shapes and types of its arrays. A FIFO, device or folder where a file belongs is refused
before it is opened, because reading it may never end.

Every function here raises `OSError` where the system cannot give the file, with the reason in `strerror`, and
`ValueError` where the content is not acceptable, with the reason as its message. `refusing` turns both into one
sentence of the caller's error class.
"""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import re
import stat
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, NoReturn

from edgebcnn.errors import EdgebcnnError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_BYTES = 64 << 20  # the largest report of a thousand products has a few MB
MAX_TOML_BYTES = 1 << 20  # people write TOML by hand: a shelf of 500 slots has 60 KB
MAX_DEPTH = 64  # the deepest file that edgebcnn writes has 10 levels, a Keras description about 20
MAX_KEY_PARTS = 16  # of a dotted TOML key; tomllib takes quadratic time for more
MAX_NUMBER_CHARACTERS = 100  # a float with every digit of its binary value has 55
MAX_INTEGER = 2**63 - 1  # what TOML promises to read, and what NumPy can hold

_SPECIAL = (
    (stat.S_ISDIR, errno.EISDIR, "it is a directory, not a file"),
    (stat.S_ISFIFO, errno.EINVAL, "it is a pipe, not a file"),
    (stat.S_ISSOCK, errno.EINVAL, "it is a socket, not a file"),
    (stat.S_ISCHR, errno.EINVAL, "it is a device, not a file"),
    (stat.S_ISBLK, errno.EINVAL, "it is a device, not a file"),
)

# A string that does not end matches to the end of the text; the parser that follows says so.
_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|(?P<mark>[\[\]{}])|(?P<number>[\w.+-]+)', re.DOTALL)
_TOML_TOKEN = re.compile(
    r'#[^\n]*|"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'.*?(?:\'\'\'|\Z)'
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"?|\'[^\'\n]*\'?|(?P<mark>[\[\]{}\n,=.])|(?P<number>[\w+-]+)',
    re.DOTALL,
)
_DIGITS = re.compile(r"[+-]?(?:0[xob])?[\dA-Fa-f_.]+(?:[eE][+-]?\d+)?")

_NPY_MAGIC = b"\x93NUMPY"
_NPY_HEADER = re.compile(
    r"\{'descr': '(?P<dtype>[<|>=]?[biufU]\d{1,7})', 'fortran_order': False, "
    r"'shape': \((?P<shape>(?:\d{1,12},? ?){0,8})\), ?\}\s*"
)
_MAX_NPY_HEADER = 4096
_MAX_MEMBERS = 10_000

_ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError, IndexError)


@contextmanager
def refusing(path: Path | str, error: type[EdgebcnnError], *, remedy: str) -> Iterator[None]:
    """Turns what the functions of this module raise about `path` into an `error` of one sentence.

    Args:
        path: The file.
        error: What to raise.
        remedy: What to do about it, such as `export the bundle again`.

    Raises:
        EdgebcnnError: an `error`, where the block raised `OSError` or `ValueError`.
    """
    try:
        yield
    except OSError as reason:
        raise error(f"{path} cannot be read ({reason.strerror or reason}): {remedy}") from reason
    except ValueError as reason:
        raise error(f"{path}: {reason}; {remedy}") from reason


def open_file(path: Path) -> BinaryIO:
    """Opens a regular file for reading, and nothing else.

    Raises:
        OSError: there is no such file, it may not be read, or it is a folder, pipe, socket or device.
    """
    _check_regular(path, os.stat(path).st_mode)  # before it is opened: opening a device may already do something
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError as error:  # a NUL within the path
        raise FileNotFoundError(errno.ENOENT, str(error), str(path)) from error
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, *, max_bytes: int = MAX_BYTES) -> bytes:
    """Reads a whole file of at most `max_bytes`.

    Raises:
        OSError: as `open_file`, or the file is larger.
    """
    with open_file(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"it is larger than {max_bytes >> 20} MB", str(path))
    return content


def read_text(path: Path, *, max_bytes: int = MAX_BYTES) -> str:
    """Reads a whole UTF-8 text, without a byte order mark.

    Raises:
        OSError: as `read_bytes`.
        ValueError: it is not UTF-8; the reason names the line.
    """
    return text_of(read_bytes(path, max_bytes=max_bytes))


def text_of(content: bytes) -> str:
    """Decodes UTF-8, without a byte order mark.

    Raises:
        ValueError: it is not UTF-8; the reason names the line.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error


def read_json(path: Path, *, max_bytes: int = MAX_BYTES) -> Any:
    """Reads a JSON file, see `json_of`.

    Raises:
        OSError: as `read_bytes`.
        ValueError: as `json_of`.
    """
    return json_of(read_bytes(path, max_bytes=max_bytes))


def json_of(content: bytes, *, allow_nan: bool = False) -> Any:
    """The value that a JSON text holds.

    Args:
        content: UTF-8 text.
        allow_nan: Whether NaN and infinity, which JSON lacks and Python writes, are taken.

    Raises:
        ValueError: it is not JSON, nested too deeply, or holds a number that is too long or too large.
    """
    text = text_of(content)
    _check_json_nesting(text)
    hooks: dict[str, Any] = {} if allow_nan else {"parse_float": _finite, "parse_constant": _no_number}
    try:
        return json.loads(text, parse_int=_integer, **hooks)
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno} is not JSON ({error.msg})") from error


def toml_of(content: bytes) -> dict[str, Any]:
    """The table that a TOML text holds.

    Raises:
        ValueError: it is not TOML, too large, nested too deeply, or holds a number that is too long or too large.
    """
    if len(content) > MAX_TOML_BYTES:
        raise ValueError(f"it is larger than {MAX_TOML_BYTES >> 20} MB")
    text = text_of(content)
    _check_toml_nesting(text)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"it is not TOML ({error})") from error
    _check_integers(document)
    return document


def toml_breaks(text: str) -> list[int]:
    """Positions in a correct TOML text at which it could end: after each line that leaves no value open."""
    depth, breaks = 0, [0]
    for token in _TOML_TOKEN.finditer(text):
        mark = token["mark"] or ""
        depth += (mark == "[" or mark == "{") - (mark == "]" or mark == "}")
        if mark == "\n" and not depth:
            breaks.append(token.end())
    return breaks if breaks[-1] == len(text) else [*breaks, len(text)]


def csv_of(text: str, *, newline: str = "") -> Iterator[tuple[int, list[str]]]:
    """Yields the line number and cells of each row of a CSV text; empty rows are passed over.

    Raises:
        ValueError: it is not CSV; the reason names the line.
    """
    reader = csv.reader(io.StringIO(text, newline=newline), strict=True)
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num} is not CSV ({error})") from error


def whole_number(text: str) -> int:
    """The number that up to 18 decimal digits name.

    Raises:
        ValueError: it is none, or a longer one.
    """
    if not re.fullmatch(r"[0-9]{1,18}", text):
        shown = text if len(text) <= 20 else f"{text[:20]}…"
        raise ValueError(f"{shown!r} is not a whole number of up to 18 digits")
    return int(text)


@dataclass(frozen=True)
class ArrayHeader:
    """Shape and type of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def size_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class ArrayFile:
    """An `.npz` file whose arrays are checked before memory is given to them.

    Only plain numbers, truth values and text are read, never Python objects; an array whose header promises more than
    the archive holds for it is refused.

    Args:
        file: The open file; it stays the caller's to close.
        max_bytes: Of one array's values.

    Attributes:
        names: Names of the arrays.

    Raises:
        ValueError: it is no `.npz` file.
    """

    def __init__(self, file: BinaryIO, *, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        try:
            self._archive = zipfile.ZipFile(file)
        except (*_ARCHIVE_ERRORS, OSError, ValueError) as error:
            raise ValueError("it is not a whole .npz file") from error
        members = self._archive.namelist()
        if len(members) > _MAX_MEMBERS or len(set(members)) != len(members):
            raise ValueError("it holds too many arrays, or two of one name")
        self.names = tuple(each.removesuffix(".npy") for each in members)

    def header(self, name: str) -> ArrayHeader:
        """Shape and type of an array.

        Raises:
            ValueError: there is no such array, or it is not one that can be read.
        """
        with self._opened(name) as (header, _):
            return header

    def read(self, name: str) -> NDArray[Any]:
        """Reads an array.

        Raises:
            ValueError: there is no such array, or it is not one that can be read.
        """
        import numpy as np

        with self._opened(name) as (header, stream):
            values = stream.read(header.size_bytes)
            if len(values) < header.size_bytes or stream.read(1):
                raise ValueError(f"{name} is cut short or followed by something else")
            return np.frombuffer(values, header.dtype).reshape(header.shape).copy()

    def rows(self, name: str) -> Iterator[NDArray[Any]]:
        """Yields an array row by row, so that one row at a time takes memory.

        Raises:
            ValueError: there is no such array, or it is not one that can be read.
        """
        import numpy as np

        with self._opened(name) as (header, stream):
            size = math.prod(header.shape[1:]) * header.dtype.itemsize
            for _ in range(header.shape[0]):
                values = stream.read(size)
                if len(values) < size:
                    raise ValueError(f"{name} is cut short")
                yield np.frombuffer(values, header.dtype).reshape(header.shape[1:])

    @contextmanager
    def _opened(self, name: str) -> Iterator[tuple[ArrayHeader, IO[bytes]]]:
        try:
            member = self._archive.getinfo(f"{name}.npy")
            with self._archive.open(member) as stream:
                header = _array_header(name, stream)
                if header.size_bytes > self._max_bytes:
                    raise ValueError(f"{name} takes more than {self._max_bytes >> 20} MB")
                yield header, stream
        except KeyError as error:
            raise ValueError(f"it holds no {name}") from error
        except (*_ARCHIVE_ERRORS, OSError) as error:
            raise ValueError(f"{name} cannot be read ({error})") from error


def array_of(file: IO[bytes], name: str, *, max_bytes: int) -> NDArray[Any]:
    """Reads an `.npy` file, as `ArrayFile` reads an array.

    Raises:
        ValueError: it is not an array that can be read.
    """
    import numpy as np

    header = _array_header(name, file)
    if header.size_bytes > max_bytes:
        raise ValueError(f"{name} takes more than {max_bytes >> 20} MB")
    values = file.read(header.size_bytes + 1)
    if len(values) != header.size_bytes:
        raise ValueError(f"{name} is cut short or followed by something else")
    return np.frombuffer(values, header.dtype).reshape(header.shape).copy()


def _array_header(name: str, stream: IO[bytes]) -> ArrayHeader:
    """Reads the header by a pattern: NumPy evaluates it as a Python literal, which can be nested without end."""
    import numpy as np

    start = stream.read(8)
    if not start.startswith(_NPY_MAGIC) or start[6:] not in (b"\1\0", b"\2\0", b"\3\0"):
        raise ValueError(f"{name} is not a NumPy array")
    length = int.from_bytes(stream.read(2 if start[6] == 1 else 4), "little")
    text = stream.read(min(length, _MAX_NPY_HEADER)).decode("latin1")
    found = _NPY_HEADER.fullmatch(text)
    if found is None or length > _MAX_NPY_HEADER:
        raise ValueError(f"{name} is not an array of plain numbers, truth values or text")
    try:
        dtype = np.dtype(found["dtype"])
    except TypeError as error:
        raise ValueError(f"{name} has the type {found['dtype']}, which is none") from error
    return ArrayHeader(tuple(map(int, re.findall(r"\d+", found["shape"]))), dtype)


def _check_regular(path: Path, mode: int) -> None:
    for is_that, number, reason in _SPECIAL:
        if is_that(mode):
            raise OSError(number, reason, str(path))


def _check_json_nesting(text: str) -> None:
    depth = 0
    for token in _JSON_TOKEN.finditer(text):
        if mark := token["mark"]:
            depth = max(0, depth + (1 if mark in "[{" else -1))
            if depth > MAX_DEPTH:
                _refuse_at(text, token.start(), f"nests more than {MAX_DEPTH} levels")
        elif token["number"]:
            _check_number(text, token)


def _check_toml_nesting(text: str) -> None:
    depth = dots = 0
    for token in _TOML_TOKEN.finditer(text):
        if mark := token["mark"]:
            depth = max(0, depth + (mark in "[{") - (mark in "]}"))
            dots = dots + 1 if mark == "." else 0
            if depth > MAX_DEPTH or dots >= MAX_KEY_PARTS:
                _refuse_at(text, token.start(), f"nests more than {MAX_DEPTH if depth > MAX_DEPTH else dots} levels")
        elif token["number"]:
            _check_number(text, token)


def _check_number(text: str, token: re.Match[str]) -> None:
    if len(token["number"]) > MAX_NUMBER_CHARACTERS and _DIGITS.fullmatch(token["number"]):
        _refuse_at(text, token.start(), f"has a number of more than {MAX_NUMBER_CHARACTERS} digits")


def _refuse_at(text: str, position: int, reason: str) -> NoReturn:
    line = text.count("\n", 0, position) + 1
    raise ValueError(f"line {line} {reason}")


def _check_integers(document: Any) -> None:
    """Looks through a value that the nesting check has bounded."""
    values: list[Any] = [document]
    while values:
        value = values.pop()
        if isinstance(value, dict):
            values.extend(value.values())
        elif isinstance(value, list):
            values.extend(value)
        elif isinstance(value, int):
            _check_integer(value)


def _check_integer(value: int) -> int:
    if abs(value) > MAX_INTEGER:
        raise ValueError("it holds an integer beyond 64 bits")
    return value


def _integer(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError(f"it holds a number of more than {MAX_NUMBER_CHARACTERS} digits")
    return _check_integer(int(text))


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {text[:20]}, which is too large")
    return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number of JSON")


def some_cells(cells: Sequence[str]) -> str:
    """A CSV row fit for a message: at most 80 characters."""
    shown = ",".join(cells)
    return repr(shown if len(shown) <= 80 else f"{shown[:80]}…")
