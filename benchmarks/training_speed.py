"""Measures how much faster training on cached features of frozen layers is than a plain Keras `model.fit`.

    python benchmarks/training_speed.py [--data DIR]

Fits the compact model twice in each of its stages: as `edgebcnn train` does, from the cache, and by `model.fit` of the
same network on the same photos. The latter reads them through a `tf.data` pipeline that decodes and varies each one
anew (the very same `Augmentation`), with AdamW, label smoothing and a clipped gradient as ours; layers that ours has
cached are not trainable, and the backbone normalises by its stored statistics in both.

Both are warmed up, then measured in turn, an epoch at a time, so that whatever else the machine does meets both. A
ratio is taken within a repeat. Figures are medians with the lowest and the highest in brackets.

The cache is not free: it takes `--copies` views of every photo through the frozen layers before the first epoch. With
t the time for a photo, E epochs and C copies, the ratio with that included is E·t_plain / (C·t_cache + E·t_cached), and
the cache has paid for itself after C·t_cache / (t_plain - t_cached) epochs. The head stage is charged with both caches
that it needs, the features at the end of the frozen layers and the maps at the end of the backbone; fine-tuning with
the features alone; both stages together with one of each. Defaults are those of `edgebcnn train`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from edgebcnn.atomic import json_bytes
from edgebcnn.cli.console import TerminalReporter, stdout
from edgebcnn.cli.train import command as train_command
from edgebcnn.demo.products import PRODUCTS
from edgebcnn.demo.scene import photograph, random_pose, random_scene
from edgebcnn.errors import EdgebcnnError, TrainingError
from edgebcnn.images.layouts import Photo, read_layout
from edgebcnn.model.backbones import backbone
from edgebcnn.model.bcnn import Bcnn, build
from edgebcnn.model.keras import keras, tf
from edgebcnn.progress import Reporter
from edgebcnn.train.config import StageConfig, TrainConfig
from edgebcnn.train.features import AugmentedPhotos, Pictures, cached
from edgebcnn.train.fit import EpochReport, Examples, Stage
from edgebcnn.train.inference import inference
from edgebcnn.train.material import class_ids
from edgebcnn.train.run_folder import architecture

DRAWN_PX, DRAWN_PER_PRODUCT = 640, 2
EPOCHS = {"head": 10, "finetune": 1}
"""Of ours in a repeat: one of a head on cached maps is over in a blink."""

TRAIN: dict[str, Any] = {option.name: option.default for option in train_command.params if option.name}

Measure = Callable[[], float]
"""Works for a while and returns how many photos it did in a second."""


@dataclass(frozen=True)
class Rates:
    """Photos per second of one way, repeat by repeat."""

    values: NDArray[np.float64]

    def __truediv__(self, other: Rates) -> Rates:
        """How much faster, repeat by repeat."""
        return Rates(self.values / other.values)

    @property
    def seconds(self) -> float:
        """Median time for a photo."""
        return float(1 / np.median(self.values))

    def as_json(self) -> dict[str, float]:
        """Median, lowest and highest."""
        return {
            name: round(float(of(self.values)), 3)
            for name, of in (("median", np.median), ("lowest", np.min), ("highest", np.max))
        }

    def __str__(self) -> str:
        return "{median:.1f} ({lowest:.1f}-{highest:.1f})".format(**self.as_json())


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder of photos; drawn ones if left out.")
@click.option("--streams", default=TRAIN["streams"], help="As in edgebcnn train; one for both.")
@click.option("--weights", default="none", help="As in edgebcnn train; with none, layers are frozen all the same.")
@click.option("--frozen-through", default="auto", help="Last frozen layer; auto takes the backbone's own.")
@click.option("--train-px", default=TRAIN["train_px"], help="Side of the pictures.")
@click.option("--batch-size", default=TRAIN["batch_size"], help="Photos in a step.")
@click.option("--steps", default=4, type=click.IntRange(1), help="Steps in an epoch.")
@click.option("--repeats", default=5, type=click.IntRange(1), help="Of every measurement.")
@click.option("--copies", default=TRAIN["copies"], help="Copies that the cache is charged for.")
@click.option("--head-epochs", default=5, type=click.IntRange(1), help="That pay for it.")
@click.option("--epochs", default=TRAIN["epochs"], type=click.IntRange(1), help="Of fine-tuning, that pay for it.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(data: Path | None, steps: int, repeats: int, as_json: bool, frozen_through: str, **flags: Any) -> None:
    """Measures training from the cache against a plain Keras fit."""
    epochs = {"head": flags.pop("head_epochs"), "finetune": flags.pop("epochs")}
    reporter = TerminalReporter()
    with tempfile.TemporaryDirectory() as temporary:
        try:
            config = TrainConfig(data=str(data or draw(Path(temporary) / "photos", reporter)), **flags)
            rates = measured(config, frozen_through, Path(temporary), steps, repeats, reporter)
        except EdgebcnnError as error:
            raise click.ClickException(str(error)) from error
    document = summary(rates, config.copies, epochs)
    if as_json:
        choices = {**flags, "frozen_through": frozen_through, "steps": steps, "repeats": repeats}
        click.echo(json_bytes({"config": choices, **document}).decode(), nl=False)
        return
    title = (
        f"{config.streams}, {config.train_px} px: photos per second, {repeats} × {steps} steps of {config.batch_size}"
    )
    stdout.print(table(rates, document, title), cache_lines(rates, document), sep="\n")


def draw(folder: Path, reporter: Reporter) -> Path:
    """Draws photos of the demo's products, of the size that a phone or a data set has."""
    with reporter.progress("drawing photos", len(PRODUCTS) * DRAWN_PER_PRODUCT) as advance:
        for product in PRODUCTS:
            (folder / product.name).mkdir(parents=True)
            for number in range(DRAWN_PER_PRODUCT):
                rng = np.random.default_rng((int(product.gtin), number))
                scene = random_scene(product, rng, frame_px=DRAWN_PX)
                photo = photograph(scene, random_pose(product, rng), size_px=(DRAWN_PX, DRAWN_PX), rng=rng)
                cv2.imwrite(str(folder / product.name / f"{number}.jpg"), photo)
                advance(1)
    return folder


