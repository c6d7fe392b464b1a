"""What a run folder holds, and how it is opened again.

    runs/<name>/
      run.json              configuration, products, what is done, how it ended
      config.toml           the same configuration, for edgebcnn train --config
      photos.csv            every photo, its split and product
      full/, compact/       weights.h5 of each model, and the checkpoint of the stage in progress; where compress made
                            the run, factorized.h5 is the compact model before it was distilled
      history.csv           one line an epoch; tensorboard/ holds the same
      curves.png            losses and accuracies, drawn
      metrics.json          accuracy and agreement on held-out photos
      cache/                outputs of frozen layers, removed at the end
    runs/latest             link to the newest run

A run that was stopped is opened for `--resume`; one with a compact model can be evaluated and exported.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import h5py
from pydantic import BaseModel, ConfigDict, ValidationError

from edgebcnn import __version__
from edgebcnn.atomic import write_bytes, write_json
from edgebcnn.bundle import Label
from edgebcnn.errors import DataError, RunError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.model import heads
from edgebcnn.model.bcnn import Architecture, Bcnn, Role, build
from edgebcnn.model.keras import keras
from edgebcnn.preprocessing import Interpolation, Preprocessing
from edgebcnn.train.config import TrainConfig
from edgebcnn.untrusted.files import csv_of, read_bytes, read_json, whole_number

SCHEMA_VERSION = 2
RECORD_NAME = "run.json"
PHOTOS_NAME = "photos.csv"

BEFORE_IT_WAS_A_CHOICE: Interpolation = "area"
"""Of runs whose record names none."""

State = Literal["running", "interrupted", "diverged", "finished"]


class RunRecord(BaseModel):
    """`run.json`.

    Attributes:
        compressed_from: The run whose full model this one compresses; None where it trained its own.
        alignment: How the maps of two streams came to one grid; None where nothing had to be done.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    schema_version: int = SCHEMA_VERSION
    edgebcnn_version: str = __version__
    config: TrainConfig
    labels: tuple[Label, ...]
    compressed_from: str | None = None
    alignment: str | None = None
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
        return self.config.preprocessing(self.config.input_px)

    def architecture(self, role: Role) -> Architecture:
        """Shape of the full or the compact model."""
        return architecture(self.config, len(self.dataset.labels), role)

    def load(self, role: Role, name: str = "weights") -> Bcnn:
        """The full or the compact model, in float32, with its trained weights.

        Args:
            role: Which.
            name: `factorized` for the compact model of `edgebcnn compress` before it learned anything.

        Raises:
            RunError: that model was not trained, or its weights are gone or do not fit.
        """
        _check_that_it_was_trained(self.path, role, self.state)
        bcnn = build(self.architecture(role))
        read_weights(self.path, role, bcnn, name)
        return bcnn


def architecture(config: TrainConfig, classes: int, role: Role) -> Architecture:
    """Shape of the full or the compact model of a run."""
    if role == "full":
        return Architecture(
            streams=config.streams,
            shared_weights=config.shared_weights,
            pooling="outer",
            tail="sqrt",
            classes=classes,
            dropout=config.dropout,
        )
    own = heads.find(config.pooling)
    return Architecture(
        streams=config.streams,
        shared_weights=config.shared_weights,
        pooling=config.pooling,
        rank=config.rank or own.rank,
        tail=config.tail or own.tails[0],
        class_rank=config.class_rank,
        seed=config.seed,
        classes=classes,
        dropout=config.dropout,
    )


def weights_path(run: Path, role: Role, name: str = "weights") -> Path:
    """Where a run keeps the weights of a model."""
    return run / role / f"{name}.h5"


def write_weights(run: Path, role: Role, bcnn: Bcnn, name: str = "weights") -> None:
    """Writes a model's weights in the HDF5 layout of Keras.

    The file is made in memory: HDF5 ends the process by a segmentation fault where a disk fills up under it.

    Raises:
        StorageError: they cannot be written.
    """
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["backend"], file.attrs["keras_version"] = "tensorflow", keras.__version__
        file.attrs["layer_names"] = [layer.name.encode() for layer in bcnn.model.layers]
        for layer in bcnn.model.layers:
            group = file.require_group(layer.name)  # a slash in a name is a group in a group
            weights = [*layer.trainable_weights, *layer.non_trainable_weights]  # the order that Keras reads them in
            group.attrs["weight_names"] = [weight.name.encode() for weight in weights]
            for weight in weights:
                group[weight.name] = weight.numpy()
    write_bytes(weights_path(run, role, name), content.getvalue())


