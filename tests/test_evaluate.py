"""`edgebcnn evaluate`: runs and bundles alike, on the run's photos or a folder's, with names and refusals."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import classification_report

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.evaluation.contact_sheet import draw_contact_sheet
from edgebcnn.evaluation.evaluate import averages, evaluate
from edgebcnn.evaluation.labelled import of_folder
from edgebcnn.evaluation.models import open_model
from edgebcnn.progress import Silent
from edgebcnn.report.evaluation import Averages, WrongAnswer, score_predictions
from edgebcnn.report.render import evaluation_tables
from tests.blocks import draw_blocks
from tests.tiny_bundle import LABELS, make_tiny_bundle, write_photos
from tests.typing_in import typed


def judged(folder: Path, *arguments: object) -> dict[str, Any]:
    result = typed(folder, "evaluate", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return document


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle outside any run, which tells colours apart without fail, and photos of them."""
    folder = tmp_path_factory.mktemp("colours")
    make_tiny_bundle(folder / "bundle")
    write_photos(folder / "photos")
    return folder


@pytest.fixture
def mislabelled(colours: Path, tmp_path: Path) -> Path:
    """Three photos of each colour, of which the second red one lies among the blue."""
    shutil.copytree(colours / "photos", tmp_path / "mislabelled")
    (tmp_path / "mislabelled/Red/1.png").rename(tmp_path / "mislabelled/Blue/not really.png")
    return tmp_path / "mislabelled"


def test_the_newest_run_is_judged_on_what_it_held_out(shop: Path) -> None:
    said = judged(shop)
    metrics = json.loads((shop / "runs/latest/metrics.json").read_text())
    assert said["model"] == "runs/latest (compact)"
    assert said["photos"].startswith("test photos of run ")
    assert said["top1"] == metrics["models"][1]["accuracy"]
    assert judged(shop, "--role", "full")["top1"] == metrics["models"][0]["accuracy"]


@pytest.mark.parametrize("precision", ["int8", "fp16", "float32"])
def test_a_bundle_in_a_run_is_judged_on_the_same_photos_as_by_export(shop: Path, precision: str) -> None:
    report = json.loads((shop / "runs/latest/bundle/report/report.json").read_text())
    said = judged(shop, "runs/latest/bundle", "--precision", precision)
    assert said["model"] == f"runs/latest/bundle ({precision})"
    assert said["top1"] == report["models"][precision]["models"][2]["accuracy"]


def test_a_run_and_its_float_bundle_say_the_same(shop: Path) -> None:
    said = judged(shop, "runs/latest/bundle", "--precision", "float32", "--against", "runs/latest")
    (pair,) = said["against"]["pairs"]
    assert (pair["first"], pair["second"]) == ("runs/latest/bundle (float32)", "runs/latest (compact)")
    assert pair["agreement"]["value"] == 1
    assert pair["mcnemar"] == {"only_first": 0, "only_second": 0, "p_value": 1.0}


def test_a_run_and_its_int8_bundle_agree_within_quantization(shop: Path) -> None:
    photos = open_model(shop / "runs/latest").run.dataset.test  # type: ignore[union-attr]
    bundle = shop / "runs/latest/bundle"
    models = (
        open_model(shop / "runs/latest"),
        *(open_model(bundle, precision=precision) for precision in ("float32", "int8")),
    )
    compact, exported, edge = (model.probabilities(photos, lambda pieces: None) for model in models)
    # Of 36 photos, those that int8 names otherwise are near a tie; a wrong preprocessing would change a third.
    assert (compact.argmax(axis=1) == edge.argmax(axis=1)).mean() > 0.9
    assert np.abs(exported - edge).mean() < 0.05  # both with calibrated scores, as the run's own are not


def test_two_models_are_compared_by_mcnemar_on_the_terminal(shop: Path) -> None:
    shown = typed(shop, "evaluate", "--role", "full", "--against", "runs/latest").stdout
    assert "accuracy (McNemar)" in shown
    assert "points, p = " in shown