def measured(
    config: TrainConfig, frozen_through: str, folder: Path, steps: int, repeats: int, reporter: Reporter
) -> dict[str, Rates]:
    """Rates of both caches and of both ways in both stages, by name."""
    listing = read_layout(Path(config.data))
    photos = chosen(listing.splits["train"], steps * config.batch_size)
    classes = max(2, len(listing.labels))
    with reporter.progress("building and warming up", 6) as advance:
        ways = contestants(config, photos, classes, frozen_through, folder, repeats)
        for measure in ways.values():
            measure()
            advance(1)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with reporter.progress("measuring", repeats * len(ways)) as advance:
        for repeat in range(repeats):
            for name in ways if repeat % 2 else reversed(ways):  # neither is always the one that comes first
                rates[name].append(ways[name]())
                advance(1)
    return {name: Rates(np.array(values)) for name, values in rates.items()}


def chosen(photos: Any, wanted: int) -> tuple[Photo, ...]:
    """So many of the photos at random; all of them again and again where they are fewer."""
    order = np.random.default_rng(0).permutation(len(photos))
    return tuple(photos[index] for index in np.resize(order, wanted))


def contestants(
    config: TrainConfig, photos: tuple[Photo, ...], classes: int, frozen_through: str, folder: Path, repeats: int
) -> dict[str, Measure]:
    """Everything that is measured; every network is a copy of its own."""
    last_frozen = backbone(config.streams).frozen_through if frozen_through == "auto" else frozen_through
    if last_frozen is None:
        raise TrainingError(f"{config.streams} freezes no layers of its own: say --frozen-through LAYER")

    def compact() -> Bcnn:
        return build(architecture(config, classes, "compact"), weights=config.weights, frozen_through=last_frozen)

    def views(copies: int) -> AugmentedPhotos:
        return AugmentedPhotos(photos, config.preprocessing(config.train_px), config.augmentation, copies, config.seed)

    ours = compact()
    prefix, suffix = inference(ours.prefix), inference(ours.suffix)
    features = cached(folder / "features.bin", views(1), prefix, made_from={}, advance=_nobody)
    maps = cached(folder / "maps.bin", features, suffix, made_from={}, advance=_nobody)
    examples = {"head": Examples(maps, class_ids(photos)), "finetune": Examples(features, class_ids(photos))}
    ways = {
        "features": caching(folder / "again.bin", views(1), prefix),
        "maps": caching(folder / "again.bin", features, suffix),
    }
    for stage, train in examples.items():
        ways[f"{stage}, cached"] = from_cache(stage, ours, train, config, folder / "checkpoint.npz")
        ways[f"{stage}, plain"] = plain(stage, compact(), views(repeats + 1), config)
    return ways


