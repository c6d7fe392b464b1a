"""Records the progress of a run: one CSV line per epoch, the same for TensorBoard, and a plot."""

from __future__ import annotations

import csv
import io
import math
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from edgebcnn.atomic import replacing_file, write_bytes
from edgebcnn.errors import RunError, StorageError
from edgebcnn.model.keras import tf
from edgebcnn.train.fit import EpochReport
from edgebcnn.untrusted.files import read_text


class History:
    """`history.csv` and `tensorboard/` of a run.

    Args:
        run: The run folder; what it already holds is kept.

    Raises:
        RunError: `history.csv` is not what a run wrote.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self.epochs: list[EpochReport] = read_history(run)
        self._writer: Any = None

    def begin(self, role: str, stage: str) -> None:
        """Starts a stage anew: its epochs are reported again, those that an earlier attempt wrote are dropped.

        Raises:
            StorageError: it cannot be written.
        """
        self.epochs = [epoch for epoch in self.epochs if (epoch.role, epoch.stage) != (role, stage)]
        folder = self._run / "tensorboard" / f"{role}-{stage}"
        shutil.rmtree(folder, ignore_errors=True)
        with self._tensorboard_errors():
            self._writer = tf.summary.create_file_writer(str(folder))

    def add(self, epoch: EpochReport) -> None:
        """Adds one epoch.

        Raises:
            StorageError: it cannot be written.
        """
        self.epochs.append(epoch)
        write_bytes(self._run / "history.csv", _csv(self.epochs))
        with self._tensorboard_errors(), self._writer.as_default(step=epoch.epoch):
            for name in ("loss", "accuracy", "val_loss", "val_accuracy", "head_rate"):
                if not math.isnan(value := getattr(epoch, name)):
                    tf.summary.scalar(name, value)
            self._writer.flush()

    def draw(self) -> None:
        """Draws `curves.png`: loss and accuracy of every stage, epoch by epoch.

        Raises:
            StorageError: it cannot be written.
        """
        if not self.epochs:
            return
        figure = _figure(self.epochs)
        with replacing_file(self._run / "curves.png") as part:
            figure.savefig(part, dpi=120, format="png")

    @contextmanager
    def _tensorboard_errors(self) -> Iterator[None]:
        """TensorFlow writes these files by itself and has errors of its own for a disk that is full or read-only."""
        try:
            yield
        except tf.errors.OpError as error:
            is_full = isinstance(error, tf.errors.ResourceExhaustedError)
            remedy = "no space left on the disk: free some" if is_full else "check the path and its permissions"
            raise StorageError(
                f"cannot write {self._run / 'tensorboard'}, {remedy} and resume with --resume"
            ) from error


def _figure(epochs: list[EpochReport]) -> Any:
    from matplotlib.figure import Figure

    roles = list(dict.fromkeys(epoch.role for epoch in epochs))
    figure = Figure(figsize=(10, 3.2 * len(roles)), layout="constrained")
    panels = figure.subplots(len(roles), 2, squeeze=False)
    for row, role in zip(panels, roles, strict=True):
        of_role = [epoch for epoch in epochs if epoch.role == role]
        steps = range(1, len(of_role) + 1)
        for panel, quantity, unit, factor in zip(row, ("loss", "accuracy"), ("nats", "%"), (1, 100), strict=True):
            panel.plot(steps, [factor * getattr(e, quantity) for e in of_role], color="0.6", label="train")
            if not any(math.isnan(e.val_loss) for e in of_role):
                validation = [factor * getattr(e, f"val_{quantity}") for e in of_role]
                panel.plot(steps, validation, color="C0", label="validation")
            for step in range(1, len(of_role)):
                if of_role[step].stage != of_role[step - 1].stage:
                    panel.axvline(step + 0.5, color="0.8", linestyle="--")
            panel.set(title=f"{role} model", xlabel="epoch", ylabel=f"{quantity} ({unit})")
            panel.legend(frameon=False)
            panel.spines[["top", "right"]].set_visible(False)
    return figure


def _csv(epochs: Iterable[EpochReport]) -> bytes:
    text = io.StringIO()
    table = csv.DictWriter(text, [field.name for field in fields(EpochReport)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(epoch) for epoch in epochs)
    return text.getvalue().encode()


def read_history(run: Path) -> list[EpochReport]:
    """The epochs of a run so far; none where it has not begun.

    Raises:
        RunError: the file was changed by hand.
    """
    file = run / "history.csv"
    if not file.exists():
        return []
    kinds = {"role": str, "stage": str, "epoch": int}
    try:
        rows = list(csv.DictReader(read_text(file).splitlines()))
        return [EpochReport(**{name: kinds.get(name, float)(value) for name, value in row.items()}) for row in rows]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise RunError(f"{file} cannot be read or was changed by hand: undo the change, or remove it") from error
