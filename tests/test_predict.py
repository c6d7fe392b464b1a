"""`edgebcnn predict` names the products on photos, however they are given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edgebcnn import preprocessing
from edgebcnn.atomic import json_bytes
from edgebcnn.cli import main
from edgebcnn.errors import BundleError, DataError
from tests.tiny_bundle import COLOURS_BGR, make_tiny_bundle, write_photos


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, two photos of each product, and one that is cut short."""
    folder = tmp_path_factory.mktemp("shelf")
    make_tiny_bundle(folder / "bundle", ["int8"])
    write_photos(folder / "photos", per_label=2)
    whole = (folder / "photos" / "Red" / "0.png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


def predict(shelf: Path, *arguments: object, stdin: bytes = b"") -> Result:
    given = ["predict", "--bundle", shelf / "bundle", *arguments]
    return CliRunner().invoke(main, [str(argument) for argument in given], input=stdin)


def predicted(result: Result) -> list[tuple[str, str]]:
    assert result.exit_code == 0, result.stderr
    return [(Path(each["photo"]).name, each["label"]) for each in json.loads(result.stdout)["photos"]]


def test_a_photo_gets_a_row_with_its_product_score_and_runners_up(shelf: Path) -> None:
    result = predict(shelf, shelf / "photos" / "Red" / "0.png", "--top", 3)
    assert result.exit_code == 0
    assert "Red" in result.stdout
    assert "Grey 0.4 %" in result.stdout
    assert "accuracy" not in result.stdout
    assert result.stderr == ""


def test_folders_patterns_and_photos_are_read_once_and_in_order(shelf: Path) -> None:
    folder = shelf / "photos"
    result = predict(shelf, folder / "Blue", folder / "*" / "0.png", folder / "Blue" / "0.png", "--json")
    assert predicted(result) == [
        ("0.png", "Blue"),
        ("1.png", "Blue"),
        *(("0.png", n) for n in ("Green", "Grey", "Red")),
    ]


def test_json_has_the_top_products_with_their_gtins(shelf: Path) -> None:
    document = json.loads(predict(shelf, shelf / "photos" / "Red" / "0.png", "--top", 2, "--json").stdout)
    (photo,) = document["photos"]
    assert (photo["label"], photo["gtin"]) == ("Red", "00000000000017")
    assert [product["label"] for product in photo["top"]] == ["Red", "Grey"]
    assert document["receipt"]["precision"] == "int8"
    assert "accuracy" not in document
    assert "truth" not in photo


def test_an_image_is_read_from_standard_input(shelf: Path) -> None:
    photo = (shelf / "photos" / "Green" / "0.png").read_bytes()
    assert predicted(predict(shelf, "-", "--json", stdin=photo)) == [("stdin", "Green")]


@pytest.mark.parametrize("stdin", [b"", b"no image"])
def test_standard_input_without_an_image_is_one_sentence(shelf: Path, stdin: bytes) -> None:
    result = predict(shelf, "-", stdin=stdin)
    assert (result.exit_code, result.stderr.count("\n")) == (DataError.exit_code, 1)
    assert "stdin" in result.stderr


def test_standard_input_is_bounded(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocessing, "MAX_PHOTO_BYTES", 2**20)
    result = predict(shelf, "-", stdin=bytes(2**20 + 1))
    assert (result.exit_code, result.stdout) == (DataError.exit_code, "")
    assert "1 MiB" in result.stderr


def test_a_terminal_as_standard_input_is_not_waited_for(shelf: Path) -> None:
    ours, theirs = os.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgebcnn", "predict", "-"], stdin=theirs, capture_output=True, text=True, timeout=60
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 2
    assert "pipe" in done.stderr


def test_labels_bring_the_accuracy_and_mark_what_is_wrong(shelf: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_label=1)
    (tmp_path / "photos" / "Red" / "0.png").rename(tmp_path / "photos" / "Green" / "1.png")
    result = predict(shelf, tmp_path / "photos", "--labeled")
    assert "Red (is Green)" in result.stdout
    assert "75.0 %" in result.stdout
    assert "n=4" in result.stdout
    document = json.loads(predict(shelf, tmp_path / "photos", "--labeled", "--json").stdout)
    assert (document["accuracy"]["value"], document["accuracy"]["n"]) == (0.75, 4)


def test_labels_that_no_folder_has_are_an_error_with_the_closest_product(shelf: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_label=1)
    (tmp_path / "photos" / "Green").rename(tmp_path / "photos" / "Greene")
    result = predict(shelf, tmp_path / "photos" / "Greene", "--labeled")
    assert result.exit_code == DataError.exit_code
    assert "rename Greene" in result.stderr
    assert "Green\n" in result.stderr


def test_an_unreadable_photo_is_named_skipped_and_counted(shelf: Path) -> None:
    result = predict(shelf, shelf / "broken.png", shelf / "photos" / "Red" / "0.png")
    assert result.exit_code == 0
    assert "broken.png" in result.stderr
    assert "1 of 2 photos" in result.stdout
    document = json.loads(predict(shelf, shelf / "broken.png", shelf / "photos" / "Red", "--json").stdout)
    assert [Path(each["photo"]).name for each in document["unreadable"]] == ["broken.png"]
    assert len(document["photos"]) == 2


@pytest.mark.parametrize("count", [1, 2])
def test_broken_photos_alone_are_one_sentence(shelf: Path, tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"{number}.png").write_bytes((shelf / "broken.png").read_bytes())
    result = predict(shelf, tmp_path)
    assert (result.exit_code, result.stdout) == (DataError.exit_code, "")
    assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1


@pytest.mark.parametrize("nothing", ["no.jpg", "no/*.jpg", "empty"])
def test_what_names_no_photo_is_one_sentence(shelf: Path, tmp_path: Path, nothing: str) -> None:
    (tmp_path / "empty").mkdir()
    result = predict(shelf, tmp_path / nothing)
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (DataError.exit_code, "", 1)
    assert nothing in result.stderr


def test_no_photo_at_all_is_a_wrong_command_line(shelf: Path) -> None:
    result = predict(shelf)
    assert result.exit_code == 2
    assert "PHOTO" in result.stderr


def test_a_bundle_of_a_newer_schema_is_one_sentence(shelf: Path, tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / "bundle", ["int8"])
    manifest = tmp_path / "bundle" / "bundle.json"
    document = json.loads(manifest.read_bytes())
    document["schema_version"] += 1
    manifest.write_bytes(json_bytes(document))
    result = predict(tmp_path, shelf / "photos")
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (BundleError.exit_code, "", 1)
    assert f"schema version {document['schema_version']}" in result.stderr


def test_many_photos_bring_a_progress_bar(shelf: Path, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", per_label=5)
    result = predict(shelf, tmp_path / "photos", "--json")
    assert len(predicted(result)) == 5 * len(COLOURS_BGR)
    assert "20/20" in result.stderr
