"""A calibration says what it saw and what became of it, and a bad one shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.progress import Silent
from edgebcnn.quantize.calibrate_run import Int8Calibration, calibrate_int8
from edgebcnn.quantize.calibration.photos import CalibrationSet, choose, choose_captured
from edgebcnn.quantize.calibration.recipe import Recipe
from edgebcnn.quantize.stability import MAX_PHOTOS, MAX_PROBES, MIN_PROBES, split_others
from edgebcnn.report.agreement import Proportion
from edgebcnn.report.calibration import Stability, calibration_tables
from tests.tiny import PREPROCESSING, photos, tanh_model

RECIPE = Recipe(name="tiny", description="", photos=16, seed=0)
LABELS = tuple(Label(name=name) for name in ("apple", "pear"))


def _write(folder: Path, pixels: NDArray[np.uint8]) -> tuple[Photo, ...]:
    folder.mkdir(parents=True)
    found = tuple(Photo(folder / f"{number}.png", number % 2) for number in range(len(pixels)))
    for photo, image in zip(found, pixels, strict=True):
        cv2.imwrite(str(photo.path), image)
    return found


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> ProductDataset:
    folder = tmp_path_factory.mktemp("shop")
    train, val = _write(folder / "train", photos(80)), _write(folder / "val", photos(4, seed=8))
    return ProductDataset(folder, LABELS, train, val, (), skipped=(), notes=())


@pytest.fixture(scope="module")
def good(dataset: ProductDataset) -> Int8Calibration:
    return _calibrated(choose(dataset, RECIPE, preprocessing=PREPROCESSING))


def _calibrated(chosen: CalibrationSet) -> Int8Calibration:
    return calibrate_int8(tanh_model(), chosen, preprocessing=PREPROCESSING, reporter=Silent())


def _captured(folder: Path, pixels: NDArray[np.uint8], dataset: ProductDataset) -> CalibrationSet:
    _write(folder, pixels)
    return choose_captured(folder, dataset, RECIPE, preprocessing=PREPROCESSING)


def test_other_photos_of_the_same_products_give_the_same_answers(good: Int8Calibration) -> None:
    assert good.stability is not None
    assert (good.stability.photos, good.stability.agreement.n) == (16, 48)
    assert good.stability.is_stable
    assert str(good.stability).startswith("an int8 model calibrated on 16 other photos predicts the same on 9")


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((8, 16, 16, 3), 20, np.uint8),
        np.random.default_rng(0).integers(118, 138, (8, 16, 16, 3), np.uint8),
    ],
    ids=["dark frames", "faint noise"],
)
def test_a_bad_calibration_is_caught(dataset: ProductDataset, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    stability = _calibrated(_captured(tmp_path / "frames", pixels, dataset)).stability
    assert stability is not None
    assert not stability.is_stable
    assert str(stability).endswith("do not represent the training data")


def test_frames_that_a_device_captured_calibrate_without_labels(dataset: ProductDataset, tmp_path: Path) -> None:
    made = _calibrated(_captured(tmp_path / "shelf" / "monday", photos(12, seed=3), dataset))
    assert (made.chosen.source, made.chosen.record().source, len(made.chosen.sha256)) == ("captured", "captured", 12)
    assert made.chosen.notes == ("recipe tiny asks for 16 photos and there are 12: all of them are used",)
    assert set(made.report(LABELS).photos) == {("(captured)", band) for band in ("dark", "middling", "bright")}
    assert made.stability is not None
    assert made.stability.is_stable


def test_a_captured_photo_that_is_held_out_is_refused(dataset: ProductDataset, tmp_path: Path) -> None:
    frames = _write(tmp_path / "frames", photos(5, seed=3))
    frames[2].path.write_bytes(dataset.val[0].path.read_bytes())
    with pytest.raises(
        DataError, match=rf"2\.png is the held-out photo {dataset.val[0].path}, byte for byte, .*remove"
    ):
        choose_captured(tmp_path / "frames", dataset, RECIPE, preprocessing=PREPROCESSING)


@pytest.mark.parametrize(("name", "sentence"), [("gone", "is not a folder: give --cal"), (".", "holds no photo: give")])
def test_a_folder_without_photos_is_refused(dataset: ProductDataset, tmp_path: Path, name: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        choose_captured(tmp_path / name, dataset, RECIPE, preprocessing=PREPROCESSING)


def test_what_the_second_calibration_and_the_comparison_use_is_used_nowhere_else(good: Int8Calibration) -> None:
    second, probes = split_others(good.chosen.others, 16)
    assert len({*good.chosen.photos, *second, *probes}) == 16 + 16 + 48


@pytest.mark.parametrize(
    ("others", "used", "parts"),
    [
        (2 * MIN_PROBES - 1, 16, (0, 0)),
        (2 * MIN_PROBES, 320, (MIN_PROBES, MIN_PROBES)),
        (10_000, 3, (3, MAX_PROBES)),
        (10_000, 320, (MAX_PHOTOS, MAX_PROBES)),
    ],
)
def test_other_photos_are_shared_out_between_calibration_and_comparison(
    others: int, used: int, parts: tuple[int, int]
) -> None:
    second, probes = split_others([Photo(Path(str(number)), 0) for number in range(others)], used)
    assert (len(second), len(probes)) == parts


def test_an_interval_that_lies_below_or_a_distance_is_unstable() -> None:
    assert Stability(Proportion(46, 48), 0.01, 16).is_stable, "46 of 48 may well be 97 %"
    assert not Stability(Proportion(241, 256), 0.01, 16).is_stable
    assert not Stability(Proportion(48, 48), 0.11, 16).is_stable


def test_the_tables_and_the_json_say_what_was_seen(good: Int8Calibration) -> None:
    report = good.report(LABELS)
    products, ranges = calibration_tables(report)
    assert products.row_count == 2
    assert ranges.row_count == len(report.tensors) == len({tensor.name for tensor in report.tensors})
    document = report.as_json()
    assert sum(row["photos"] for row in document["photos"]) == 16
    assert {row["product"] for row in document["photos"]} == {"apple", "pear"}
    assert document["stability"]["agreement"]["n"] == 48
    tensor = document["tensors"][3]
    assert tensor["lowest"] <= tensor["p0_1"] <= tensor["p99_9"] <= tensor["highest"]
    assert 20 < tensor["sqnr_db"] < 60
    assert document["groups"] == {}, "nothing tells stores apart"
    by_store = replace(report, groups=("north",) * 12 + ("south",) * 4)
    _, groups, _ = calibration_tables(by_store)
    assert groups.row_count == 2
    assert by_store.as_json()["groups"] == {"north": 12, "south": 4}
