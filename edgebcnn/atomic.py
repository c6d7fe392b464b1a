"""How a file or folder appears on disk: whole, or not at all.

Everything is written beside its destination, flushed to the disk, and renamed into place, so that a kill or a power cut
leaves the old version or the new one and never a half. A full disk becomes a `StorageError` and the part already
written is removed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgebcnn.errors import StorageError

_PART = ".part"
_AT_FDCWD = -100  # linux/fcntl.h: paths are relative to the working directory
_RENAME_EXCHANGE = 2  # linux/fs.h


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns an `OSError` from writing `path` into a `StorageError` of one sentence.

    The block, here and in `replacing_file` and `replacing_folder`, may do nothing but write `path`, or read with
    functions that raise errors of their own, as `read_photo` does: any other `OSError` would be blamed on `path`.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"no space left on the disk while writing {path}: free some and try again") from error
        raise StorageError(
            f"cannot write {path}: {error.strerror or error}; choose a path that you can write"
        ) from error


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what the block wrote there takes the place of `path` when it ends well.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    part = path.with_name(f".{path.name}{_PART}{path.suffix}")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield part
            _flush(part)
            part.replace(path)
            _flush(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing_file` for a whole folder: readers see the old one or the new one, never a mixture.

    Where the system cannot exchange two folders in one step, a kill between two renames leaves the old folder beside
    `path`, as `.<name>.old`.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    path = path.resolve()  # behind a link, the folder that it leads to is replaced, not the link
    part = path.with_name(f".{path.name}{_PART}")
    old = path.with_name(f".{path.name}.old")
    with storage_errors(path):
        try:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            yield part
            for written in (*part.rglob("*"), part):
                _flush(written)
            if not path.exists():
                part.rename(path)
            elif not _exchange(part, path):
                shutil.rmtree(old, ignore_errors=True)
                path.rename(old)
                part.rename(path)
            _flush(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes `content` as the whole of `path`.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    with replacing_file(path) as part:
        part.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented UTF-8 JSON with a final newline.

    Raises:
        StorageError: the disk is full, or the path cannot be written.
    """
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The JSON that we write everywhere: indented, UTF-8, NaN refused, ended by a newline."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="backslashreplace")  # bytes of a file's name that are no text, as JSON escapes them


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two folders in one step; False where kernel, C library or file system cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