def test_a_long_name_is_shown_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"Ecological-Medium-Fat-Milk-With-No-Lactose-{end}" for end in "½¼"]
    found = score_predictions(np.array([[0.2, 0.8]]), np.array([0]), [Label(name=name) for name in names])
    average = Averages(0.0, 0.0, 0.0)
    for table in evaluation_tables(found, title="", macro=average, weighted=average):
        Console(width=80).print(table)
    shown = capsys.readouterr().out
    assert (shown.count("½"), shown.count("¼")) == (2, 2)


def test_averages_are_scikit_learns_over_the_products_that_are_shown(rng: np.random.Generator) -> None:
    truth, predicted = rng.integers(0, 4, 50), rng.integers(0, 5, 50)
    macro, weighted = averages(predicted, truth, kind="macro"), averages(predicted, truth, kind="weighted")
    expected = classification_report(truth, predicted, labels=[0, 1, 2, 3], output_dict=True, zero_division=0)
    assert [macro.precision, macro.recall, macro.f1] == [
        pytest.approx(expected["macro avg"][of]) for of in ("precision", "recall", "f1-score")
    ]
    assert weighted.f1 == pytest.approx(expected["weighted avg"]["f1-score"])
    assert weighted.recall == pytest.approx((predicted == truth).mean())


def test_averages_are_those_that_one_counts_by_hand() -> None:
    # Product 0: shown 3 times, named twice, both right. Product 1: shown once, named twice. Product 2 is not shown.
    predicted, truth = np.array([0, 0, 1, 1]), np.array([0, 0, 0, 1])
    macro, weighted = averages(predicted, truth, kind="macro"), averages(predicted, truth, kind="weighted")
    assert macro.precision == pytest.approx((1 + 1 / 2) / 2)
    assert macro.recall == pytest.approx((2 / 3 + 1) / 2)
    assert weighted.precision == pytest.approx((3 * 1 + 1 / 2) / 4)


def test_a_folder_of_photos_without_splits_is_taken_whole(colours: Path) -> None:
    said = judged(colours, "bundle", "--data", "photos")
    assert said["photos"] == "photos of photos"
    assert said["top1"]["successes"] == said["n"] == 12
    assert said["wrong"] == said["confused_pairs"] == []


def test_one_photo_of_one_product_is_enough_and_its_class_id_is_the_models(colours: Path, tmp_path: Path) -> None:
    (tmp_path / "few/Green").mkdir(parents=True)
    shutil.copy(colours / "photos/Green/0.png", tmp_path / "few/Green")
    said = judged(colours, "bundle", "--data", tmp_path / "few")
    assert said["top1"]["successes"] == said["n"] == 1
    assert said["products_without_photos"] == ["Red", "Blue", "Grey"]


