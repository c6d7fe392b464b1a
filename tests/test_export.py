"""An export judges what it made with the device's own code, and writes a bundle whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shlex
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from edgebcnn.bundle import GOLDEN_NAME, PAGE_NAME, REPORT_NAME, Label, Precision, open_bundle
from edgebcnn.cli import main
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.runtime import load_runtime
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import BundleError, DataError, QuantizationError, RunError, StorageError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.model.bcnn import Bcnn, folded
from edgebcnn.model.keras import keras, tf
from edgebcnn.monitor.shadow import full_model
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Advance, Silent
from edgebcnn.quantize import model_files
from edgebcnn.quantize.calibration.recipe import Recipe
from edgebcnn.quantize.choices import ExportChoices
from edgebcnn.quantize.export import ExportResult, export
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun
from tests.solved import ROLES, solved_run

COLOURS_BGR = {"red": (40, 40, 200), "green": (40, 200, 40), "blue": (200, 40, 40)}
PHOTOS = {"train": 8, "val": 2, "test": 4}
RECIPE = Recipe(name="tiny", description="", photos=9, seed=0)
TWO: tuple[Precision, ...] = ("int8", "fp16")


class Diary(Silent):
    """Remembers what it is told; Ctrl-C comes where a bar begins with `interrupt_at`."""

    def __init__(self, *, interrupt_at: str | None = None) -> None:
        """Nothing was said yet."""
        self.said: list[str] = []
        self.bars: dict[str, list[int]] = {}
        self._interrupt_at = interrupt_at

    def say(self, sentence: str) -> None:
        self.said.append(sentence)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        if self._interrupt_at and description.startswith(self._interrupt_at):
            raise KeyboardInterrupt
        bar = self.bars.setdefault(description, [0, total])

        def advance(pieces: int) -> None:
            bar[0] += pieces

        yield advance


def _dataset(folder: Path) -> ProductDataset:
    rng = np.random.default_rng(20)
    splits: dict[str, tuple[Photo, ...]] = {}
    for split, count in PHOTOS.items():
        (folder / split).mkdir(parents=True)
        names = [(class_id, name) for class_id, name in enumerate(COLOURS_BGR) for _ in range(count)]
        splits[split] = tuple(Photo(folder / split / f"{i}.png", class_id) for i, (class_id, _) in enumerate(names))
        for photo, (_, name) in zip(splits[split], names, strict=True):
            noisy = rng.normal(COLOURS_BGR[name], 25, (40, 48, 3))
            cv2.imwrite(str(photo.path), np.clip(noisy, 0, 255).astype(np.uint8))
    labels = tuple(Label(name=name) for name in COLOURS_BGR)
    return ProductDataset(folder, labels, splits["train"], splits["val"], splits["test"], skipped=(), notes=())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A finished run on three colours. One test photo is labelled wrongly, so that no accuracy is an agreement."""
    folder = tmp_path_factory.mktemp("shop")
    dataset = _dataset(folder / "photos")
    dataset = replace(dataset, test=(Photo(dataset.test[0].path, 1), *dataset.test[1:]))
    return solved_run(folder / "runs" / "colours", dataset, rank=16)


def _export(run: TrainedRun, output: Path, *, reporter: Diary | None = None, allow_float: bool = False) -> ExportResult:
    choices = ExportChoices(TWO, RECIPE, allow_float=allow_float)
    return export(run, output, choices=choices, reporter=reporter or Diary())


@pytest.fixture(scope="module")
def diary() -> Diary:
    """What `exported` said."""
    return Diary()


@pytest.fixture(scope="module")
def exported(run: TrainedRun, diary: Diary, tmp_path_factory: pytest.TempPathFactory) -> ExportResult:
    return _export(run, tmp_path_factory.mktemp("device") / "bundle", reporter=diary)


@pytest.fixture(scope="module")
def golden(exported: ExportResult) -> dict[str, NDArray[Any]]:
    with np.load(exported.bundle.path / GOLDEN_NAME) as arrays:
        return dict(arrays)


def test_the_bundle_holds_what_a_device_needs(run: TrainedRun, exported: ExportResult) -> None:
    bundle = open_bundle(exported.bundle.path)
    assert bundle == exported.bundle
    assert (bundle.manifest.name, bundle.labels) == ("colours", run.dataset.labels)
    assert bundle.manifest.preprocessing == run.preprocessing
    assert bundle.manifest.architecture["pooling"] == "hadamard"
    assert set(bundle.manifest.models) == {"int8", "fp16"}
    assert {"tensorflow", "tf-keras", "ai-edge-litert", "numpy"} <= set(bundle.manifest.tools)
    files = {str(file.relative_to(bundle.path)) for file in bundle.path.rglob("*") if file.is_file()}
    models = {"model.int8.tflite", "model.fp16.tflite"}
    pictures = {"report/layers.int8.png"}
    assert files == {"bundle.json", "labels.json", GOLDEN_NAME, REPORT_NAME, PAGE_NAME, *pictures, *models}


