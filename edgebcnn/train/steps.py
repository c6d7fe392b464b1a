"""The steps of `edgebcnn train`, each of which can be interrupted and resumed.

    features ── full/head ── full/finetune ── maps ── compact/factorized ── compact/head ── compact/finetune ── metrics

`edgebcnn compress` takes the same path, starting from the full model of another run.

Every step leaves its result on disk and is then recorded as done in `run.json`; a run that is resumed skips what is
done and continues inside the interrupted step: a cache at its last chunk, a stage at its last epoch.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from threading import Event
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import write_bytes, write_json
from edgebcnn.errors import DataError, DivergedError, Interrupted, RunError, TrainingError
from edgebcnn.images.dataset import ProductDataset, load_dataset
from edgebcnn.images.layouts import read_layout
from edgebcnn.model.backbones import NONE
from edgebcnn.model.bcnn import Bcnn, Role, build, with_descriptor
from edgebcnn.model.compress import settle, start_from_full
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.spelling import both
from edgebcnn.progress import Advance, Reporter
from edgebcnn.report.comparison import ModelComparison, compare
from edgebcnn.report.render import comparison_json
from edgebcnn.train.claim import check_place, created, locked, point_latest_at
from edgebcnn.train.config import StageConfig, TrainConfig
from edgebcnn.train.features import Pictures, PreparedPhotos, run_through
from edgebcnn.train.fit import EpochReport, Examples, Stage
from edgebcnn.train.history import History
from edgebcnn.train.inference import inference
from edgebcnn.train.material import Material, TrainAndVal, backbone_of, class_ids, frozen
from edgebcnn.train.run_folder import (
    RunRecord,
    TrainedRun,
    architecture,
    check_photos,
    diverged,
    open_run,
    read_photos,
    read_record,
    read_weights,
    resume_command,
    write_photos,
    write_record,
    write_weights,
)

METRICS_NAME = "metrics.json"
SETTINGS_NAME = "config.toml"


@dataclass(frozen=True)
class TrainResult:
    """A finished run and how its models do on held-out photos."""

    run: TrainedRun
    comparison: ModelComparison

    def __fspath__(self) -> str:
        """The run's folder, so that whatever takes a path takes a result."""
        return str(self.run.path)


def train(
    config: TrainConfig, run: Path, *, settings: str | None = None, reporter: Reporter, stop: Event
) -> TrainResult:
    """Trains a full model and its compact replacement in a new run folder.

    Args:
        config: All choices.
        run: Folder to make.
        settings: The configuration file that makes the same choices, kept in the run folder.
        reporter: Receives progress and messages.
        stop: Set to end after the batch in flight.

    Raises:
        RunError: `run` exists, or its name is not allowed.
        DataError: the photos cannot be used.
        TrainingError: training cannot continue.
        StorageError: the disk is full, or cannot be written.
        Interrupted: `stop` was set.
    """
    check_place(run)
    alignment = _check_choices(config)
    dataset = _fit_on(config, _load(config, reporter, stop))
    for sentence in (
        *([alignment] if alignment else ()),
        *dataset.notes,
        *(f"skipped {error}" for error in dataset.skipped),
    ):
        reporter.say(sentence)
    with created(run) as folder:
        write_photos(folder, dataset)
        write_record(folder, RunRecord(config=config, labels=dataset.labels, alignment=alignment))
        if settings is not None:
            write_bytes(folder / SETTINGS_NAME, settings.encode())
    point_latest_at(run)
    reporter.say(f"loss and accuracy of each epoch: tensorboard --logdir {quote(str(run / 'tensorboard'))}")
    return resume(run, reporter=reporter, stop=stop)


def resume(
    run: Path, *, reporter: Reporter, stop: Event, cache: Path | None = None, again: str | None = None
) -> TrainResult:
    """Resumes an interrupted run, whatever the cause, and completes it.

    Args:
        run: Its folder.
        reporter: Receives progress and messages.
        stop: Set to end after the batch in flight.
        cache: Folder for the outputs of frozen layers, kept at the end; by default one in the run, which is not.
        again: How to resume if it is interrupted; by default the command that resumes it.

    Raises:
        RunError: no run there, of another version, finished already, or in use.
        TrainingError: training cannot continue.
        StorageError: the disk is full, or cannot be written.
        Interrupted: `stop` was set.
    """
    run = run.resolve()
    read_record(run)
    with locked(run):
        record = read_record(run)
        if record.state == "finished":
            raise RunError(f"{run} is finished: export it, or train another")
        if record.state == "diverged":
            raise diverged(run)
        try:
            return _Training(run, record, reporter, stop, cache=cache, again=again).finish()
        except (MemoryError, tf.errors.ResourceExhaustedError) as error:
            raise TrainingError(
                f"there is too little memory to continue {run}: train again with a lower --batch-size, --rank or "
                "--train-px"
            ) from error