def caching(path: Path, source: Pictures, compute: Callable[[NDArray[Any]], NDArray[Any]]) -> Measure:
    """Making a cache."""

    def measure() -> float:
        path.with_suffix(".json").unlink(missing_ok=True)
        started_s = time.monotonic()
        cached(path, source, compute, made_from={}, advance=_nobody)
        return len(source) / (time.monotonic() - started_s)

    return measure


def from_cache(stage: str, bcnn: Bcnn, train: Examples, config: TrainConfig, checkpoint: Path) -> Measure:
    """A stage as `edgebcnn train` fits it, without a teacher, which Keras has not got."""
    of_train: StageConfig = getattr(config, f"compact_{stage}")
    fitted = Stage(
        f"compact/{stage}",
        backbone=bcnn.suffix if stage == "finetune" else None,
        head=bcnn.head,
        config=config,
        stage=of_train.model_copy(update={"epochs": EPOCHS[stage]}),
        counts=np.bincount(train.classes, minlength=bcnn.architecture.classes),
        batch_statistics=False,
    )

    def measure() -> float:
        epochs: list[EpochReport] = []
        fitted.fit(train, None, checkpoint=checkpoint, advance=_nobody, on_epoch=epochs.append)
        checkpoint.unlink()
        return len(epochs) * len(train.classes) / sum(epoch.seconds for epoch in epochs)

    return measure


def plain(stage: str, bcnn: Bcnn, views: AugmentedPhotos, config: TrainConfig) -> Measure:
    """A stage as Keras fits it; `views` has a copy of every photo for each epoch."""
    model = plain_model(stage, bcnn, config)
    epochs = count()

    def measure() -> float:
        timer = EpochTimer()
        model.fit(pipeline(views, next(epochs), bcnn.architecture.classes, config), verbose=0, callbacks=[timer])
        return len(views.photos) / timer.seconds

    return measure


def plain_model(stage: str, bcnn: Bcnn, config: TrainConfig) -> Any:
    """Pixels to logits, with what a stage does not train set to be not trainable."""
    of_train: StageConfig = getattr(config, f"compact_{stage}")
    assert bcnn.prefix is not None, "something is frozen"
    bcnn.prefix.trainable, bcnn.suffix.trainable = False, stage == "finetune"
    image = keras.Input((config.train_px, config.train_px, 3), dtype="uint8")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = bcnn.suffix(bcnn.prefix(x, training=False), training=False)
    model = keras.Model(image, bcnn.head(x))
    model.compile(
        keras.optimizers.AdamW(
            of_train.backbone_rate or of_train.head_rate,
            weight_decay=config.weight_decay,
            global_clipnorm=config.clip_norm,
        ),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=config.label_smoothing),
        metrics=["accuracy"],
    )
    return model