@pytest.mark.parametrize("precision", TWO)
def test_each_model_file_carries_the_labels_in_the_order_of_its_outputs(
    exported: ExportResult, precision: Precision
) -> None:
    with zipfile.ZipFile(exported.bundle.model_path(precision)) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(COLOURS_BGR)


def test_int8_is_integer_throughout(exported: ExportResult) -> None:
    assert exported.models["int8"].audit.integer_only
    entry = exported.bundle.manifest.models["int8"]
    assert (entry.integer_only, entry.float_ops, entry.input.dtype) == (True, (), "uint8")
    assert not exported.bundle.manifest.models["fp16"].integer_only


@pytest.mark.parametrize("precision", TWO)
def test_accuracy_is_against_labels_and_agreement_against_models(exported: ExportResult, precision: Precision) -> None:
    comparison = exported.models[precision].comparison
    right = {model.name: (model.accuracy.successes, model.accuracy.n) for model in comparison.models}
    assert right == {"full": (11, 12), "compact": (11, 12), "edge": (11, 12)}
    for other in ("full", "compact"):
        assert comparison.pair("edge", other).agreement.value == 1


@pytest.mark.parametrize("precision", TWO)
def test_the_figures_are_those_of_the_devices_own_code(
    run: TrainedRun, exported: ExportResult, golden: dict[str, NDArray[Any]], precision: Precision
) -> None:
    classifier = Classifier.from_bundle(exported.bundle, precision=precision)
    pixels = PreparedPhotos(run.dataset.test, run.preprocessing)[:]
    probabilities = classifier.probabilities(pixels)
    right = (probabilities.argmax(axis=1) == [photo.class_id for photo in run.dataset.test]).sum()
    assert exported.models[precision].comparison.accuracy("edge").successes == right
    scale = {"int8": 256, "fp16": 1}[precision]
    np.testing.assert_array_equal(golden[f"edge_{precision}"], scale * probabilities)


def test_the_golden_set_is_labelled_held_out_photos_with_what_each_model_says(
    run: TrainedRun, exported: ExportResult, golden: dict[str, NDArray[Any]]
) -> None:
    np.testing.assert_array_equal(golden["pixels"], PreparedPhotos(run.dataset.test, run.preprocessing)[:])
    np.testing.assert_array_equal(golden["class_ids"], [photo.class_id for photo in run.dataset.test])
    images = run.preprocessing.normalize(golden["pixels"])
    for role in ROLES:
        scores = exported.bundle.manifest.scores
        assert scores is not None
        temperature = scores.full_temperature if role == "full" else scores.temperature
        expected = tf.nn.softmax(run.load(role).model(images, training=False) / temperature)
        np.testing.assert_allclose(golden[role], expected.numpy(), atol=1e-4)  # the manifest rounds the temperature
    assert golden["edge_int8"].dtype == np.uint8
    # Three steps of the output: one for the rounding, one for the model, and a temperature below 1 magnifies both.
    assert np.median(np.abs(golden["edge_int8"].astype(float) / 256 - golden["compact"].astype(float))) <= 3 / 256


def test_scores_are_calibrated_on_photos_that_training_never_saw_and_the_bundle_says_from_which_a_product_is_named(
    run: TrainedRun, exported: ExportResult
) -> None:
    scores = exported.bundle.manifest.scores
    assert scores is not None
    assert (scores.split, scores.photos) == ("val", len(run.dataset.val))
    assert scores.kept_photos == len(run.dataset.test)
    assert scores.kept >= 0.95
    assert scores.kept_low < scores.kept < scores.kept_high or scores.kept == 1


def test_ranges_are_measured_on_training_photos_alone(run: TrainedRun, exported: ExportResult) -> None:
    calibration = exported.bundle.manifest.calibration
    assert calibration is not None
    assert (calibration.recipe, calibration.seed, len(set(calibration.photo_sha256))) == ("tiny", 0, 9)
    train = {hashlib.sha256(photo.path.read_bytes()).hexdigest() for photo in run.dataset.train}
    assert set(calibration.photo_sha256) <= train


