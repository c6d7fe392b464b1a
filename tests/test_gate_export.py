"""A calibration that ruins int8 is refused by an export: the real converter, the real classifier, nothing staged.

Eight pastels differ by 14 grey levels of a channel, so that int8 has steps to spare only where its ranges fit. Ranges
from noise, from one pastel or from black-and-white outliers do not: min-max takes each at its word.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from edgebcnn.bundle import REPORT_NAME, Label, open_bundle
from edgebcnn.cli import main
from edgebcnn.errors import BundleError, GateError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.progress import Silent
from edgebcnn.quantize.calibration.recipe import Recipe
from edgebcnn.quantize.choices import ExportChoices
from edgebcnn.quantize.export import ExportResult, export
from edgebcnn.train.run_folder import TrainedRun, write_photos
from tests.solved import solved_run

PASTELS_BGR = list(product((121, 135), repeat=3))
RECIPE = Recipe(name="all", description="", photos=80, seed=0, range_method="minmax")
SIZE = (40, 48, 3)


def _written(folder: Path, pictures: Sequence[NDArray[Any]], class_ids: list[int]) -> tuple[Photo, ...]:
    folder.mkdir(parents=True)
    photos = tuple(Photo(folder / f"{i}.png", class_id) for i, class_id in enumerate(class_ids))
    for photo, picture in zip(photos, pictures, strict=True):
        cv2.imwrite(str(photo.path), np.clip(picture, 0, 255).astype(np.uint8))
    return photos


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    folder, rng = tmp_path_factory.mktemp("pastels"), np.random.default_rng(5)
    class_ids = [class_id for class_id in range(len(PASTELS_BGR)) for _ in range(8)]
    train, test = (
        _written(
            folder / split, [rng.normal(PASTELS_BGR[i] + rng.normal(0, 1, 3), 3, SIZE) for i in class_ids], class_ids
        )
        for split in ("train", "test")
    )
    labels = tuple(Label(name=f"pastel {i}") for i in range(len(PASTELS_BGR)))
    dataset = ProductDataset(folder, labels, train, (), test, skipped=(), notes=())
    # The noise that spoils calibration below is as strong as this resize leaves it.
    return solved_run(folder / "runs" / "pastels", dataset, rank=32, tail="l2", interpolation="area")


@pytest.fixture(scope="module")
def bad(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TrainedRun]:
    """The same models with training photos that no calibration should be made of."""
    folder, rng = tmp_path_factory.mktemp("bad"), np.random.default_rng(6)
    noise = [rng.integers(0, 256, SIZE) for _ in range(32)]
    checks = [(np.indices(SIZE)[:2].sum(axis=0) // side % 2) * 255 for side in (1, 2, 4)]
    outliers = [np.zeros(SIZE), np.full(SIZE, 255), *checks]
    train = run.dataset.train
    return {
        name: replace(run, dataset=replace(run.dataset, train=photos))
        for name, photos in {
            "noise": _written(folder / "noise", noise, [i % 8 for i in range(32)]),
            "one product": tuple(photo for photo in train if photo.class_id == 4),
            "five outliers": (*train, *_written(folder / "outliers", outliers, [0, 1, 2, 3, 4])),
        }.items()
    }


def _export(run: TrainedRun, output: Path, *, accept_drop: bool = False, captured: Path | None = None) -> ExportResult:
    choices = ExportChoices(["int8"], RECIPE, captured=captured, accept_drop=accept_drop)
    return export(run, output, choices=choices, reporter=Silent())


@pytest.fixture(scope="module")
def exported(run: TrainedRun, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return _export(run, tmp_path_factory.mktemp("device") / "bundle")


@pytest.fixture
def bundle(exported: ExportResult, tmp_path: Path) -> Path:
    """A copy of the good bundle."""
    return Path(shutil.copytree(exported.bundle.path, tmp_path / "bundle"))


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_good_calibration_passes_and_its_verdict_is_in_the_report(exported: ExportResult) -> None:
    assert exported.models["int8"].verdict.outcome == "passed"
    report = json.loads((exported.bundle.path / REPORT_NAME).read_bytes())
    limits = {"max_drop": 0.5, "max_product_drop": 10, "max_new_confusion": 5}
    assert report["gate"] == {"outcome": "passed", "accepted": False, "limits": limits}
    assert report["models"]["int8"]["gate"]["drop"]["n"] == 64


@pytest.mark.parametrize("kind", ["noise", "one product", "five outliers"])
def test_a_bad_calibration_is_refused_and_the_old_bundle_survives(
    bad: dict[str, TrainedRun], bundle: Path, kind: str
) -> None:
    before = _bytes(bundle)
    with pytest.raises(GateError, match=r"^no bundle was written, .* on the test photos: int8: top-1 drop .*--accept-"):
        _export(bad[kind], bundle)
    assert _bytes(bundle) == before
    refused = bundle.with_name("bundle.refused")
    assert sorted(bundle.parent.iterdir()) == [bundle, refused]
    assert set(_bytes(refused)) == {"index.html", "report.json", "layers.int8.png"}
    report = json.loads((refused / "report.json").read_bytes())
    drop = report["models"]["int8"]["gate"]["drop"]
    right = {model["name"]: model["accuracy"]["successes"] for model in report["models"]["int8"]["models"]}
    assert (report["gate"]["outcome"], report["gate"]["accepted"]) == ("refused", False)
    assert drop["lost"] - drop["gained"] == right["compact"] - right["edge"] >= 4


@pytest.fixture(scope="module")
def frames(run: TrainedRun, bad: dict[str, TrainedRun], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders that a device may have captured: the same bad photos, and good ones."""
    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(7)
    good = [rng.normal(PASTELS_BGR[i % 8], 3, SIZE) for i in range(32)]
    _written(folder / "good", good, [0] * 32)
    for kind, of_kind in bad.items():
        (folder / kind).mkdir()
        photos = [photo for photo in of_kind.dataset.train if photo not in run.dataset.train or kind == "one product"]
        for photo in photos:
            shutil.copy(photo.path, folder / kind)
    for frame in (folder / "good").iterdir():
        shutil.copy(frame, folder / "five outliers" / f"good-{frame.name}")
    return {kind: folder / kind for kind in ("good", *bad)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "is_stable", "outcome"),
    [
        ("good", True, "passed"),
        ("noise", False, "refused"),
        ("one product", False, "refused"),
        ("five outliers", False, "refused"),
    ],
)
def test_bad_frames_are_caught_twice_by_the_stability_check_and_by_the_gate(
    run: TrainedRun, frames: dict[str, Path], tmp_path: Path, kind: str, is_stable: bool, outcome: str
) -> None:
    result = _export(run, tmp_path / "bundle", accept_drop=True, captured=frames[kind])
    assert result.calibration is not None
    assert result.calibration.stability is not None
    assert (result.calibration.stability.is_stable, result.models["int8"].verdict.outcome) == (is_stable, outcome)