def read_weights(run: Path, role: Role, bcnn: Bcnn, name: str = "weights") -> None:
    """Gives a model the weights that the run keeps for it.

    Raises:
        RunError: they are missing or do not fit.
    """
    file = weights_path(run, role, name)
    try:
        bcnn.model.load_weights(str(file))
    except (ValueError, OSError, KeyError) as error:
        problem = f"does not hold the weights of this run's {role} model" if file.is_file() else "is missing"
        raise RunError(f"{file} {problem}: put it back, or train again") from error


def resume_command(run: Path) -> str:
    """The command that resumes an interrupted run."""
    return f"edgebcnn train --resume --runs {quote(str(run.parent))} --name {quote(run.name)}"


def open_run(path: Path) -> TrainedRun:
    """Opens a run that has a trained compact model.

    Raises:
        RunError: no run there, of another version, changed by hand, or without a compact model.
    """
    record = read_record(path)
    _check_that_it_was_trained(path.resolve(), "compact", record.state)
    return TrainedRun(path.resolve(), record.config, read_photos(path, record), record.state)


def read_record(path: Path) -> RunRecord:
    """Reads `run.json`.

    Raises:
        RunError: no run there, of another version, or changed by hand.
    """
    file = path / RECORD_NAME
    try:
        document = read_json(file)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{path} is not a run (no {RECORD_NAME}): make one with edgebcnn train") from None
    except OSError as error:
        raise RunError(f"{file} cannot be read ({error.strerror}): allow reading it") from error
    except ValueError as error:
        raise RunError(f"{file} was changed by hand: {error}; undo the change, or train again") from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if version != SCHEMA_VERSION:
        raise RunError(
            f"{file} has schema version {version!r:.40}, this edgebcnn reads {SCHEMA_VERSION}: "
            "train again, or install the version that made it"
        )
    if isinstance(document.get("config"), dict):
        document["config"].setdefault("interpolation", BEFORE_IT_WAS_A_CHOICE)
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
    write_bytes(path / PHOTOS_NAME, text.getvalue().encode(errors="surrogateescape"))  # a file's name may be any bytes


_MAX_PHOTOS_BYTES = 1 << 30  # a path takes up to 4 KB, and a shop has a million photos at most


def read_photos(path: Path, record: RunRecord) -> ProductDataset:
    """Reads `photos.csv`.

    Raises:
        RunError: it is missing or not what a run wrote.
    """
    file = path / PHOTOS_NAME
    photos: dict[str, list[Photo]] = {split: [] for split in _SPLITS}
    try:
        # A photo's path may be any bytes, so that this one file need not be UTF-8.
        rows = csv_of(read_bytes(file, max_bytes=_MAX_PHOTOS_BYTES).decode("utf-8", "surrogateescape"))
        _, header = next(rows)
        for _, cells in rows:
            row = dict(zip(header, cells, strict=True))
            class_id = -1 if row["class_id"] == "-1" else whole_number(row["class_id"])
            photos[row["split"]].append(Photo(Path(row["path"]), class_id))
    except (OSError, KeyError, ValueError, StopIteration) as error:
        raise RunError(f"{file} is missing or was changed by hand: train again") from error
    splits: dict[str, Any] = {split: tuple(found) for split, found in photos.items()}
    return ProductDataset(Path(record.config.data), record.labels, skipped=(), notes=(), **splits)


_SPLITS = ("train", "val", "test", "unlabelled")


def check_photos(path: Path, dataset: ProductDataset) -> None:
    """Checks, before anything long, that the photos of a run are where they were.

    Raises:
        DataError: some are not.
    """
    photos = [photo.path for split in _SPLITS for photo in getattr(dataset, split)]
    if gone := [photo for photo in photos if not os.path.isfile(photo)]:
        raise DataError(
            f"{len(gone)} of the {len(photos)} photos of {path} are no longer there, the first is {gone[0]}: "
            "put them back, or train again"
        )


def _check_that_it_was_trained(path: Path, role: Role, state: State) -> None:
    file = weights_path(path, role)
    if file.is_file():
        return
    if state == "finished":
        raise RunError(f"{file} is missing: put it back, or train again")
    if state == "diverged":
        raise diverged(path)
    raise RunError(f"{path} holds no {role} model yet: resume it with {resume_command(path)}")


def diverged(path: Path) -> RunError:
    """The error for resuming a run that diverged."""
    return RunError(f"training of {path} diverged, and would again: train another with lower learning rates")
