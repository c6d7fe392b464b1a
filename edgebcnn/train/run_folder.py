"""What a run folder holds, and how it is opened again.

    runs/<name>/
      run.json              configuration, products, what is done, how it ended
      photos.csv            every photo, its split and product
      full/, compact/       weights.h5 of each model, and the checkpoint of the stage in progress
      history.csv           one line an epoch; tensorboard/ holds the same
      curves.png            losses and accuracies, drawn
      metrics.json          accuracy and agreement on held-out photos
      cache/                outputs of frozen layers, removed at the end
    runs/latest             link to the newest run

A run that was stopped is opened for `--resume`; one with a compact model can be evaluated and exported.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgebcnn import __version__
from edgebcnn.atomic import storage_errors, write_bytes, write_json
from edgebcnn.bundle import Label
from edgebcnn.errors import RunError
from edgebcnn.model.bcnn import Architecture, Bcnn, Role, build
from edgebcnn.model.heads import HEADS
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.dataset import Photo, ProductDataset

SCHEMA_VERSION = 1
RECORD_NAME = "run.json"
PHOTOS_NAME = "photos.csv"
LATEST = "latest"

State = Literal["running", "interrupted", "finished"]


class RunRecord(BaseModel):
    """`run.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA_VERSION
    edgebcnn_version: str = __version__
    config: TrainConfig
    labels: tuple[Label, ...]
    done: tuple[str, ...] = ()
    state: State = "running"


@dataclass(frozen=True)
class TrainedRun:
    """A run folder with what was trained in it."""

    path: Path
    config: TrainConfig
    dataset: ProductDataset
    state: State

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.path.name

    @property
    def preprocessing(self) -> Preprocessing:
        """What turns a photo into an input of these models."""
        return Preprocessing(height_px=self.config.input_px, width_px=self.config.input_px)

    def architecture(self, role: Role) -> Architecture:
        """Shape of the full or the compact model."""
        return architecture(self.config, len(self.dataset.labels), role)

    def load(self, role: Role) -> Bcnn:
        """The full or the compact model with its trained weights.

        Raises:
            RunError: that model was not trained, or its weights do not fit.
        """
        file = weights_path(self.path, role)
        if not file.is_file():
            raise RunError(f"{self.path} holds no {role} model yet: go on with edgebcnn train --resume")
        bcnn = build(self.architecture(role))
        try:
            bcnn.model.load_weights(str(file))
        except (ValueError, OSError, KeyError) as error:
            raise RunError(f"{file} does not hold the weights of this run's {role} model: train again") from error
        return bcnn


def architecture(config: TrainConfig, classes: int, role: Role) -> Architecture:
    """Shape of the full or the compact model of a run."""
    if role == "full":
        return Architecture(
            backbone=config.backbone, pooling="outer", tail="sqrt", classes=classes, dropout=config.dropout
        )
    own = HEADS[config.pooling]
    return Architecture(
        backbone=config.backbone,
        pooling=config.pooling,
        rank=config.rank or own.rank,
        tail=config.tail or own.tails[0],
        class_rank=config.class_rank,
        seed=config.seed,
        classes=classes,
        dropout=config.dropout,
    )


def new_name() -> str:
    """Name of a run that was given none: the local time, sortable."""
    return datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


def weights_path(run: Path, role: Role) -> Path:
    """Where a run keeps the weights of a model."""
    return run / role / "weights.h5"


def open_run(path: Path) -> TrainedRun:
    """Opens a run that has a trained compact model.

    Raises:
        RunError: no run there, of another version, changed by hand, or without a compact model.
    """
    record = read_record(path)
    if not weights_path(path, "compact").is_file():
        raise RunError(f"{path} is not finished, it holds no compact model yet: go on with edgebcnn train --resume")
    return TrainedRun(path.resolve(), record.config, read_photos(path, record), record.state)


def read_record(path: Path) -> RunRecord:
    """Reads `run.json`.

    Raises:
        RunError: no run there, of another version, or changed by hand.
    """
    file = path / RECORD_NAME
    try:
        document = json.loads(file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a run (no {RECORD_NAME}): make one with edgebcnn train") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{file} cannot be read ({error}): train again") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{file} has schema version {version}, this edgebcnn reads {SCHEMA_VERSION}: "
            "train again, or install the version that made it"
        )
    try:
        return RunRecord.model_validate_json(json.dumps(document))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{file}, field {field}: {first['msg']}; train again, or undo the change") from error


def write_record(path: Path, record: RunRecord) -> None:
    """Writes `run.json`.

    Raises:
        StorageError: it cannot be written.
    """
    write_json(path / RECORD_NAME, record.model_dump(mode="json", exclude_none=True))


def write_photos(path: Path, dataset: ProductDataset) -> None:
    """Writes `photos.csv`: which photo is in which split.

    Raises:
        StorageError: it cannot be written.
    """
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("split", "class_id", "path"))
    for split in _SPLITS:
        table.writerows((split, photo.class_id, photo.path) for photo in getattr(dataset, split))
    write_bytes(path / PHOTOS_NAME, text.getvalue().encode())


def read_photos(path: Path, record: RunRecord) -> ProductDataset:
    """Reads `photos.csv`.

    Raises:
        RunError: it is missing or not what a run wrote.
    """
    file = path / PHOTOS_NAME
    photos: dict[str, list[Photo]] = {split: [] for split in _SPLITS}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                photos[row["split"]].append(Photo(Path(row["path"]), int(row["class_id"])))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise RunError(f"{file} is missing or was changed by hand: train again") from error
    splits: dict[str, Any] = {split: tuple(found) for split, found in photos.items()}
    return ProductDataset(Path(record.config.data), record.labels, skipped=(), notes=(), **splits)


_SPLITS = ("train", "val", "test")


def point_latest_at(run: Path) -> None:
    """Makes `latest`, beside the run, a link to it.

    Raises:
        StorageError: the link cannot be written.
    """
    link, part = run.parent / LATEST, run.parent / f".{LATEST}.part"
    with storage_errors(link):
        part.unlink(missing_ok=True)
        part.symlink_to(run.name, target_is_directory=True)
        part.replace(link)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps a second process out of a run folder; the lock goes with the process, however it ends.

    Raises:
        RunError: another process is working in it.
    """
    with storage_errors(run):
        run.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another edgebcnn train is working in {run}: wait for it, or choose another --name"
            ) from None
        yield
    finally:
        os.close(descriptor)