class _Training:
    def __init__(
        self,
        run: Path,
        record: RunRecord,
        reporter: Reporter,
        stop: Event,
        *,
        cache: Path | None,
        again: str | None,
    ) -> None:
        self._run, self._record, self._config = run, record, record.config
        self._reporter, self._stop = reporter, stop
        self._cache = cache or run / "cache"
        self._again = again or f"resume with {resume_command(run)}"
        self._compresses = record.compressed_from is not None
        self._head_only = self._compresses and not record.config.compact_finetune.epochs
        self._dataset = read_photos(run, record)
        check_photos(run, self._dataset)
        self._material = Material(self._config, self._dataset, self._cache, self._bar, head_only=self._head_only)
        self._history = History(run)
        self._scratch = NONE in both(self._config.weights)

    def finish(self) -> TrainResult:
        keras.utils.set_random_seed(self._config.seed)
        self._mark(state="running")
        try:
            self._compact(self._full())
            comparison = self._measure()
        except Interrupted:
            self._history.draw()
            self._mark(state="interrupted")
            raise Interrupted(self._reached()) from None
        except DivergedError:
            self._history.draw()
            self._mark(state="diverged")
            raise
        self._history.draw()
        if self._cache.parent == self._run:
            shutil.rmtree(self._cache, ignore_errors=True)
        self._mark(state="finished")
        return TrainResult(open_run(self._run), comparison)

    def _reached(self) -> str:
        if not self._history.epochs:
            return f"stopped before the first epoch; {self._again}"
        last = self._history.epochs[-1]
        no_val = math.isnan(last.val_accuracy)
        accuracy = f"train {100 * last.accuracy:.1f} %" if no_val else f"validation {100 * last.val_accuracy:.1f} %"
        reached = f"{last.role}/{last.stage}, epoch {last.epoch} ({accuracy})"
        return f"stopped after {reached}; the best weights are in {self._run}; {self._again}"

    def _full(self) -> Bcnn:
        config = self._config
        if "full/finetune" in self._record.done:
            return self._load("full", self._build("full", NONE))
        full = self._build("full", config.weights)
        if not self._scratch:  # a head on a random backbone would have to be unlearned
            self._fit("full", "head", config.full_head, full, lambda: self._material.maps("initial", full))
        self._fit("full", "finetune", config.full_finetune, full, lambda: self._material.features(full))
        return full

    def _compact(self, full: Bcnn) -> None:
        if "compact/finetune" in self._record.done:
            return
        config, compact = self._config, self._build("compact", NONE)
        maps, val_maps = self._material.maps("finetuned", full)
        maps = replace(maps, teacher=self._teacher_logits(full, maps))
        # Here the compact model is validated against the full model, which was itself validated against the labels.
        if self._compresses and val_maps is not None:
            val_maps = replace(val_maps, teacher=self._teacher_logits(full, val_maps))
        self._start(full, compact, maps)
        pooled = (with_descriptor(compact), with_descriptor(full)) if config.pooled_weight else None
        self._fit("compact", "head", config.compact_head, compact, lambda: (maps, val_maps), pooled=pooled)
        self._fit(
            "compact",
            "finetune",
            config.compact_finetune,
            compact,
            lambda: self._distilled_features(full, maps, val_maps),
        )

    def _distilled_features(self, full: Bcnn, maps: Examples, val_maps: Examples | None) -> TrainAndVal:
        train, val = self._material.features(full)
        train = replace(train, teacher=maps.teacher)
        return train, None if val is None or val_maps is None else replace(val, teacher=val_maps.teacher)

    def _start(self, full: Bcnn, compact: Bcnn, maps: Examples) -> None:
        step = "compact/factorized"
        if {step, "compact/head"} & set(self._record.done):
            self._load("compact", compact)
            return
        assert maps.teacher is not None, "the full model has run on these maps"
        with self._bar("factorizing the full model's classifier", compact.architecture.head.sweeps) as advance:
            start_from_full(full, compact, advance=advance)
        settle(compact, maps.inputs, maps.teacher)
        for name in ("weights", *(["factorized"] if self._compresses else [])):
            write_weights(self._run, "compact", compact, name)
        self._mark(done=step)

    def _teacher_logits(self, full: Bcnn, maps: Examples) -> NDArray[np.float32]:
        """Logits of the full model for every augmented copy, `(copies·n, classes)`."""
        with self._bar("full model, for distillation", len(maps.inputs)) as advance:
            return run_through(inference(full.head), maps.inputs, advance)

    def _build(self, role: Role, weights: str) -> Bcnn:
        classes = len(self._dataset.labels)
        return build(
            architecture(self._config, classes, role),
            weights=weights,
            frozen_through=frozen(self._config),
            mixed_precision=self._config.mixed_precision,
        )

    def _load(self, role: Role, bcnn: Bcnn) -> Bcnn:
        read_weights(self._run, role, bcnn)
        return bcnn

    def _fit(
        self,
        role: Role,
        stage: str,
        choices: StageConfig,
        bcnn: Bcnn,
        examples: Callable[[], TrainAndVal],
        *,
        pooled: tuple[Any, Any] | None = None,
    ) -> None:
        step = f"{role}/{stage}"
        if step in self._record.done:
            self._load(role, bcnn)
            return
        if not choices.epochs:  # and no reason to compute what it would have read
            write_weights(self._run, role, bcnn)
            self._mark(done=step)
            return
        train, val = examples()
        checkpoint = self._run / role / f"{stage}.checkpoint.npz"
        fitted = Stage(
            step,
            backbone=bcnn.suffix if stage == "finetune" else None,
            head=bcnn.head,
            config=self._config,
            stage=choices,
            counts=np.bincount(class_ids(self._dataset.train), minlength=len(self._dataset.labels)),
            batch_statistics=self._scratch or self._config.batch_statistics,
            pooled=pooled,
        )
        self._history.begin(role, stage)
        try:
            with self._bar(f"{role} model, {stage}", choices.epochs * len(train.classes)) as advance:
                fitted.fit(train, val, checkpoint=checkpoint, advance=advance, on_epoch=self._add_epoch)
        finally:
            write_weights(self._run, role, bcnn)
        self._mark(done=step)
        checkpoint.unlink(missing_ok=True)

    def _add_epoch(self, epoch: EpochReport) -> None:
        """Records an epoch, and reports it with an estimate for the run: all epochs left, each as long as this."""
        self._history.add(epoch)
        stages = {
            f"{role}/{stage}": getattr(self._config, f"{role}_{stage}").epochs
            for role in ("full", "compact")
            for stage in ("head", "finetune")
        }
        step = f"{epoch.role}/{epoch.stage}"
        later = [*stages.values()][[*stages].index(step) + 1 :]
        minutes_left = (stages[step] - epoch.epoch + sum(later)) * epoch.seconds / 60
        validation = "" if math.isnan(epoch.val_accuracy) else f", validation accuracy {100 * epoch.val_accuracy:.1f} %"
        self._reporter.say(
            f"{epoch.role} model, {epoch.stage}: epoch {epoch.epoch} of {stages[step]}, loss {epoch.loss:.3f}"
            f"{validation}; {epoch.seconds:.0f} s per epoch, about {minutes_left:.0f} min left in the run"
        )

    def _measure(self) -> ModelComparison:
        photos = self._dataset.held_out
        kept: list[tuple[str, Role, str]] = [("full", "full", "weights"), ("compact", "compact", "weights")]
        if self._compresses:
            kept.insert(1, ("factorized", "compact", "factorized"))
        # From disk, as whoever opens the run will have them.
        run = TrainedRun(self._run, self._config, self._dataset, self._record.state)
        models = {name: run.load(role, file) for name, role, file in kept}
        probabilities = self._predicted(models, PreparedPhotos(photos, run.preprocessing))
        comparison = compare(class_ids(photos), probabilities, self._dataset.labels)
        document = {"photos": self._dataset.held_out_name, **comparison_json(comparison)}
        document["parameters"] = {name: _parameters(bcnn) for name, bcnn in models.items()}
        write_json(self._run / METRICS_NAME, document)
        return comparison

    def _predicted(self, models: dict[str, Bcnn], images: PreparedPhotos) -> dict[str, NDArray[np.float32]]:
        held_out = f"{self._dataset.held_out_name} photos"
        if self._head_only:
            with self._bar(f"all models on {held_out}", len(images)) as advance:
                return _predict_by_heads(models, images, advance)
        probabilities = {}
        for name, bcnn in models.items():
            with self._bar(f"{name} model on {held_out}", len(images)) as advance:
                probabilities[name] = predictor(bcnn)(images, advance)
        return probabilities

    def _mark(self, **changes: Any) -> None:
        if "done" in changes:
            changes["done"] = (*self._record.done, changes["done"])
        self._record = self._record.model_copy(update=changes)
        write_record(self._run, self._record)

    def _bar(self, description: str, total: int) -> Any:
        return _Stoppable(self._reporter.progress(description, total), self._stop)