def test_the_list_of_wrong_photos_has_the_right_names(colours: Path, mislabelled: Path, tmp_path: Path) -> None:
    said = judged(colours, "bundle", "--data", mislabelled, "--output", tmp_path / "out")
    with (tmp_path / "out/wrong.csv").open(newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert (row["photo"], row["true"], row["predicted"]) == (str(mislabelled / "Blue/not really.png"), "Blue", "Red")
    assert float(row["score"]) > 0.5 > float(row["true_score"])
    assert said["confused_pairs"] == [
        {"first": "Blue", "second": "Red", "first_as_second": 1, "second_as_first": 0, "count": 1}
    ]
    blue = next(product for product in said["products"] if product["name"] == "Blue")
    assert (blue["accuracy"]["successes"], blue["accuracy"]["n"], blue["taken_for"]) == (
        3,
        4,
        {"name": "Red", "count": 1},
    )
    assert json.loads((tmp_path / "out/report.json").read_text()) == said


def test_names_are_right_where_folder_and_model_order_products_differently(colours: Path, mislabelled: Path) -> None:
    (mislabelled / "labels.csv").write_text("name\nGrey\nBlue\nGreen\nRed\n")
    (wrong,) = judged(colours, "bundle", "--data", mislabelled)["wrong"]
    assert (wrong["true"], wrong["predicted"]) == ("Blue", "Red")


def test_the_contact_sheet_shows_the_photo(colours: Path, mislabelled: Path, tmp_path: Path) -> None:
    shown = typed(colours, "evaluate", "bundle", "--data", mislabelled, "--output", tmp_path / "out").stdout
    assert f"worst:  {tmp_path / 'out' / 'wrong.png'}" in shown
    sheet = cv2.imread(str(tmp_path / "out/wrong.png"))
    assert sheet is not None
    blue, green, red = (sheet[..., channel].astype(int) for channel in range(3))
    assert ((red > 150) & (green < 90) & (blue < 90)).mean() > 0.1


def test_a_long_name_with_dollar_signs_takes_no_room_from_the_photos(tmp_path: Path) -> None:
    pictures = [np.full((20, 20, 3), (0, 0, 255), np.uint8)] * 7
    shares = []
    for name in ("Cola", "Cola $1 or $2 \\frac" + 40 * "x"):
        answers = [WrongAnswer(0, name, name, 0.9, 0.1)] * 7
        draw_contact_sheet(tmp_path / "sheet.png", pictures, answers, title=name)
        sheet = cv2.imread(str(tmp_path / "sheet.png"))
        assert sheet is not None
        shares.append((sheet == (255, 0, 0)).all(axis=2).mean())
    assert shares[0] == shares[1] > 0.3


def test_a_second_evaluation_replaces_the_first_and_leaves_none_of_it(
    colours: Path, mislabelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    judged(colours, "bundle", "--data", mislabelled, "--output", out)
    judged(colours, "bundle", "--data", "photos", "--output", out)
    assert sorted(path.name for path in out.iterdir()) == ["report.json", "wrong.csv"]
    assert (out / "wrong.csv").read_text() == "photo,true,predicted,score,true_score\n"


def test_a_folder_that_holds_something_else_is_not_written_to(shop: Path) -> None:
    result = typed(shop, "evaluate", "--output", "runs/latest/bundle/report")
    assert result.exit_code == 9
    assert "report exists and is not an evaluation: choose another --output or remove it" in result.stderr


def test_an_unreadable_photo_is_named_and_skipped_only_if_allowed(colours: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(colours / "photos", photos)
    (photos / "Red/broken.jpg").write_bytes(b"not a photo")
    refused = typed(colours, "evaluate", "bundle", "--data", photos)
    assert refused.exit_code == 3
    assert "1 of 13 photos cannot be read, more than 1 %" in refused.stderr
    allowed = typed(colours, "evaluate", "bundle", "--data", photos, "--allow-unreadable", "--json")
    assert json.loads(allowed.stdout)["n"] == 12
    assert f"skipped {photos}/Red/broken.jpg" in allowed.stderr.replace("\n", "")


def test_photos_that_the_run_learned_from_are_told(shop: Path) -> None:
    result = typed(shop, "evaluate", "--split", "train", "--json")
    assert json.loads(result.stdout)["n"] == 72
    assert "was fitted on or chosen by 72 of these 72 photos: its figures flatter" in result.stderr
    assert "flatter" not in typed(shop, "evaluate").stderr


def test_a_folder_with_splits_is_judged_on_its_test_photos_or_the_split_asked_for(shop: Path, tmp_path: Path) -> None:
    data = draw_blocks(tmp_path / "data", per_product={"train": 1, "val": 2, "test": 3})
    assert judged(shop, "--data", data)["n"] == 9
    assert judged(shop, "--data", data, "--split", "val")["n"] == 6


def test_products_that_the_model_does_not_know_are_listed_with_the_closest(colours: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(colours / "photos", photos)
    (photos / "Green").rename(photos / "Greene")
    (photos / "Red").rename(photos / "Xyz")
    result = typed(colours, "evaluate", "bundle", "--data", photos)
    assert result.exit_code == 3
    assert "2 of 4 products that the model does not know: Greene (closest: Green), Xyz; rename" in result.stderr


def test_a_model_that_lacks_the_products_is_not_compared(shop: Path, colours: Path) -> None:
    # Both know red, green and blue; grey is the bundle's alone, and the run has never heard of it.
    result = typed(shop, "evaluate", colours / "bundle", "--data", colours / "photos", "--against", "runs/latest")
    assert result.exit_code == 3
    assert "1 of 4 products that runs/latest (compact) does not know: Grey" in result.stderr


def test_models_that_order_products_differently_are_compared_by_name(shop: Path, colours: Path, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(colours / "photos", photos)
    shutil.rmtree(photos / "Grey")
    said = judged(shop, "runs/latest", "--data", photos, "--against", colours / "bundle")["against"]
    other, own = said["models"]
    assert (other["accuracy"]["successes"], said["n"]) == (9, 9)
    assert own["accuracy"] == judged(shop, "runs/latest", "--data", photos)["top1"]


def test_a_bundle_outside_its_run_needs_photos(colours: Path) -> None:
    result = typed(colours, "evaluate", "bundle")
    assert result.exit_code == 3
    assert "bundle (int8) does not lie in the run that it was made from: name photos with --data" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["nowhere"], 4, "nowhere is neither a run nor a bundle: give a folder that"),
        (["bundle", "--role", "full"], 5, "bundle is a bundle: choose among its models by precision, not by role"),
        (["bundle", "--precision", "fp16"], 5, "has no fp16 model"),
        (["bundle", "--data", "nowhere"], 3, "nowhere is not a folder"),
        (["bundle", "--data", "empty"], 3, "empty holds no products"),
        (["bundle", "--data", "no photos"], 3, "no photos holds no photo that can be used"),
        (["bundle", "--data", "photos", "--split", "test"], 3, "has no splits"),
        (["bundle", "--data", "photos", "--against", "bundle"], 4, "bundle (int8) would be compared with itself"),
        (["bundle", "--against-role", "full"], 2, "select a model of --against"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], exit_code: int, says: str, colours: Path) -> None:
    (colours / "empty").mkdir(exist_ok=True)
    (colours / "no photos/Red").mkdir(parents=True, exist_ok=True)
    result = typed(colours, "evaluate", *arguments)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert says in result.stderr


def test_a_run_is_not_asked_for_a_precision(shop: Path) -> None:
    result = typed(shop, "evaluate", "--precision", "int8")
    assert result.exit_code == 4
    assert "runs/latest is a run: choose between its models by role, or give its bundle for int8" in result.stderr


def test_data_with_train_alone_is_not_taken_for_held_out(tmp_path: Path) -> None:
    data = draw_blocks(tmp_path / "data", per_product={"train": 1})
    with pytest.raises(DataError, match=r"no test or val photos: .*--split train"):
        of_folder(data, LABELS, reporter=Silent())
    assert len(of_folder(data, LABELS, split="train", reporter=Silent()).photos) == 3


def test_a_run_without_held_out_photos_says_so(shop: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(shop / "runs/latest", run)
    kept = [line for line in (run / "photos.csv").read_text().splitlines() if not line.startswith("test")]
    (run / "photos.csv").write_text("\n".join(kept) + "\n")
    with pytest.raises(DataError, match="run has no test photos: choose another --split, or give photos with --data"):
        evaluate(open_model(run), split="test", reporter=Silent())
    assert evaluate(open_model(run), reporter=Silent()).source == "val photos of run run"


def test_without_scikit_learn_the_line_that_installs_it_is_named(tmp_path: Path) -> None:
    script = "import sys; sys.modules['sklearn'] = None; from edgebcnn.cli import main; main(['evaluate'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 10
    assert "edgebcnn evaluate needs packages that are not installed: pip install 'edgebcnn[train]'" in done.stderr