def test_the_report_in_the_bundle_is_the_result(exported: ExportResult) -> None:
    report = json.loads((exported.bundle.path / REPORT_NAME).read_bytes())
    assert {**report, "bundle": str(exported.bundle.path), "digest": exported.bundle.digest} == exported.as_json()
    assert report["held_out"] == "test"
    assert (report["calibration"]["recipe"], report["calibration"]["stability"]) == ("tiny", None)
    assert len(report["calibration"]["tensors"]) > 10
    int8 = report["models"]["int8"]
    assert int8["size_bytes"] == (exported.bundle.path / "model.int8.tflite").stat().st_size
    assert (len(int8["ops"]) > 10, int8["float_ops"]) == (True, [])


def test_the_page_in_the_bundle_shows_each_model_file_and_every_photo_that_changed(exported: ExportResult) -> None:
    page = (exported.bundle.path / PAGE_NAME).read_text()
    for precision, model in exported.models.items():
        assert f'<section id="{precision}">' in page
        agreement = model.comparison.pair("edge", "full").agreement
        assert f"{agreement.n - agreement.successes} photos on which edge and full differ" in page


def test_every_bar_is_filled(exported: ExportResult, diary: Diary) -> None:
    assert exported.held_out == "test"
    assert set(diary.bars) == {
        "full model on held-out photos",
        "compact model on held-out photos",
        "choosing calibration photos",
        "converting to int8",
        "converting to fp16",
        "writing the report",
        "measuring each layer in int8",
        "comparing the layers of int8 with float",
        *(f"{name} model on test photos" for name in ("int8", "fp16")),
    }
    assert all(done == total for done, total in diary.bars.values())
    assert diary.said == []


def test_the_same_run_gives_the_same_bytes(run: TrainedRun, exported: ExportResult, tmp_path: Path) -> None:
    assert _export(run, tmp_path / "again").bundle.digest == exported.bundle.digest


def _with_sign(bcnn: Bcnn, *, height_px: int, width_px: int) -> Any:
    model = folded(bcnn, height_px=height_px, width_px=width_px)
    return keras.Model(model.input, tf.sign(model.output) * model.output)


def test_an_op_that_stays_in_float_stops_the_export_and_leaves_the_old_bundle(
    run: TrainedRun, exported: ExportResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "folded", _with_sign)
    with pytest.raises(QuantizationError, match=r"3 not integer \(DEQUANTIZE, QUANTIZE, SIGN\); .* --allow-float"):
        _export(run, exported.bundle.path)
    assert open_bundle(exported.bundle.path).digest == exported.bundle.digest
    assert [file.name for file in exported.bundle.path.parent.iterdir()] == ["bundle"]


def test_an_op_that_stays_in_float_can_be_accepted_and_is_recorded(
    run: TrainedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "folded", _with_sign)
    entry = _export(run, tmp_path / "bundle", allow_float=True).bundle.manifest.models["int8"]
    assert (entry.integer_only, entry.float_ops) == (False, ("DEQUANTIZE", "QUANTIZE", "SIGN"))


