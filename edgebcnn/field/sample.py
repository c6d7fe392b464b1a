"""The folder of kept frames, as a device fills it and as a workstation reads it.

    SAMPLE/
      sample.json          the bundle, and the threshold below which a frame's rank must be
      <run>-<number>.png   one frame and its record each

Each file appears whole or not at all. When the cap is reached, the new threshold is on the disk before the first frame
goes: whoever is killed in between leaves frames that the next reader passes over and the next run removes.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgebcnn.atomic import json_bytes, storage_errors, write_bytes
from edgebcnn.errors import BundleError, DataError, StorageError
from edgebcnn.field.plan import kept_with
from edgebcnn.field.record import SUFFIX, Record, read_pixels, read_record
from edgebcnn.untrusted.files import read_bytes

STATE_NAME = "sample.json"
LOCK_NAME = ".lock"

BLOCK_BYTES = 4096  # what disks give out
RESERVE_BYTES = 4 * BLOCK_BYTES  # sample.json, its successor while it is written, the lock, the folder's own entry
ENTRY_BYTES = 128  # a file's name in the folder
FILLED_AFTER_THINNING = 0.9  # each thinning writes sample.json, and a flash card should not see that at every frame


class State(BaseModel):
    """`sample.json`.

    Attributes:
        schema_version: Version of this file.
        bundle: Digest of the bundle.
        threshold: The limit of ranks; 1 before the cap was first reached.
        records: How many frames there are; None while a run adds to them, or after it was killed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: Literal[1] = 1
    bundle: str
    threshold: float = Field(default=1.0, gt=0, le=1)
    records: int | None = None


@dataclass(frozen=True)
class BlurredFaces:
    """The number of frames of a sample with blurred faces.

    Attributes:
        searched: Frames in which faces were looked for.
        blurred: Those in which there were any; the full model sees these otherwise than the edge model did.
    """

    searched: int
    blurred: int

    def __str__(self) -> str:
        """`faces are blurred in 12 of 340 frames that were searched for them: …`."""
        return (
            f"faces are blurred in {self.blurred} of {self.searched} frames that were searched for them: "
            "the edge model answered before that, the full model after"
        )


@dataclass(frozen=True)
class Sample:
    """A sample as it lies on the disk.

    Attributes:
        path: Its folder.
        bundle: Digest of the bundle that ran.
        threshold: The limit of ranks.
        records: Its frames, by id.
    """

    path: Path
    bundle: str
    threshold: float
    records: tuple[Record, ...]

    @property
    def faces(self) -> BlurredFaces:
        """The count of frames with blurred faces."""
        blurred = [each.faces_blurred for each in self.records if each.faces_blurred is not None]
        return BlurredFaces(searched=len(blurred), blurred=sum(count > 0 for count in blurred))

    @property
    def kept_with(self) -> NDArray[np.float64]:
        """`(n,)` π: the probability with which each frame was kept."""
        return np.array([kept_with(each.boost, each.rate, self.threshold) for each in self.records])

    @property
    def is_plain(self) -> NDArray[np.bool_]:
        """`(n,)` bool: frames that would be here without any boost, a plain random sample of all frames."""
        limit = min([self.threshold, *(each.rate for each in self.records)])
        return np.array([each.draw < limit for each in self.records], bool)

    def pixels(self, records: Sequence[Record]) -> NDArray[np.uint8]:
        """The model inputs of some frames, `(n, h, w, 3)` uint8 RGB.

        Raises:
            DataError: a file is cut short, changed or gone, or its image has another size than the first.
        """
        pictures = [read_pixels(self.path / each.file_name) for each in records]
        if len({picture.shape for picture in pictures}) > 1:
            raise DataError(f"{self.path} holds pictures of several sizes: it was mixed from samples of two bundles")
        return np.stack(pictures)


def open_sample(path: Path) -> Sample:
    """Opens a sample to read it.

    Raises:
        DataError: there is no sample, it is not whole, it holds no frame, or frames of several bundles.
    """
    state = _read_state(path)
    if state is None:
        raise DataError(
            f"{path} is not a whole sample (no {STATE_NAME}): keep one with edgebcnn run --sample, or copy all"
        )
    found = [read_record(file) for file in _files(path)]
    records = tuple(each for each in found if each.rank < state.threshold)
    if state.records is not None and len(records) < state.records:
        raise DataError(f"{path} holds {len(records)} of its {state.records} frames: copy the sample again")
    if not records:
        raise DataError(f"{path} holds no frame yet: let edgebcnn run --sample see more of them")
    if stranger := next((each for each in records if each.bundle != state.bundle), None):
        raise DataError(f"{path / stranger.file_name} is of another bundle than the sample: remove it")
    return Sample(path, state.bundle, state.threshold, records)