def pipeline(views: AugmentedPhotos, epoch: int, classes: int, config: TrainConfig) -> Any:
    """One epoch of pictures and labels, decoded and varied while the network computes."""
    photos, side_px = len(views.photos), config.train_px
    truth = tf.constant(class_ids(views.photos))

    def picture(row: Any) -> NDArray[np.uint8]:
        return np.asarray(views[int(row) : int(row) + 1][0])

    def example(row: Any) -> tuple[Any, Any]:
        view = tf.numpy_function(picture, [row], tf.uint8)
        return tf.ensure_shape(view, (side_px, side_px, 3)), tf.one_hot(truth[row % photos], classes)

    rows = tf.data.Dataset.range(epoch * photos, (epoch + 1) * photos).shuffle(photos, seed=config.seed)
    return rows.map(example, tf.data.AUTOTUNE).batch(config.batch_size).prefetch(tf.data.AUTOTUNE)


class EpochTimer(keras.callbacks.Callback):  # type: ignore[misc]
    """How long the last epoch of a fit took, without what surrounds it, as our own history has it."""

    seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        self._started_s = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Stops it."""
        self.seconds = time.monotonic() - self._started_s


def summary(rates: dict[str, Rates], copies: int, epochs: dict[str, int]) -> dict[str, Any]:
    """Rates, ratios, and what becomes of them when the cache is charged for."""
    features_s, maps_s = rates["features"].seconds, rates["maps"].seconds
    cache_s = {"head": copies * (features_s + maps_s), "finetune": copies * features_s}
    stages, spent = [], {"cached": cache_s["head"], "plain": 0.0}
    for stage, of_stage in epochs.items():
        ways = {way: rates[f"{stage}, {way}"] for way in spent}
        fit_s = {way: of_stage * rate.seconds for way, rate in ways.items()}
        spent = {way: spent[way] + fit_s[way] for way in spent}
        saved_s = ways["plain"].seconds - ways["cached"].seconds
        with_cache = {
            "epochs": of_stage,
            "ratio": round(fit_s["plain"] / (cache_s[stage] + fit_s["cached"]), 3),
            "paid_after_epochs": round(cache_s[stage] / saved_s, 1) if saved_s > 0 else None,
        }
        ratio = ways["cached"] / ways["plain"]
        per_second = {way: rate.as_json() for way, rate in ways.items()}
        stages.append({"stage": stage, "photos_per_s": per_second, "ratio": ratio.as_json(), "with_cache": with_cache})
    return {
        "copies": copies,
        "cache_photos_per_s": {name: rates[name].as_json() for name in ("features", "maps")},
        "stages": stages,
        "both_stages_with_cache": round(spent["plain"] / spent["cached"], 3),
    }


def table(rates: dict[str, Rates], document: dict[str, Any], title: str) -> Table:
    """A column a stage; what the cache costs is in its last rows."""
    stages = document["stages"]
    shown = Table(title=title)
    shown.add_column("")
    for row in stages:
        shown.add_column(row["stage"], justify="right")
    for way in ("cached", "plain"):
        shown.add_row(f"{way}, photos/s", *(str(rates[f"{row['stage']}, {way}"]) for row in stages))
    shown.add_row("ratio", *(str(rates[f"{row['stage']}, cached"] / rates[f"{row['stage']}, plain"]) for row in stages))
    shown.add_section()
    shown.add_row("epochs", *(str(row["with_cache"]["epochs"]) for row in stages))
    charged = f"ratio with making {document['copies']} copies"
    shown.add_row(charged, *(f"{row['with_cache']['ratio']:.2f}" for row in stages))
    shown.add_row(
        "epochs that pay for them", *(str(row["with_cache"]["paid_after_epochs"] or "never") for row in stages)
    )
    return shown


def cache_lines(rates: dict[str, Rates], document: dict[str, Any]) -> str:
    """How fast the cache is made, and what both stages come to with it."""
    return (
        f"making the cache, photos/s: features {rates['features']}, maps from those {rates['maps']}\n"
        f"both stages with one cache: {document['both_stages_with_cache']:.2f} times as fast as plain"
    )


def _nobody(_pieces: int) -> None:
    """Nobody watches the pieces of one measurement."""


if __name__ == "__main__":
    main()
