"""Runs `edgebcnn compress`: factorizes and distills a trained full model.

    RUN/full ── factorize its classifier ── distil the head from it ── (fine-tune the backbone) ── compare

Each rank becomes a run of its own, with a copy of the full model and of the list of photos, so that every command that
takes a run takes it. Several ranks become a folder of runs that share one cache, with a table and
a plot.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from edgebcnn.atomic import replacing_file, write_json
from edgebcnn.errors import DataError, Interrupted, RunError, TrainingError
from edgebcnn.images.dataset import Photo, ProductDataset, open_photos
from edgebcnn.images.layouts import natural_order
from edgebcnn.model import heads
from edgebcnn.model.bcnn import build
from edgebcnn.model.head import Tail
from edgebcnn.preprocessing import PHOTO_SUFFIXES
from edgebcnn.progress import Reporter
from edgebcnn.report.agreement import Proportion
from edgebcnn.report.ranks import CompressResult, Judged, RankResult
from edgebcnn.train.claim import check_place, created, point_latest_at
from edgebcnn.train.config import StageConfig, TrainConfig
from edgebcnn.train.head_latency import head_latency_ms
from edgebcnn.train.ranks_figure import ranks_figure
from edgebcnn.train.run_folder import (
    RECORD_NAME,
    RunRecord,
    TrainedRun,
    architecture,
    check_photos,
    open_run,
    read_photos,
    read_record,
    weights_path,
    write_photos,
    write_record,
)
from edgebcnn.train.steps import METRICS_NAME, resume
from edgebcnn.untrusted.files import read_json

RANKS_NAME = "ranks.json"
PLOT_NAME = "ranks.png"

NO_CLASS = -1

TAIL: Tail = "l2"
"""Of a head that was factorized: it changes no order of the logits, and learns as well as the others."""


class CompressChoices(BaseModel):
    """How the compact model is made.

    Attributes:
        pooling: What replaces the outer product.
        tail: What follows it; None takes `l2` where that can follow.
        class_rank: Rank of each product's form in `lrbc`.
        epochs: Of distillation of the head alone, on cached feature maps; 0 leaves the factorization as it is.
        finetune_epochs: Of distillation of head and backbone after that.
        head_rate: Peak learning rate of the head.
        backbone_rate: Peak learning rate of the backbone in fine-tuning.
        patience: Epochs without a smaller divergence from the full model on val that halve the rates; twice as many end
            the stage.
        distil_share: Share of the loss that comes from the full model (distillation); the rest comes from the labels.
        temperature: Softens both models' probabilities in that share.
        pooled_weight: Weight of the feature-similarity distillation loss of the head, on the full model's pooled
            features; None leaves it out.
        dropout: Share of the descriptor dropped while training; none is best where a function is to be matched.
        copies: Augmented copies of every photo.
        batch_size: Photos in a step.
        seed: Of everything random.
        allow_unreadable: Go on with any share of unreadable unlabelled photos.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    pooling: str = "hadamard"
    tail: Tail | None = None
    class_rank: int = Field(default=8, ge=2, multiple_of=2)
    epochs: int = Field(default=8, ge=0)
    finetune_epochs: int = Field(default=0, ge=0)
    head_rate: float = Field(default=3e-4, gt=0)
    backbone_rate: float = Field(default=1e-4, gt=0)
    patience: int = Field(default=3, ge=1)
    distil_share: float = Field(default=1.0, ge=0, le=1)
    temperature: float = Field(default=4.0, gt=0)
    pooled_weight: float | None = Field(default=None, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    copies: int = Field(default=4, ge=1, le=200)
    batch_size: int = Field(default=32, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**32)
    allow_unreadable: bool = False

    @field_validator("pooled_weight")
    @classmethod
    def _a_feature_loss_takes_epochs(cls, weight: float | None, info: ValidationInfo) -> float | None:
        if weight and not info.data.get("epochs"):
            raise ValueError("the feature-similarity loss needs epochs of the head: give --distil-epochs 1 or more")
        return weight

    def config(self, source: TrainConfig, rank: int | None) -> TrainConfig:
        """The choices of a run at one rank: what belongs to the full model stays.

        Raises:
            TrainingError: the pooling takes no such rank or tail.
        """
        try:
            head = heads.find_compact(self.pooling)
            tail = self.tail or (TAIL if TAIL in head.tails else head.tails[0])
            head.check(rank, tail)
        except ValueError as error:
            raise TrainingError(str(error)) from error
        stage = StageConfig(
            epochs=self.epochs, head_rate=self.head_rate, backbone_rate=self.backbone_rate, patience=self.patience
        )
        own = (
            *("pooling", "class_rank", "distil_share", "temperature", "pooled_weight"),
            *("dropout", "copies", "batch_size", "seed"),
        )
        changes = {name: getattr(self, name) for name in own} | {"rank": rank, "tail": tail}
        finetune = stage.model_copy(update={"epochs": self.finetune_epochs})
        return source.model_copy(update={**changes, "compact_head": stage, "compact_finetune": finetune})


def compress(
    source: Path,
    path: Path | None = None,
    *,
    ranks: Sequence[int] | None,
    choices: CompressChoices,
    unlabelled: Path | None = None,
    reporter: Reporter,
    stop: Event,
) -> CompressResult:
    """Replaces the outer product of a trained full model by a low-rank form, at one rank or several.

    Calling it again with the same arguments resumes what was interrupted and keeps what is finished.

    Args:
        source: Run with the full model; nothing in it is changed.
        path: The new run, or folder of runs; by default next to `source`, named after it, the
            pooling and the rank.
        ranks: Sizes of the pooling; by default its own.
        choices: All others.
        unlabelled: Folder of photos without labels, for distillation on the predictions of the full model.
        reporter: Receives progress and messages.
        stop: Set to end after the batch in flight.

    Raises:
        RunError: `source` has no full model, or another run is in the way.
        DataError: photos are gone, or the unlabelled ones cannot be used.
        TrainingError: a rank is too large, or training cannot go on.
        StorageError: the disk is full, or cannot be written.
        Interrupted: `stop` was set.
    """
    run = _origin(source)
    check_photos(run.path, run.dataset)
    chosen: Sequence[int | None] = ranks or [heads.find(choices.pooling).rank]
    sizes = tuple(dict.fromkeys(chosen))
    path = (path or _place_beside(run, choices.pooling, sizes)).absolute()
    targets = [path] if len(sizes) == 1 else [path / str(size) for size in sizes]
    configs = [choices.config(run.config, size) for size in sizes]
    _check_sizes(run, configs)
    if len(sizes) > 1 and (path / RECORD_NAME).exists():
        raise RunError(f"{path} is a run and cannot hold several: choose another --name")
    dataset = _with_unlabelled(run, unlabelled, choices, reporter, stop)
    for target, config in zip(targets, configs, strict=True):
        _prepare(target, run, config, dataset)
    if len(sizes) == 1:
        point_latest_at(path)
    for target in targets:
        _finish(target, cache=path / "cache", reporter=reporter, stop=stop)
    result = _compared(path, run, dict(zip(sizes, targets, strict=True)), reporter)
    if len(sizes) > 1:
        write_json(path / RANKS_NAME, result.as_json())
        with replacing_file(path / PLOT_NAME) as part:
            ranks_figure(result).savefig(part, dpi=120, format="png")
    shutil.rmtree(path / "cache", ignore_errors=True)
    return result


def _origin(source: Path) -> TrainedRun:
    """The run that trained the full model, also by a run that was compressed from it, as `latest` is from then on."""
    run = open_run(source)
    origin = read_record(source).compressed_from
    return open_run(Path(origin)) if origin is not None and Path(origin).is_dir() else run


def _place_beside(run: TrainedRun, pooling: str, sizes: Sequence[int | None]) -> Path:
    parts = [run.name, pooling, *(str(size) for size in sizes if len(sizes) == 1 and size is not None)]
    return run.path.parent / "-".join(parts)


def _check_sizes(run: TrainedRun, configs: Sequence[TrainConfig]) -> None:
    """Fails here, and not after the smaller ranks were distilled, where a rank is too large."""
    classes = len(run.dataset.labels)
    largest = run.load("full").head.count_params()
    for config in configs:
        parameters = build(architecture(config, classes, "compact")).head.count_params()
        if parameters >= largest:
            raise TrainingError(
                f"a rank of {config.rank} is too large: its {config.pooling} head would have {parameters:,} "
                f"parameters, and that of the full model has {largest:,}: choose a smaller one"
            )


def _with_unlabelled(
    run: TrainedRun, folder: Path | None, choices: CompressChoices, reporter: Reporter, stop: Event
) -> ProductDataset:
    if folder is None:
        return run.dataset
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give --unlabelled the folder that holds the photos")
    judged_on = {photo.path.resolve() for photo in (*run.dataset.val, *run.dataset.test)}
    found = [file for file in sorted(folder.rglob("*"), key=natural_order) if file.suffix.lower() in PHOTO_SUFFIXES]
    photos = [Photo(file.absolute(), NO_CLASS) for file in found if file.resolve() not in judged_on]
    if not photos:
        raise DataError(f"{folder} holds no photo to learn from: give --unlabelled a folder of other photos")
    if len(photos) < len(found):
        reporter.say(f"left out {len(found) - len(photos)} photos of {folder} that the run is evaluated on")
    with reporter.progress("reading unlabelled photos", len(photos)) as advance:

        def on_photo(done: int, total: int) -> None:
            advance(1)
            if stop.is_set():
                raise Interrupted("stopped while reading the photos, before a run was created: run the command again")

        digests, skipped = open_photos(folder, photos, allow_unreadable=choices.allow_unreadable, on_photo=on_photo)
    for error in skipped:
        reporter.say(f"skipped {error}")
    return replace(run.dataset, unlabelled=tuple(photo for photo in photos if photo.path in digests))


def _prepare(target: Path, run: TrainedRun, config: TrainConfig, dataset: ProductDataset) -> None:
    """Creates a run whose full model is already trained; an existing one with the same options is kept."""
    record = RunRecord(
        config=config,
        labels=dataset.labels,
        compressed_from=str(run.path),
        done=("full/head", "full/finetune"),
    )
    if (target / RECORD_NAME).is_file():
        there = read_record(target)
        same = (there.config, there.compressed_from) == (config, str(run.path))
        if not same or read_photos(target, there).unlabelled != dataset.unlabelled:
            raise RunError(f"{target} exists with other options: choose another --name, or remove it")
        return
    check_place(target)
    with created(target) as folder:
        write_photos(folder, dataset)
        copy = weights_path(folder, "full")
        copy.parent.mkdir()
        shutil.copyfile(weights_path(run.path, "full"), copy)
        write_record(folder, record)


def _finish(target: Path, *, cache: Path, reporter: Reporter, stop: Event) -> None:
    if read_record(target).state == "finished":
        return
    reporter.say(f"making {target}")
    resume(
        target,
        reporter=reporter,
        stop=stop,
        cache=cache,
        again="run the same command again to resume",
    )


def _compared(path: Path, run: TrainedRun, targets: dict[int | None, Path], reporter: Reporter) -> CompressResult:
    """Reads what each run measured, and measures the latency of every head now, so that all were met alike."""
    full = run.load("full")
    image = np.zeros((1, run.config.input_px, run.config.input_px, 3), np.float32)
    maps = full.suffix(image if full.prefix is None else full.prefix(image)).numpy()
    ranks, metrics = [], {}
    with reporter.progress("timing the heads", len(targets) + 1) as advance:
        full_ms = head_latency_ms(full.head, maps)
        advance(1)
        for rank, target in targets.items():
            metrics = _read_metrics(target)
            latency_ms = head_latency_ms(open_run(target).load("compact").head, maps)
            factorized, distilled = (_judged(metrics, name, latency_ms) for name in ("factorized", "compact"))
            ranks.append(RankResult(target, rank, factorized, distilled))
            advance(1)
    return CompressResult(path, run.dataset.held_out_name, _judged(metrics, "full", full_ms), tuple(ranks))


def _read_metrics(target: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = read_json(target / METRICS_NAME)
    except (OSError, ValueError) as error:
        raise RunError(f"{target / METRICS_NAME} is missing or was changed by hand: remove {target}") from error
    return document


def _judged(metrics: dict[str, Any], name: str, latency_ms: float) -> Judged:
    accuracy = next(model["accuracy"] for model in metrics["models"] if model["name"] == name)
    agreement = next(
        (_proportion(p["agreement"]) for p in metrics["pairs"] if (p["first"], p["second"]) == (name, "full")), None
    )
    return Judged(_proportion(accuracy), agreement, metrics["parameters"][name]["head"], latency_ms)


def _proportion(document: dict[str, Any]) -> Proportion:
    return Proportion(document["successes"], document["n"])
