"""Fitting one stage: it learns, keeps the best weights, goes on from its checkpoint, and stops at a NaN."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgebcnn.errors import RunError, TrainingError
from edgebcnn.model.bcnn import Architecture, Bcnn, build, with_descriptor
from edgebcnn.model.keras import keras
from edgebcnn.train.config import Optimizer, StageConfig, TrainConfig
from edgebcnn.train.fit import EpochReport, Examples, Stage, epoch_order
from edgebcnn.train.objective import similarity_loss

CONFIG = TrainConfig(data="unused", streams="small", weights="none", dropout=0.0, batch_size=8, averaging=0.0)
CLASSES = 3


def network() -> Bcnn:
    keras.utils.set_random_seed(1)
    return build(Architecture(streams="small", pooling="hadamard", rank=8, tail="tanh", classes=CLASSES, dropout=0.0))


def feature_maps(count: int, *, copies: int = 1, seed: int = 0) -> Examples:
    """Maps `(copies·count, 2, 2, 128)` of which the first channels tell the class."""
    rng = np.random.default_rng(seed)
    classes = np.arange(count) % CLASSES
    maps = rng.standard_normal((copies * count, 2, 2, 128)).astype(np.float16) * 0.3
    for row, class_id in enumerate(np.tile(classes, copies)):
        maps[row, ..., class_id * 8 : class_id * 8 + 8] += 1.5
    return Examples(maps, classes)


class Fitting:
    """A head stage on feature maps, and what it reports."""

    def __init__(
        self,
        folder: Path,
        *,
        epochs: int,
        head_rate: float = 0.01,
        patience: int = 3,
        optimizer: Optimizer = "adamw",
        **choices: Any,
    ) -> None:
        self.bcnn = network()
        self.reports: list[EpochReport] = []
        self.photos = 0
        self.checkpoint = folder / "head.checkpoint.npz"
        stage = StageConfig(epochs=epochs, head_rate=head_rate, patience=patience, optimizer=optimizer)
        self._stage = Stage(
            "compact/head",
            backbone=None,
            head=self.bcnn.head,
            config=CONFIG.model_copy(update=choices),
            stage=stage,
            counts=np.full(CLASSES, 16),
            batch_statistics=False,
        )

    def fit(self, train: Examples, validation: Examples | None, *, advance: Any = None, on_epoch: Any = None) -> None:
        self._stage.fit(
            train,
            validation,
            checkpoint=self.checkpoint,
            advance=advance or self._count,
            on_epoch=on_epoch or self.reports.append,
        )

    def _count(self, photos: int) -> None:
        self.photos += photos

    def right(self, examples: Examples) -> float:
        logits = self.bcnn.head(examples.inputs.astype(np.float32))
        return float(np.mean(np.argmax(logits, axis=1) == examples.classes))


def test_a_stage_learns_what_can_be_learned_and_reports_every_epoch_and_photo(tmp_path: Path) -> None:
    fitting = Fitting(tmp_path, epochs=6)
    fitting.fit(feature_maps(48), feature_maps(24, seed=1))
    assert fitting.right(feature_maps(30, seed=2)) == 1.0
    assert [report.epoch for report in fitting.reports] == [1, 2, 3, 4, 5, 6]
    assert fitting.photos == 6 * 48


def test_a_second_lesson_brings_the_likeness_of_photos_closer_to_the_teachers(tmp_path: Path) -> None:
    keras.utils.set_random_seed(6)
    teacher = with_descriptor(build(Architecture(streams="small", pooling="outer", tail="sqrt", classes=CLASSES)))
    train = feature_maps(48)
    apart = []
    for weight in (None, 10.0):
        bcnn = network()
        own = with_descriptor(bcnn)
        Stage(
            "compact/head",
            backbone=None,
            head=bcnn.head,
            config=CONFIG.model_copy(update={"pooled_weight": weight}),
            stage=StageConfig(epochs=30, head_rate=0.01),
            counts=np.full(CLASSES, 16),
            batch_statistics=False,
            pooled=(own, teacher) if weight else None,
        ).fit(train, None, checkpoint=tmp_path / f"{weight}.npz", advance=lambda n: None, on_epoch=lambda row: None)
        maps = feature_maps(30, seed=2).inputs.astype(np.float32)
        apart.append(float(similarity_loss(own(maps)[1], teacher(maps)[1])))
    assert apart[1] < 0.5 * apart[0]


def test_a_stage_that_is_cut_off_goes_on_from_its_last_epoch(tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    photos = 0

    def advance(count: int) -> None:
        nonlocal photos
        photos += count
        if photos > 3.5 * 48:
            raise Killed

    first = Fitting(tmp_path, epochs=6)
    with pytest.raises(Killed):
        first.fit(feature_maps(48), feature_maps(24, seed=1), advance=advance)
    assert len(first.reports) == 3
    again = Fitting(tmp_path, epochs=6)
    again.fit(feature_maps(48), feature_maps(24, seed=1))
    assert again.reports[:3] == first.reports
    assert [report.epoch for report in again.reports] == [1, 2, 3, 4, 5, 6]


RECIPES: dict[str, dict[str, Any]] = {
    "plain": {},
    "averaged": {"averaging": 0.9},
    "swa": {"averaging": 1.0, "averaging_from": 0.5, "schedule": "plateau"},
    "mixed": {"mixup": 0.4, "cutmix": 1.0},
    "sgd": {"optimizer": "sgd", "head_rate": 0.3},
    "adam": {"optimizer": "adam"},
    "plateau": {"schedule": "plateau"},
    "balanced": {"balance": 1.0},
    "xla": {"xla": True},
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_learns_what_can_be_learned(tmp_path: Path, recipe: str) -> None:
    fitting = Fitting(tmp_path, epochs=6, **RECIPES[recipe])
    fitting.fit(feature_maps(48), feature_maps(24, seed=1))
    assert fitting.right(feature_maps(30, seed=2)) >= 0.95  # chance is a third


def test_the_article_that_started_it_all_fits_a_head_by_sgd_at_a_rate_of_one(tmp_path: Path) -> None:
    fitting = Fitting(tmp_path, epochs=6, optimizer="sgd", head_rate=1.0, momentum=0.0, schedule="plateau", warmup=0.0)
    fitting.fit(feature_maps(48), feature_maps(24, seed=1))
    assert fitting.right(feature_maps(30, seed=2)) >= 0.95


def test_what_is_kept_is_the_moving_average_of_the_weights(tmp_path: Path) -> None:
    one_batch, epochs = feature_maps(8), 4  # one step an epoch: the weights after each are seen
    plain = Fitting(tmp_path, epochs=epochs)
    average = plain.bcnn.head.get_weights()
    steps = iter(range(epochs))

    def step(report: EpochReport) -> None:
        decay = min(0.5, (1 + (done := next(steps))) / (10 + done))
        for i, weight in enumerate(plain.bcnn.head.get_weights()):
            average[i] = decay * average[i] + (1 - decay) * weight

    plain.fit(one_batch, None, on_epoch=step)
    plain.checkpoint.unlink()
    averaged = Fitting(tmp_path, epochs=epochs, averaging=0.5)
    averaged.fit(one_batch, None)
    for expected, found in zip(average, averaged.bcnn.head.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_what_is_kept_is_the_mean_of_the_weights_of_the_second_half(tmp_path: Path) -> None:
    one_batch, epochs = feature_maps(8), 6
    plain = Fitting(tmp_path, epochs=epochs)
    seen: list[Any] = []
    plain.fit(one_batch, None, on_epoch=lambda report: seen.append(plain.bcnn.head.get_weights()))
    plain.checkpoint.unlink()
    averaged = Fitting(tmp_path, epochs=epochs, averaging=1.0, averaging_from=0.5)
    averaged.fit(one_batch, None)
    for *of_last_three, found in zip(*seen[3:], averaged.bcnn.head.get_weights(), strict=True):
        np.testing.assert_allclose(found, np.mean(of_last_three, axis=0), rtol=1e-4, atol=1e-6)


def test_without_validation_all_epochs_run_and_the_last_weights_are_kept(tmp_path: Path) -> None:
    fitting = Fitting(tmp_path, epochs=5, patience=1)
    seen: list[Any] = []
    fitting.fit(feature_maps(48), None, on_epoch=lambda report: seen.append(fitting.bcnn.head.get_weights()))
    assert len(seen) == 5
    for last, kept in zip(seen[-1], fitting.bcnn.head.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, last)


def test_a_plateau_schedule_keeps_its_rate_until_validation_stalls(tmp_path: Path) -> None:
    plateau = Fitting(tmp_path, epochs=8, patience=2, head_rate=0.05, schedule="plateau")
    noise = replace(feature_maps(24, seed=1), classes=np.random.default_rng(0).integers(CLASSES, size=24))
    plateau.fit(feature_maps(48), noise)
    rates = [report.head_rate for report in plateau.reports]
    assert rates[0] == pytest.approx(0.05)
    halvings = np.log2(0.05 / np.array(rates))
    np.testing.assert_allclose(halvings, np.round(halvings), atol=1e-4)
    assert rates[-1] < rates[0]


@pytest.mark.parametrize("recipe", ["plain", "averaged", "mixed", "sgd"])
def test_a_resumed_stage_reaches_the_weights_of_one_that_was_never_cut_off(tmp_path: Path, recipe: str) -> None:
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    choices = RECIPES[recipe]
    whole = Fitting(tmp_path / "whole", epochs=4, **choices)
    train, validation = feature_maps(48), feature_maps(24, seed=1)
    whole.fit(train, validation)

    def cut(report: EpochReport) -> None:
        if report.epoch == 2:
            raise KeyboardInterrupt

    first = Fitting(tmp_path / "cut", epochs=4, **choices)
    with pytest.raises(KeyboardInterrupt):
        first.fit(train, validation, on_epoch=cut)
    again = Fitting(tmp_path / "cut", epochs=4, **choices)
    again.fit(train, validation)
    for expected, found in zip(whole.bcnn.head.get_weights(), again.bcnn.head.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("damage", ["emptied", "overwritten", "cut off", "bit flipped", "of another network"])
def test_a_damaged_checkpoint_is_named_with_the_way_on_and_changes_no_weights(tmp_path: Path, damage: str) -> None:
    train, validation = feature_maps(48), feature_maps(24, seed=1)
    fitting = Fitting(tmp_path, epochs=2)
    fitting.fit(train, validation)
    _damage(fitting.checkpoint, damage)
    again = Fitting(tmp_path, epochs=2)
    before = again.bcnn.head.get_weights()
    with pytest.raises(
        RunError, match=r"head\.checkpoint\.npz cannot be read or does not fit: remove it, and --resume"
    ):
        again.fit(train, validation)
    for expected, found in zip(before, again.bcnn.head.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def _damage(checkpoint: Path, damage: str) -> None:
    content = bytearray(checkpoint.read_bytes())
    if damage == "of another network":
        with np.load(checkpoint) as saved:
            arrays = {
                name: value[:-1] if name.startswith("slot_") and value.ndim else value for name, value in saved.items()
            }
        np.savez(checkpoint, **arrays)
        return
    if damage == "bit flipped":
        content[len(content) // 2] ^= 1
    ends = {"emptied": 0, "cut off": len(content) // 2}
    checkpoint.write_bytes(b"no archive" if damage == "overwritten" else content[: ends.get(damage)])


def test_the_best_weights_are_kept_when_later_epochs_are_worse(tmp_path: Path) -> None:
    train, validation = feature_maps(48), feature_maps(24, seed=1)
    misled = Examples(train.inputs, (train.classes + 1) % CLASSES)
    fitting = Fitting(tmp_path, epochs=12, patience=1)
    before = fitting.bcnn.head.get_weights()
    fitting.fit(misled, validation)
    assert len(fitting.reports) == 2  # twice the patience without a better validation loss ends the stage
    for expected, found in zip(before, fitting.bcnn.head.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_a_loss_that_is_not_a_number_stops_at_its_batch_with_good_weights(tmp_path: Path) -> None:
    train = feature_maps(48)
    train.inputs[5] = np.nan
    fitting = Fitting(tmp_path, epochs=3)
    with pytest.raises(TrainingError, match=r"compact/head is not a number at epoch 1, batch \d"):
        fitting.fit(train, feature_maps(24, seed=1))
    assert all(np.isfinite(weights).all() for weights in fitting.bcnn.head.get_weights())


@pytest.mark.parametrize("judged", [True, False])
def test_weights_that_are_no_numbers_are_never_the_best(tmp_path: Path, judged: bool) -> None:
    fitting = Fitting(tmp_path, epochs=2)

    def spoil(photos: int) -> None:  # after the loss of the epoch's last batch was seen
        fitting.photos += photos
        if fitting.photos == 2 * 48:
            for variable in fitting.bcnn.head.trainable_variables:
                variable.assign(np.nan * variable)

    with pytest.raises(TrainingError, match="a weight of compact/head is not a number after epoch 2"):
        fitting.fit(feature_maps(48), feature_maps(24, seed=1) if judged else None, advance=spoil)
    assert all(np.isfinite(weights).all() for weights in fitting.bcnn.head.get_weights())


def test_a_teacher_moves_the_student_towards_its_own_probabilities(tmp_path: Path) -> None:
    train, validation = feature_maps(48), feature_maps(24, seed=1)
    # A teacher that takes class 0 for class 1, always: the labels alone would never say so.
    logits = np.where(np.arange(CLASSES) == np.array([1, 1, 2])[train.classes][:, np.newaxis], 8.0, 0.0)
    fitting = Fitting(tmp_path, epochs=8, patience=8)
    alone = Fitting(tmp_path / "alone", epochs=8, patience=8)
    fitting.fit(Examples(train.inputs, train.classes, logits.astype(np.float32)), validation)
    alone.fit(train, validation)
    of_class_0 = feature_maps(30, seed=2).inputs[::3].astype(np.float32)

    def share_of_class_1(fitted: Fitting) -> float:
        return float(np.mean(keras.activations.softmax(fitted.bcnn.head(of_class_0))[:, 1]))

    assert share_of_class_1(fitting) > share_of_class_1(alone) + 0.1


def test_every_epoch_takes_every_photo_once_and_its_copies_in_turn() -> None:
    train = feature_maps(20, copies=3)
    seen: list[set[int]] = [set() for _ in range(20)]
    for epoch in range(3):
        order = epoch_order(train, CONFIG, "compact/head", epoch)
        rows, photos = (np.concatenate(column) for column in zip(*order, strict=True))
        assert sorted(photos) == list(range(20))
        np.testing.assert_array_equal(rows % 20, photos)
        for row, photo in zip(rows, photos, strict=True):
            seen[photo].add(int(row) // 20)
    assert all(copies == {0, 1, 2} for copies in seen)


def test_a_photo_without_a_label_is_learned_from_by_its_teacher_alone(tmp_path: Path) -> None:
    train, validation = feature_maps(48), feature_maps(24, seed=1)
    logits = 8.0 * np.eye(CLASSES, dtype=np.float32)[train.classes]
    unlabelled = Examples(train.inputs, np.full(48, -1), logits)
    fitting = Fitting(tmp_path, epochs=6)
    fitting.fit(unlabelled, validation)
    assert fitting.right(validation) > 0.9
    assert fitting.reports[0].accuracy == 0.0  # of no photo with a label


def test_where_validation_has_a_teacher_coming_closer_to_it_is_what_counts(tmp_path: Path) -> None:
    train, validation = feature_maps(48), feature_maps(24, seed=1)
    of_others = 4.0 * np.eye(CLASSES, dtype=np.float32)[(np.arange(48) + 1) % CLASSES]
    fitting = Fitting(tmp_path, epochs=6)
    taught = Examples(validation.inputs, validation.classes, of_others[:24])
    fitting.fit(Examples(train.inputs, np.full(48, -1), of_others), taught)
    assert fitting.reports[-1].val_loss < 0.5 * fitting.reports[0].val_loss
    assert fitting.right(validation) < 0.2  # by its labels, the weights before the first epoch were better


@pytest.mark.parametrize("batch_statistics", [True, False])
def test_batch_statistics_replace_the_stored_ones_within_a_short_stage_and_stored_ones_stay(
    batch_statistics: bool, tmp_path: Path
) -> None:
    bcnn = network()
    first = bcnn.suffix.get_layer("small_1_BN")
    first.momentum = 0.999  # as published backbones have it
    pictures = Examples(np.random.default_rng(3).integers(100, 256, (24, 32, 32, 3), np.uint8), np.arange(24) % CLASSES)
    to_first = keras.Model(bcnn.suffix.input, first.input)
    seen = np.mean(to_first(pictures.inputs / np.float32(127.5) - 1), axis=(0, 1, 2))
    before = np.array(first.moving_mean)
    Stage(
        "full/finetune",
        backbone=bcnn.suffix,
        head=bcnn.head,
        config=CONFIG,
        stage=StageConfig(epochs=10, head_rate=1e-9, backbone_rate=1e-9),
        counts=np.full(CLASSES, 8),
        batch_statistics=batch_statistics,
    ).fit(pictures, None, checkpoint=tmp_path / "checkpoint.npz", advance=lambda rows: None, on_epoch=lambda row: None)
    left = np.linalg.norm(first.moving_mean - seen) / np.linalg.norm(before - seen)
    assert left == pytest.approx(0.98**30 if batch_statistics else 1.0, abs=0.01)  # 30 batches