class SampleFolder:
    """A sample that a run fills. One thread uses it.

    Attributes:
        path: Its folder.
        bundle: Digest of the bundle that runs.
        threshold: The limit of ranks; falls when the cap is reached.

    Args:
        path: Folder to make, or to go on with.
        bundle_digest: Of the bundle that runs.
        max_bytes: What the folder may take on the disk, in whole blocks, with what is being written.

    Raises:
        BundleError: it holds frames of another bundle.
        DataError: a record in it cannot be read.
        StorageError: it holds something else, another run fills it, or it cannot be written.
    """

    def __init__(self, path: Path, *, bundle_digest: str, max_bytes: int) -> None:
        self.path = path
        self.bundle = bundle_digest
        self._budget = max_bytes - RESERVE_BYTES
        with storage_errors(path):
            _check_place(path)
            path.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(path)
        try:
            self._held = self._opened()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def frames(self) -> int:
        """The number of frames in the sample."""
        return len(self._held)

    def add(self, record: Record, content: bytes) -> bool:
        """Adds a frame if its rank is below the threshold; makes room for it first where the cap asks for that.

        Args:
            record: What is known about it.
            content: Its file.

        Returns:
            Whether it is in the sample now.

        Raises:
            StorageError: it cannot be written; the sample is as it was.
        """
        if record.rank >= self.threshold:
            return False
        size = _size_on_disk(len(content))
        if self._bytes + size > self._budget:
            self._thin(record.rank, size)
            if record.rank >= self.threshold:
                return False
        write_bytes(self.path / record.file_name, content)
        self._held[record.file_name] = (record.rank, size)
        self._bytes += size
        return True

    def frames_by_product(self, classes: int) -> NDArray[np.float64]:
        """Estimated number of all frames of each product so far, `(classes,)`: the sum of their 1/π."""
        frames = np.zeros(classes)
        for record in self._began_with:
            frames[record.class_id] += 1 / kept_with(record.boost, record.rate, self.threshold)
        return frames

    def close(self) -> None:
        """Writes down how many frames there are, so that a copy that lacks some is found out.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            self._write_state(records=len(self._held))
        finally:
            os.close(self._lock)

    def _opened(self) -> dict[str, tuple[float, int]]:
        state = _read_state(self.path) or State(bundle=self.bundle)
        if state.bundle != self.bundle:
            raise BundleError(
                f"{self.path} holds frames of bundle {state.bundle[:16]}, and {self.bundle[:16]} runs: "
                "audit and remove it, or give another folder"
            )
        self.threshold = state.threshold
        with storage_errors(self.path):
            for part in self.path.glob(".*.part.*"):
                part.unlink()
        self._write_state()
        records = {file: read_record(file) for file in _files(self.path)}
        held = {file.name: (each.rank, _size_on_disk(file.stat().st_size)) for file, each in records.items()}
        self._held, self._bytes = held, sum(size for _, size in held.values())
        self._remove_above_threshold()
        if self._bytes > self._budget:  # the cap is lower than it was
            self._thin(1.0, 0)
        self._began_with = [each for file, each in records.items() if file.name in self._held]
        return self._held

    def _thin(self, rank: float, size: int) -> None:
        """Lowers the threshold until what is below it, with a frame of that rank and size, leaves some room."""
        taken = 0
        for each_rank, each_size in sorted([*self._held.values(), (rank, size)]):
            taken += each_size
            if taken > self._budget * FILLED_AFTER_THINNING:
                # A rank of 0 cannot be below any threshold; one in 2^53 draws is 0.
                self.threshold = max(each_rank, np.finfo(float).tiny)
                break
        self._write_state()
        self._remove_above_threshold()

    def _remove_above_threshold(self) -> None:
        with storage_errors(self.path):
            for name, (rank, size) in list(self._held.items()):
                if rank >= self.threshold:
                    (self.path / name).unlink(missing_ok=True)
                    del self._held[name]
                    self._bytes -= size

    def _write_state(self, *, records: int | None = None) -> None:
        state = State(bundle=self.bundle, threshold=float(self.threshold), records=records)
        write_bytes(self.path / STATE_NAME, json_bytes(state.model_dump()))


def _files(path: Path) -> Iterator[Path]:
    """Whole records, by name."""
    return (file for file in sorted(path.glob(f"*{SUFFIX}")) if not file.name.startswith("."))


def _read_state(path: Path) -> State | None:
    file = path / STATE_NAME
    try:
        return State.model_validate_json(read_bytes(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): copy the sample again") from error
    except ValidationError as error:
        raise DataError(f"{file} is damaged or of another version: copy the sample again") from error


def _check_place(path: Path) -> None:
    """A sample may be where there is nothing, an empty folder, or a sample; a kill may leave its lock alone."""
    held = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    visible = {name for name in held if not name.startswith(".")}
    if (path.exists() and not path.is_dir()) or (visible and STATE_NAME not in held):
        raise StorageError(f"{path} exists and is not a sample: give --sample another folder, or remove it")


def _locked(path: Path) -> int:
    """A lock that goes with the process, however it ends."""
    descriptor = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StorageError(f"another run fills {path}: give each run a --sample of its own") from None
    return descriptor


def _size_on_disk(size: int) -> int:
    return -(-size // BLOCK_BYTES) * BLOCK_BYTES + ENTRY_BYTES
