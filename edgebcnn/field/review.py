"""Stores the decisions of a review, which survive a kill, and puts each labeled frame where `train` finds it.

    SAMPLE-audit/review.jsonl           one line per decision, on disk before the next frame; the last one counts
    SAMPLE-labelled/<product>/<id>.png  the frames with the product that a person chose
    SAMPLE-labelled-no-product/<id>.png the frames that show no product

The most informative frames come first: those on which edge and full model differ, then those with the smallest margin
of the full model (margin sampling: Scheffer, Decomain, Wrobel 2001, doi:10.1007/3-540-44816-0_31).
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from threading import Lock
from types import TracebackType

from pydantic import BaseModel, ConfigDict, ValidationError

from edgebcnn.atomic import storage_errors, write_bytes
from edgebcnn.errors import DataError, StorageError
from edgebcnn.field.answers import Answer, read_answers
from edgebcnn.field.record import SUFFIX, read_pixels
from edgebcnn.field.sample import open_sample
from edgebcnn.untrusted.files import read_bytes

DECISIONS_NAME = "review.jsonl"
MARK_NAME = ".edgebcnn-review"
_MARK = b"edgebcnn review fills this folder\n"
_LONGEST_NAME_BYTES = 255


class Decision(BaseModel):
    """What a person decided about one frame.

    Attributes:
        id: Of the frame.
        label: The product that it shows; None where it was skipped or shows none.
        time: When, ISO 8601 in UTC.
        no_product: Whether it shows no product: an empty place, a hand, something that is not sold here.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    label: str | None
    time: str
    no_product: bool = False


@dataclass(frozen=True)
class ReviewCounts:
    """Progress of a review.

    Attributes:
        frames: Frames of the review.
        kept: Labelled as the full model predicted.
        fixed: Labelled otherwise.
        skipped: Left out.
        no_product: Labelled as showing no product.
    """

    frames: int
    kept: int
    fixed: int
    skipped: int
    no_product: int = 0

    def __str__(self) -> str:
        """`12 of 340 frames decided: 9 kept, 2 fixed, 1 skipped`; how many show no product, where some do."""
        decided = f"{self.kept + self.fixed + self.skipped + self.no_product} of {self.frames} frames decided"
        nothing = f", {self.no_product} without a product" if self.no_product else ""
        return f"{decided}: {self.kept} kept, {self.fixed} fixed, {self.skipped} skipped{nothing}"