def test_a_refused_export_can_be_accepted_and_the_bundle_says_so(bad: dict[str, TrainedRun], bundle: Path) -> None:
    with pytest.raises(GateError):
        _export(bad["noise"], bundle)
    result = _export(bad["noise"], bundle, accept_drop=True)
    report = json.loads((open_bundle(bundle).path / REPORT_NAME).read_bytes())
    assert (report["gate"]["outcome"], report["gate"]["accepted"]) == ("refused", True)
    assert result.models["int8"].verdict.outcome == "refused"
    assert list(bundle.parent.iterdir()) == [bundle], "the report of the refusal is out of date"


def test_something_else_where_the_report_goes_is_not_removed(run: TrainedRun, tmp_path: Path) -> None:
    folder = tmp_path / "bundle.refused"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"bundle\.refused .* holds something else"):
        _export(run, tmp_path / "bundle")
    assert [file.name for file in folder.iterdir()] == ["thesis.txt"]


PLAIN = """\
name = "plain"
description = "What noise does worst to: its own extremes, and biases as they are."
photos = 320
seed = 0
range_method = "minmax"
bias_correction = false
"""


def _typed(run: TrainedRun, output: Path, *flags: str) -> Result:
    recipe = run.path / "plain.toml"
    recipe.write_text(PLAIN)
    flags = ("--recipe", str(recipe), *flags)
    return CliRunner().invoke(main, ["export", str(run.path), "--output", str(output), *flags])


@pytest.fixture(scope="module")
def noisy(bad: dict[str, TrainedRun], tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run folder with noise for training photos."""
    run = bad["noise"]
    path = Path(shutil.copytree(run.path, tmp_path_factory.mktemp("runs") / "noisy"))
    write_photos(path, run.dataset)
    return replace(run, path=path)


def test_the_command_says_what_was_lost_and_has_an_exit_code_of_its_own(noisy: TrainedRun, bundle: Path) -> None:
    result = _typed(noisy, bundle)
    assert (result.exit_code, result.stdout) == (13, "")
    losses = ("top-1 drop ", ", n=64), limit 0.5", "photos lost by pastel", " of 8", "newly taken: pastel")
    advice = (
        f"(report: {bundle}.refused/report.json)",
        "(--recipe)",
        "raise --max-drop, --max-product-drop, --max-new-confusion, or",
        "--accept-drop",
    )
    for words in (*losses, *advice):
        assert words in result.stderr


def test_a_bundle_can_go_to_the_folder_that_one_is_in(
    noisy: TrainedRun, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle)
    result = _typed(noisy, Path("."))
    assert result.exit_code == 13, result.stderr
    assert bundle.with_name("bundle.refused").joinpath("report.json").is_file()


def test_a_refusal_is_json_as_well(noisy: TrainedRun, bundle: Path) -> None:
    result = _typed(noisy, bundle, "--json")
    assert result.exit_code == 13
    assert json.loads(result.stdout)["gate"]["outcome"] == "refused"
    assert result.stdout_bytes == bundle.with_name("bundle.refused").joinpath("report.json").read_bytes()


def test_higher_limits_let_it_pass_and_are_recorded(noisy: TrainedRun, bundle: Path) -> None:
    flags = ("--max-drop", "90", "--max-product-drop", "100", "--max-new-confusion", "100")
    result = _typed(noisy, bundle, *flags)
    assert result.exit_code == 0, result.stderr
    assert "Export accepted: top-1 drop " in result.stdout
    report = json.loads((bundle / REPORT_NAME).read_bytes())
    assert report["gate"]["limits"] == {"max_drop": 90, "max_product_drop": 100, "max_new_confusion": 100}


def test_the_command_accepts_a_drop_out_loud(noisy: TrainedRun, bundle: Path) -> None:
    result = _typed(noisy, bundle, "--accept-drop")
    assert result.exit_code == 0, result.stderr
    assert "Accuracy loss above the limit: top-1 drop " in result.stdout
    assert "--accept-drop" in result.stdout


@pytest.mark.parametrize("limit", ["-1", "101", "nan"])
def test_a_limit_that_is_no_percentage_is_a_wrong_command_line(run: TrainedRun, tmp_path: Path, limit: str) -> None:
    result = _typed(run, tmp_path / "bundle", "--max-drop", limit)
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert f"{limit} is not a number of percentage points: give 0 to 100" in result.stderr