@dataclass
class _Stoppable:
    """A progress bar that interrupts the work once `stop` is set, at a point where nothing is half-done."""

    bar: Any
    stop: Event

    def __enter__(self) -> Advance:
        advance = self.bar.__enter__()

        def advance_or_stop(pieces: int) -> None:
            advance(pieces)
            if self.stop.is_set():
                raise Interrupted

        return advance_or_stop

    def __exit__(self, *error: Any) -> Any:
        return self.bar.__exit__(*error)


def predictor(bcnn: Bcnn) -> Callable[[Pictures, Advance], NDArray[np.float32]]:
    """Returns a function that predicts probabilities with a model, compiled once for all calls.

    Args:
        bcnn: The model.

    Returns:
        From `(n, h, w, 3)` uint8 RGB, read in slices, to `(n, classes)` float32; the other argument is called with the
        number of images done.
    """
    compute = inference(bcnn.model)
    return lambda images, advance: _softmax(run_through(compute, images, advance))


def with_embedding(bcnn: Bcnn) -> Callable[[NDArray[np.uint8]], tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Returns a function that predicts probabilities with a model, and the embeddings that it pools.

    Args:
        bcnn: The model.

    Returns:
        From `(n, h, w, 3)` uint8 RGB to probabilities `(n, classes)` and embeddings `(n, channels)`, float32: the mean
        of each channel of the feature maps over their locations. The outer product has a million numbers for these
        thousand, all of them products of the same channels.
    """
    pooled_from, head = inference(backbone_of(bcnn)), inference(bcnn.head)

    def predict(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        maps = pooled_from(pixels)
        return _softmax(head(maps)), maps.mean(axis=(1, 2))

    return predict


def _predict_by_heads(models: dict[str, Bcnn], images: Pictures, advance: Advance) -> dict[str, NDArray[np.float32]]:
    """Probabilities of several models that have the same backbone, which runs once."""
    pooled_from = inference(backbone_of(next(iter(models.values()))))
    heads = [inference(bcnn.head) for bcnn in models.values()]

    def predict(batch: NDArray[Any]) -> NDArray[np.float32]:
        maps = pooled_from(batch)
        return np.stack([_softmax(head(maps)) for head in heads], axis=1)

    predicted = run_through(predict, images, advance)
    return {name: predicted[:, column] for column, name in enumerate(models)}


def _check_choices(config: TrainConfig) -> str | None:
    """Fails here, and not after every photo was opened, where the folder, a layer or the weights cannot be used.

    Returns:
        How the maps of two streams come to one grid, if anything has to be done.
    """
    read_layout(Path(config.data))
    build(architecture(config, 2, "full"), weights=config.weights, frozen_through=frozen(config))
    return build(architecture(config, 2, "compact")).alignment


def _load(config: TrainConfig, reporter: Reporter, stop: Event) -> ProductDataset:
    bar: list[Advance] = []
    with ExitStack() as open_bars:

        def on_photo(done: int, total: int) -> None:
            if not bar:
                bar.append(open_bars.enter_context(reporter.progress("reading photos", total)))
            bar[0](1)
            if stop.is_set():
                raise Interrupted("stopped while reading the photos, before a run was created: run the command again")

        return load_dataset(
            Path(config.data), seed=config.seed, allow_unreadable=config.allow_unreadable, on_photo=on_photo
        )


def _fit_on(config: TrainConfig, dataset: ProductDataset) -> ProductDataset:
    if config.fit_on == "train":
        return dataset
    if not dataset.test:
        raise DataError(
            f"{config.data} has no test photos, and a model fitted on train and val needs some for evaluation: add "
            "them, or leave out --fit-on"
        )
    return replace(dataset, train=dataset.train + dataset.val, val=())


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)


def _parameters(bcnn: Bcnn) -> dict[str, int]:
    return {"model": bcnn.model.count_params(), "head": bcnn.head.count_params()}