def test_ctrl_c_leaves_nothing_behind(run: TrainedRun, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        _export(run, tmp_path / "bundle", reporter=Diary(interrupt_at="int8 model on test photos"))
    assert list(tmp_path.iterdir()) == []


def test_without_test_photos_the_validation_photos_judge(run: TrainedRun, tmp_path: Path) -> None:
    run = replace(run, dataset=replace(run.dataset, test=()))
    result = export(run, tmp_path / "bundle", choices=ExportChoices(["float32"], RECIPE), reporter=Diary())
    assert (result.held_out, result.models["float32"].comparison.n) == ("val", 6)
    assert result.bundle.manifest.calibration is None


def test_without_held_out_photos_there_is_no_export(run: TrainedRun, tmp_path: Path) -> None:
    run = replace(run, dataset=replace(run.dataset, val=(), test=()))
    with pytest.raises(DataError, match="has no test or val photos to evaluate the export on"):
        _export(run, tmp_path / "bundle")


def test_an_unfinished_run_is_exported_as_far_as_it_came_and_this_is_said(run: TrainedRun, tmp_path: Path) -> None:
    diary = Diary(interrupt_at="choosing")
    with pytest.raises(KeyboardInterrupt):
        _export(replace(run, state="interrupted"), tmp_path / "bundle", reporter=diary)
    (said,) = diary.said
    assert said.startswith(f"{run.path} is not finished")


def test_a_run_without_a_model_is_refused_before_the_long_work(run: TrainedRun, tmp_path: Path) -> None:
    diary = Diary()
    with pytest.raises(RunError, match="holds no full model yet: resume it with edgebcnn train --resume"):
        _export(replace(run, path=tmp_path, state="interrupted"), tmp_path / "bundle", reporter=diary)
    with pytest.raises(RunError, match=r"full/weights\.h5 is missing: put it back, or train again"):
        _export(replace(run, path=tmp_path), tmp_path / "bundle", reporter=diary)
    assert diary.bars == {}


def test_tensor_sketch_is_not_exported_to_int8_and_the_sentence_says_what_to_do(
    run: TrainedRun, tmp_path: Path
) -> None:
    run = replace(run, config=run.config.model_copy(update={"pooling": "tensor_sketch"}))
    diary = Diary()
    with pytest.raises(
        QuantizationError, match=r"^tensor_sketch pooling has no int8 form.*--fp16.*--pooling maclaurin"
    ):
        _export(run, tmp_path / "bundle", reporter=diary)
    assert diary.bars == {}


def test_a_folder_of_something_else_is_not_replaced(run: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    diary = Diary()
    with pytest.raises(BundleError, match="is not a bundle: choose another --output"):
        _export(run, tmp_path, reporter=diary)
    assert diary.bars == {}
    assert (tmp_path / "thesis.txt").exists()


def test_the_command_needs_no_path_where_train_has_run(run: TrainedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.path.parent.parent)
    result = CliRunner().invoke(main, ["export", "--int8"])
    assert result.exit_code == 0, result.output
    bundle = open_bundle(run.path / "bundle")
    assert bundle.manifest.calibration is not None
    assert bundle.manifest.calibration.recipe == "balanced"
    assert "recipe balanced asks for 320 photos and there are 24" in result.stderr
    assert "ops, all integer, 0." in result.stdout
    for words in ("accuracy, full", "accuracy, compact", "accuracy, edge", "agreement, edge with full"):
        assert words in result.stdout
    assert result.stdout.endswith("next:   edgebcnn run --camera 0\n")
    assert "choosing" not in result.stdout


def test_the_command_makes_what_it_is_asked_for(run: TrainedRun, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    asked = [
        "export",
        str(run.path),
        "--float32",
        "--int8",
        "--int8-io",
        "--recipe",
        "quick",
        "--output",
        str(output),
        "--json",
    ]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["bundle"], list(document["models"])) == (str(output), ["int8", "float32"])
    bundle = open_bundle(output)
    assert document["digest"] == bundle.digest
    assert [bundle.manifest.models[precision].input.dtype for precision in ("int8", "float32")] == ["int8", "float32"]


def test_int8_input_and_output_change_no_answer(run: TrainedRun, exported: ExportResult, tmp_path: Path) -> None:
    choices = ExportChoices(["int8"], RECIPE, io="int8")
    bundle = export(run, tmp_path / "bundle", choices=choices, reporter=Diary()).bundle
    entry = bundle.manifest.models["int8"]
    assert (entry.input.dtype, entry.output.dtype) == ("int8", "int8")
    with np.load(bundle.path / GOLDEN_NAME) as golden, np.load(exported.bundle.path / GOLDEN_NAME) as expected:
        np.testing.assert_array_equal(golden["edge_int8"], expected["edge_int8"])


def test_the_next_command_can_be_typed_whatever_the_bundle_is_called(run: TrainedRun, tmp_path: Path) -> None:
    output = tmp_path / "it's mine"
    result = CliRunner().invoke(main, ["export", str(run.path), "--float32", "--output", str(output)])
    assert result.exit_code == 0, result.output
    words = shlex.split(result.stdout.splitlines()[-1].removeprefix("next:"))
    assert words == ["edgebcnn", "run", "--camera", "0", "--bundle", str(output)]


def test_a_photo_that_vanished_is_named_before_the_long_work(run: TrainedRun, tmp_path: Path) -> None:
    gone = Photo(tmp_path / "gone.png", 0)
    diary = Diary()
    with pytest.raises(DataError, match=rf"1 of the 42 photos of .* no longer there, the first is {gone.path}: put"):
        _export(replace(run, dataset=replace(run.dataset, val=(*run.dataset.val[1:], gone))), tmp_path, reporter=diary)
    assert diary.bars == {}


def test_an_output_that_cannot_be_written_is_refused_before_the_long_work(run: TrainedRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    diary = Diary()
    with pytest.raises(StorageError, match=r"file/below"):
        _export(run, tmp_path / "file" / "below" / "bundle", reporter=diary)
    assert diary.bars == {}


@pytest.mark.parametrize(
    ("arguments", "exit_code", "sentence"),
    [
        (["nowhere"], 4, "Error: nowhere is not a run"),
        (["{run}", "--fp16", "--int8-io"], 2, "Error: --int8-io is for the int8 model: add --int8"),
        (["{run}", "--recipe", "quik"], 3, "Error: no calibration recipe is called 'quik': use quick"),
    ],
)
def test_a_wrong_argument_is_one_sentence(run: TrainedRun, arguments: list[str], exit_code: int, sentence: str) -> None:
    result = CliRunner().invoke(main, ["export", *(argument.format(run=run.path) for argument in arguments)])
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert sentence in result.stderr


def _frames(folder: Path, run: TrainedRun) -> Path:
    """What a device captured: the training photos, a little darker."""
    folder.mkdir()
    for photo in run.dataset.train[:12]:
        cv2.imwrite(str(folder / photo.path.name), read_photo(photo.path) // 4 * 3)
    return folder


def test_captured_frames_calibrate_and_the_bundle_says_so(run: TrainedRun, tmp_path: Path) -> None:
    frames = _frames(tmp_path / "frames", run)
    asked = ["export", str(run.path), "--calibration-photos", str(frames), "--output", str(tmp_path / "bundle")]
    result = CliRunner().invoke(main, [*asked, "--recipe", "quick"])
    assert result.exit_code == 0, result.output
    calibration = open_bundle(tmp_path / "bundle").manifest.calibration
    assert calibration is not None
    assert calibration.source == "captured"
    digests = {hashlib.sha256(file.read_bytes()).hexdigest() for file in frames.iterdir()}
    assert set(calibration.photo_sha256) == digests


def test_calibrate_shows_photos_and_ranges_and_exports_nothing(run: TrainedRun, tmp_path: Path) -> None:
    before = sorted(run.path.rglob("*"))
    plot = tmp_path / "ranges.png"
    result = CliRunner().invoke(main, ["calibrate", str(run.path), "--recipe", "quick", "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    for words in ("24 calibration photos (train), recipe quick", "middling", "green", "hadamard_product/mul", "SQNR"):
        assert words in result.stdout
    assert "too few" in result.stdout
    assert read_photo(plot).shape[1] > 500
    assert sorted(run.path.rglob("*")) == before


def test_calibrate_gives_everything_as_json(run: TrainedRun) -> None:
    result = CliRunner().invoke(main, ["calibrate", str(run.path), "--recipe", "quick", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert sum(row["photos"] for row in document["photos"]) == 24
    names = [tensor["name"] for tensor in document["tensors"]]
    assert {"project_u", "project_v", "hadamard_product/mul", "hadamard_product/Mean"} <= set(names)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("min_photos = 25", "recipe mine needs 25 calibration photos and there are 24: add photos, or use a recipe"),
        (
            'layers = [{layer = "projct_u"}]',
            "the recipe names the layer 'projct_u', which the model lacks: it has proj",
        ),
        ("bias = true", "field bias: there is no such field; the fields are range_method, percentile, layers, bias_co"),
    ],
)
def test_a_recipe_that_does_not_fit_the_run_is_one_sentence(
    run: TrainedRun, tmp_path: Path, lines: str, sentence: str
) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'name = "mine"\ndescription = ""\nphotos = 9\nseed = 0\n{lines}\n')
    result = CliRunner().invoke(main, ["calibrate", str(run.path), "--recipe", str(recipe)])
    assert (result.exit_code, result.stdout) == (3, "")
    assert sentence in result.stderr


def test_a_held_out_photo_among_the_calibration_photos_is_one_sentence(run: TrainedRun, tmp_path: Path) -> None:
    frames = _frames(tmp_path / "frames", run)
    (frames / "leak.png").write_bytes(run.dataset.test[0].path.read_bytes())
    result = CliRunner().invoke(main, ["calibrate", str(run.path), "--calibration-photos", str(frames)])
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"leak.png is the held-out photo {run.dataset.test[0].path}, byte for byte" in result.stderr


def test_the_full_model_travels_where_it_is_asked_for_and_says_what_it_said_at_export(
    run: TrainedRun, tmp_path: Path
) -> None:
    output = tmp_path / "b"
    choices = ExportChoices(["fp16"], RECIPE, with_full=True)
    bundle = export(run, output, choices=choices, reporter=Diary()).bundle
    assert bundle.manifest.full is not None
    path = full_model(bundle)
    assert path == full_model(bundle, path) == output / "full.tflite", "it says which products it knows"
    golden = read_golden(bundle, "fp16")
    runtime = load_runtime(path, threads=1)
    model = Classifier(runtime, bundle.labels, preprocessing=run.preprocessing, precision="float32")
    assert np.abs(model.probabilities(golden.pixels) - golden.full).max() < 1e-4
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(BundleError, match=r"full\.tflite was changed after export"):
        open_bundle(bundle.path)
