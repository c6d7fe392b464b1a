"""What training reads instead of photos: the outputs of the layers that stay frozen, computed once.

Frozen layers give the same output for the same image in every epoch, so they run once over a number of augmented
copies of each photo and their outputs are kept in a memory-mapped float16 file. Copy c of photo i is drawn from the
seed (seed, c, i) alone: an interrupted cache resumes where it stopped and ends in the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import storage_errors, write_json
from edgebcnn.errors import StorageError
from edgebcnn.images.dataset import Photo
from edgebcnn.preprocessing import Preprocessing, read_photo
from edgebcnn.progress import Advance
from edgebcnn.train.augment import Augmentation
from edgebcnn.untrusted.files import read_json

CHUNK = 64
"""Pictures that go through the frozen layers at once; a kill loses at most the chunk in flight."""

READ_AHEAD = 3
"""Batches that are read ahead."""

DISK_RESERVE_BYTES = 512 * 2**20
"""Free space that a cache must leave on the disk for weights and checkpoints."""

Key = TypeVar("Key")
Value = TypeVar("Value")


class Pictures(Protocol):
    """A sequence of `(h, w, 3)` uint8 RGB images or of cached features that is read in slices."""

    def __len__(self) -> int: ...
    def __getitem__(self, key: slice) -> NDArray[Any]: ...


@dataclass(frozen=True)
class PreparedPhotos:
    """Photos as the device would see them: `preprocessing` and nothing else."""

    photos: Sequence[Photo]
    preprocessing: Preprocessing

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, key: slice) -> NDArray[np.uint8]:
        return np.stack([self.preprocessing.apply(read_photo(photo.path)) for photo in self.photos[key]])


@dataclass(frozen=True)
class AugmentedPhotos:
    """`copies` random views of every photo, copy by copy: image c·n + i is copy c of photo i."""

    photos: Sequence[Photo]
    preprocessing: Preprocessing
    augmentation: Augmentation
    copies: int
    seed: int

    def __len__(self) -> int:
        return self.copies * len(self.photos)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        indices = range(*key.indices(len(self))) if isinstance(key, slice) else key.tolist()
        return np.stack([self._view(index) for index in indices])

    def _view(self, index: int) -> NDArray[np.uint8]:
        copy, photo = divmod(index, len(self.photos))
        rng = np.random.default_rng((self.seed, copy, photo))
        size_hw = self.preprocessing.height_px, self.preprocessing.width_px
        view = self.augmentation.apply(read_photo(self.photos[photo].path), size_hw, rng)
        return self.preprocessing.apply(view)


def cached(
    path: Path,
    source: Pictures,
    compute: Callable[[NDArray[Any]], NDArray[Any]] | None,
    *,
    made_from: dict[str, Any],
    advance: Advance,
) -> NDArray[Any]:
    """`compute(source)`, row by row, from the memory-mapped file `path`, which is made or completed first.

    Args:
        path: File of the cache; `path` with suffix `.json` records what made it and how far it got.
        source: What goes in.
        compute: Frozen layers; None keeps the images themselves.
        made_from: Everything that decides the result. A cache made from anything else is thrown away.
        advance: Called with the number of rows done.

    Returns:
        Read-only memory map `(len(source), ...)`, float16 (features) or uint8 (images).

    Raises:
        StorageError: the disk has too little room (says how much is needed), or the path cannot be written.
    """
    first = _computed(compute, source[:1])
    header = {"key": _key(made_from), "shape": [len(source), *first.shape[1:]], "dtype": first.dtype.str}
    progress_file = path.with_suffix(".json")
    done = _rows_done(path, progress_file, header)
    if done < len(source):
        with storage_errors(path):
            _check_space(path, _size_bytes(header))
            _complete(path, progress_file, header, source, compute, done, advance)
    else:
        advance(len(source))
    return _mapped(path, header, "r")


def read_ahead(read: Callable[[Key], Value], keys: Iterable[Key]) -> Iterator[Value]:
    """`read(key)` for every key, in order; the next few are read by other threads while the caller computes."""
    pending: deque[Future[Value]] = deque()
    with ThreadPoolExecutor(2) as pool:
        try:
            for key in keys:
                pending.append(pool.submit(read, key))
                if len(pending) > READ_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def run_through(compute: Callable[[NDArray[Any]], NDArray[Any]], source: Pictures, advance: Advance) -> NDArray[Any]:
    """`compute(source)`, row by row, in memory.

    Args:
        compute: `(n, ...)` to `(n, ...)`.
        source: What goes in.
        advance: Called with the number of rows done.
    """
    batches = []
    for batch in read_ahead(source.__getitem__, chunks(len(source))):
        batches.append(compute(batch))
        advance(len(batch))
    return np.concatenate(batches)


def chunks(length: int, start: int = 0) -> list[slice]:
    """Slices of at most `CHUNK` rows that cover `start` to `length`."""
    return [slice(begin, min(begin + CHUNK, length)) for begin in range(start, length, CHUNK)]


def _complete(
    path: Path,
    progress_file: Path,
    header: dict[str, Any],
    source: Pictures,
    compute: Callable[[NDArray[Any]], NDArray[Any]] | None,
    done: int,
    advance: Advance,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not done:
        _reserve(path, _size_bytes(header))
    rows = _mapped(path, header, "r+")
    advance(done)
    for batch in read_ahead(source.__getitem__, chunks(len(source), done)):
        values = _computed(compute, batch)
        rows[done : done + len(values)] = values
        done += len(values)
        rows.flush()
        write_json(progress_file, {**header, "done": done})
        advance(len(values))


def _mapped(path: Path, header: dict[str, Any], mode: Literal["r", "r+"]) -> np.memmap[Any, np.dtype[Any]]:
    return np.memmap(path, np.dtype(header["dtype"]), mode, shape=tuple(header["shape"]))


def _computed(compute: Callable[[NDArray[Any]], NDArray[Any]] | None, batch: NDArray[Any]) -> NDArray[Any]:
    return batch if compute is None else np.asarray(compute(batch)).astype(np.float16)


def _rows_done(path: Path, progress_file: Path, header: dict[str, Any]) -> int:
    try:
        recorded = read_json(progress_file)
    except (OSError, ValueError):
        return 0
    same = all(recorded.get(key) == value for key, value in header.items())
    whole = path.is_file() and path.stat().st_size == _size_bytes(header)
    return int(recorded["done"]) if same and whole else 0


def _size_bytes(header: dict[str, Any]) -> int:
    return int(math.prod(header["shape"]) * np.dtype(header["dtype"]).itemsize)


def _reserve(path: Path, size_bytes: int) -> None:
    """Claims the whole file now: a disk that fills up under a sparse memory map ends the process without a word."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)


def _check_space(path: Path, needed_bytes: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    held_bytes = path.stat().st_size if path.is_file() else 0
    free_bytes = shutil.disk_usage(path.parent).free + held_bytes
    needed_bytes += DISK_RESERVE_BYTES
    if free_bytes < needed_bytes:
        raise StorageError(
            f"the feature cache {path} and the weights need {needed_bytes / 1e9:.1f} GB and {free_bytes / 1e9:.1f} GB "
            "are free: free some and resume with --resume, or train again with fewer --copies"
        )


def _key(made_from: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
