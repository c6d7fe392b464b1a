"""Keeps what can be made again in a cache folder, and removes what no process uses any more.

In `$XDG_CACHE_HOME/edgebcnn`, which anybody may remove while nothing runs. A folder in it appears whole or not at all,
whoever else makes it at the same time, and goes when another of its kind comes and no process uses it any more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from edgebcnn.atomic import replacing_folder, storage_errors
from edgebcnn.errors import StorageError

_MAKING, _IN_USE = ".making", ".in-use"


@dataclass(frozen=True)
class KeptFolder:
    """A folder that stays for as long as this object does, or its process."""

    path: Path
    lock: BinaryIO


def cache_folder() -> Path:
    """Where everything is kept.

    Raises:
        StorageError: this user has no home.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgebcnn"
    except RuntimeError as error:
        raise StorageError(
            "this user has no home folder to keep anything in: set XDG_CACHE_HOME to a folder that can be written"
        ) from error


def kept_folder(kind: str, name: str, *, is_whole: Callable[[Path], bool], fill: Callable[[Path], None]) -> KeptFolder:
    """The folder of that kind and name; made now where it is not there or not whole.

    Args:
        kind: Folders of one kind lie side by side, and the unused among them go when one is made.
        name: Of the folder.
        is_whole: Whether a folder holds what it should.
        fill: Writes that into an empty folder.

    Raises:
        StorageError: the disk is full, or the cache cannot be written.
    """
    folder = cache_folder() / kind / name
    if kept := _kept_if(is_whole, folder):
        return kept
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (folder.parent / _MAKING).open("a") as making:
            fcntl.flock(making, fcntl.LOCK_EX)
            return _kept_if(is_whole, folder) or _made(folder, fill)  # by somebody else meanwhile


def _kept_if(is_whole: Callable[[Path], bool], folder: Path) -> KeptFolder | None:
    with suppress(OSError):
        kept = _hold(folder)
        if is_whole(folder):
            return kept
        kept.lock.close()
    return None


def _made(folder: Path, fill: Callable[[Path], None]) -> KeptFolder:
    with replacing_folder(folder) as part:
        (part / _IN_USE).touch()
        fill(part)
    kept = _hold(folder)
    for other in folder.parent.iterdir():
        if other != folder and other.is_dir():
            _remove_unused(other)
    return kept


def _hold(folder: Path) -> KeptFolder:
    lock = (folder / _IN_USE).open("rb")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return KeptFolder(folder, lock)


def _remove_unused(folder: Path) -> None:
    with suppress(OSError), (folder / _IN_USE).open("r+b") as lock:  # a file system that knows no locks keeps it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder)