class Review:
    """The frames of a sample, the most informative first, and the decisions on them. Any thread may use it.

    Attributes:
        labels: The products, in the order of class ids.
        answers: Predictions for the frames, in the order in which they are shown.
        output: Folder of labelled photos.
        no_product: Folder of the frames that show no product, beside it: as one of its folders it would be taken for
            a product.

    Args:
        sample: What `edgebcnn run --sample` kept.
        audit: What `edgebcnn audit` wrote of it.
        output: Folder for the photos; it need not be there, or is that of an earlier review.

    Raises:
        DataError: sample or audit cannot be used or do not belong together, or a product cannot name a folder.
        StorageError: another review goes on, or `output` holds other things or cannot be written.
    """

    def __init__(self, sample: Path, audit: Path, *, output: Path) -> None:
        found, kept = read_answers(audit), open_sample(sample)
        if found.bundle != kept.bundle:
            raise DataError(f"{audit} is of a sample of another bundle than {sample}: run edgebcnn audit {sample}")
        there = {record.id for record in kept.records}
        self.labels = found.labels
        self.answers = informative([answer for answer in found.answers if answer.id in there])
        if not self.answers:
            raise DataError(f"{audit} knows no frame of {sample}: run edgebcnn audit {sample} again")
        self.output = output
        self.no_product = output.with_name(f"{output.name}-no-product")
        self._sample = sample
        self._lock = Lock()
        _check_names(self.labels)
        for folder in (output, self.no_product):
            _check_output(folder)
        self._decisions = _DecisionFile(audit / DECISIONS_NAME)
        try:
            self._complete()
        except BaseException:
            self._decisions.close()
            raise

    def __enter__(self) -> Review:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._decisions.close()

    @property
    def decisions(self) -> Mapping[str, Decision]:
        """The last decision on each frame, by its id."""
        return self._decisions.last

    def picture(self, frame: str) -> Path:
        """Returns the file of a frame.

        Raises:
            DataError: there is no such frame.
        """
        if frame not in {answer.id for answer in self.answers}:
            raise DataError(f"{frame} is not a frame of this review")
        return self._sample / f"{frame}{SUFFIX}"

    def decide(self, frame: str, label: str | None, *, no_product: bool = False) -> None:
        """Saves a decision, and puts the photo into the folder of its label.

        Args:
            frame: Its id.
            label: The product that it shows; None to skip it.
            no_product: Whether it shows no product; the label is None then.

        Raises:
            DataError: there is no such frame or product, a product and none were given, or the frame's file is damaged.
            StorageError: it cannot be written, and nothing was decided; or the photo cannot, which the next review puts
                where the decision says.
        """
        if label is not None and label not in self.labels:
            raise DataError(f"{label!r} is not a product of the bundle")
        if label is not None and no_product:
            raise DataError(f"{frame} cannot show {label!r} and no product: give one of the two")
        picture = self.picture(frame)
        time = datetime.now(timezone.utc).isoformat()
        with self._lock:
            if label is not None or no_product:
                read_pixels(picture)
            decision = Decision(id=frame, label=label, time=time, no_product=no_product)
            self._decisions.add(decision)
            self._put(decision)

    def counts(self) -> ReviewCounts:
        """Returns the progress."""
        decided = [(each.full, self.decisions[each.id]) for each in self.answers if each.id in self.decisions]
        no_product = sum(decision.no_product for _, decision in decided)
        skipped = sum(decision.label is None for _, decision in decided) - no_product
        kept = sum(decision.label == full for full, decision in decided)
        fixed = len(decided) - kept - skipped - no_product
        return ReviewCounts(len(self.answers), kept, fixed, skipped, no_product)

    def _complete(self) -> None:
        """Puts every photo where it belongs: a kill may have come between a decision and its photo."""
        found = [*self.output.glob(f"*/*{SUFFIX}"), *self.no_product.glob(f"*{SUFFIX}")]
        self._places = {file.stem: file for file in found if not file.name.startswith(".")}
        for answer in self.answers:
            if decision := self.decisions.get(answer.id):
                if decision.label is not None and decision.label not in self.labels:
                    raise DataError(f"{self._decisions.path} names {decision.label!r}, which is no product: remove it")
                self._put(decision)

    def _put(self, decision: Decision) -> None:
        frame, folder = decision.id, self._folder_of(decision)
        place = folder / f"{frame}{SUFFIX}" if folder else None
        before = self._places.pop(frame, None)
        if before and before != place:
            with storage_errors(before):
                before.unlink()
                if before.parent != self.no_product and not any(before.parent.iterdir()):
                    before.parent.rmdir()
        if place:
            if before != place:
                mark = (self.no_product if decision.no_product else self.output) / MARK_NAME
                if not mark.exists():
                    write_bytes(mark, _MARK)
                write_bytes(place, self.picture(frame).read_bytes())
            self._places[frame] = place

    def _folder_of(self, decision: Decision) -> Path | None:
        if decision.no_product:
            return self.no_product
        return None if decision.label is None else self.output / decision.label


def informative(answers: Sequence[Answer]) -> tuple[Answer, ...]:
    """Orders frames: those on which the models differ first, then by increasing margin of the full model."""
    return tuple(sorted(answers, key=lambda each: (each.agrees, each.full_margin, each.id)))


class _DecisionFile:
    """Appends lines, each on disk when `add` returns; a line that a kill truncated is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            self._lock()
            self.last = self._read()
        except BaseException:
            self.close()
            raise

    def add(self, decision: Decision) -> None:
        line = f"{decision.model_dump_json()}\n".encode()
        with storage_errors(self.path):
            size = os.fstat(self._file).st_size
            try:
                if os.write(self._file, line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
        self.last[decision.id] = decision

    def close(self) -> None:
        os.close(self._file)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"another review writes {self.path}: end it first") from None

    def _read(self) -> dict[str, Decision]:
        content = read_bytes(self.path)
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.ftruncate(self._file, len(whole))
        decisions: dict[str, Decision] = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                decision = Decision.model_validate_json(line)
            except ValidationError as error:
                raise DataError(f"{self.path}, line {number} is no decision: correct or remove the line") from error
            decisions[decision.id] = decision
        return decisions


def _check_names(labels: Sequence[str]) -> None:
    for label in labels:
        if label.startswith(".") or "/" in label or "\0" in label or not 0 < len(label.encode()) <= _LONGEST_NAME_BYTES:
            raise DataError(f"product {label!r} cannot be the name of a folder: rename it, train and export again")


def _check_output(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise StorageError(f"{output} is not a folder: give another one with --output")
    if output.is_dir() and any(output.iterdir()) and not (output / MARK_NAME).is_file():
        raise StorageError(f"{output} holds other things than a review's photos: give another folder with --output")
