"""`import edgebcnn` is instant, typed, and enough to classify, watch a camera, train, export and evaluate."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgebcnn
from edgebcnn import api, errors
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.preprocessing import read_photo
from edgebcnn.train.config import StageConfig, TrainConfig, config_of
from tests.blocks import draw_blocks
from tests.tiny_bundle import COLOURS_BGR, coloured, make_tiny_bundle, write_photos, write_video

HEAVY = {"ai_edge_litert", "click", "cv2", "numpy", "pydantic", "rich", "tensorflow", "tf_keras"}
QUIET = edgebcnn.Silent()


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, photos and a video."""
    folder = tmp_path_factory.mktemp("shelf")
    make_tiny_bundle(folder / "bundle", ["int8", "float32"])
    write_photos(folder / "photos", per_label=1)
    write_video(folder / "shelf.avi", [*COLOURS_BGR] * 2)
    return folder


@pytest.fixture
def classifier(shelf: Path) -> Iterator[edgebcnn.Classifier]:
    with edgebcnn.load(shelf / "bundle") as loaded:
        yield loaded


def test_importing_edgebcnn_imports_nothing_heavy() -> None:
    script = f"import sys, edgebcnn; sys.exit(', '.join({HEAVY!r} & sys.modules.keys()) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, f"import edgebcnn loads {done.stderr}"


def test_classifying_imports_no_tensorflow(shelf: Path) -> None:
    script = """
import sys, edgebcnn
edgebcnn.load(sys.argv[1]).classify(sys.argv[2])
sys.exit(", ".join({"tensorflow", "tf_keras", "sklearn"} & sys.modules.keys()) or 0)
"""
    photo = shelf / "photos" / "Red" / "0.png"
    done = subprocess.run(
        [sys.executable, "-c", script, shelf / "bundle", photo], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, ""), "LiteRT's own messages are no news to a user"


def test_the_package_offers_what_the_api_and_the_errors_define() -> None:
    classes = {name for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}
    assert set(edgebcnn.__all__) == {"__version__", *api.__all__, *classes}
    assert set(dir(edgebcnn)) == set(edgebcnn.__all__)
    for name in edgebcnn.__all__:
        assert getattr(edgebcnn, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        edgebcnn.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def test_the_stub_names_what_the_package_offers() -> None:
    namespace: dict[str, object] = {}
    exec(Path(edgebcnn.__file__).with_suffix(".pyi").read_text(), namespace)
    assert set(edgebcnn.__all__) == set(namespace["__all__"])  # type: ignore[call-overload]


def test_train_stays_a_function_once_its_package_is_imported() -> None:
    assert "edgebcnn.train.config" in sys.modules
    assert edgebcnn.train is api.train


def test_a_photo_and_a_frame_in_either_color_order_get_the_same_prediction(
    shelf: Path, classifier: edgebcnn.Classifier
) -> None:
    photo = shelf / "photos" / "Red" / "0.png"
    from_path = classifier.classify(str(photo))
    frame_bgr = read_photo(photo)
    assert from_path.label == "Red"
    for prediction in (
        classifier.classify(photo),
        classifier.classify(frame_bgr),
        classifier.classify(frame_bgr[..., ::-1], color="rgb"),
    ):
        np.testing.assert_array_equal(prediction.scores, from_path.scores)


def test_a_prediction_has_the_gtin_and_the_ranked_products(classifier: edgebcnn.Classifier) -> None:
    prediction = classifier.classify(coloured("Red", np.random.default_rng(0)))
    assert (prediction.label, prediction.gtin) == ("Red", "00000000000017")
    assert [label.name for label in prediction.labels] == [*COLOURS_BGR]
    ranked = prediction.top(5)
    assert len(ranked) == 4
    assert (ranked[0].label, ranked[0].gtin, ranked[0].score) == ("Red", prediction.gtin, prediction.score)
    assert [product.score for product in ranked] == sorted(prediction.scores, reverse=True)


def test_many_images_get_what_each_gets_alone(classifier: edgebcnn.Classifier) -> None:
    frames = [coloured(name, np.random.default_rng(2)) for name in COLOURS_BGR]
    assert [each.label for each in classifier.classify_many(frames)] == [*COLOURS_BGR]
    assert classifier.classify_many([]) == []


@pytest.mark.parametrize(
    ("image", "fact"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((8, 8), np.uint8), r"\(8, 8\)"),
        (np.zeros((8, 8, 4), np.uint8), r"\(8, 8, 4\)"),
        (np.zeros((0, 8, 3), np.uint8), "one pixel"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_color_image_is_refused(classifier: edgebcnn.Classifier, image: object, fact: str) -> None:
    with pytest.raises(ValueError, match=fact):
        classifier.classify(image)  # type: ignore[arg-type]


def test_an_unknown_color_order_is_refused(classifier: edgebcnn.Classifier) -> None:
    with pytest.raises(ValueError, match="RGB"):
        classifier.classify(np.zeros((8, 8, 3), np.uint8), color="RGB")  # type: ignore[arg-type]


def test_a_missing_photo_and_a_missing_bundle_are_errors_of_ours(
    classifier: edgebcnn.Classifier, tmp_path: Path
) -> None:
    with pytest.raises(edgebcnn.UnreadablePhotoError, match=r"no\.jpg"):
        classifier.classify(tmp_path / "no.jpg")
    with pytest.raises(edgebcnn.BundleError, match="no-bundle"):
        edgebcnn.load(tmp_path / "no-bundle")


def test_a_closed_classifier_says_so(shelf: Path) -> None:
    classifier = edgebcnn.load(shelf / "bundle", precision="float32", threads=1)
    classifier.close()
    classifier.close()
    with pytest.raises(edgebcnn.DeviceError, match="closed"):
        classifier.classify(np.zeros((8, 8, 3), np.uint8))


def test_threads_below_one_are_refused(shelf: Path) -> None:
    with pytest.raises(ValueError, match="threads=0"):
        edgebcnn.load(shelf / "bundle", threads=0)


def test_readings_are_those_of_the_loop(shelf: Path, classifier: edgebcnn.Classifier) -> None:
    with edgebcnn.open_source(shelf / "shelf.avi") as source:

        class Kept(list[edgebcnn.Reading]):
            def write(self, reading: edgebcnn.Reading) -> None:
                self.append(reading)

            def close(self) -> None:
                pass

        kept = Kept()
        CameraLoop(source, classifier, [kept]).run()
    readings = list(edgebcnn.readings(shelf / "shelf.avi", classifier, every_frame=True))
    assert [reading.label for reading in readings] == [*COLOURS_BGR] * 2
    assert [(each.frame, each.label, each.score) for each in readings] == [
        (each.frame, each.label, each.score) for each in kept
    ]


def test_readings_check_each_frame_and_end_where_they_should(tmp_path: Path, classifier: edgebcnn.Classifier) -> None:
    write_video(tmp_path / "shelf.avi", ["Red"] * 9)
    (first, *others) = edgebcnn.readings(tmp_path / "shelf.avi", classifier, max_frames=3)
    assert first.label == "Red"
    assert len(others) == 2
    stale = next(edgebcnn.readings(tmp_path / "shelf.avi", classifier, max_age_s=0))
    assert (stale.label, stale.reason) == (None, "stale")


def test_readings_that_nobody_takes_any_more_free_the_source(shelf: Path, classifier: edgebcnn.Classifier) -> None:
    readings = edgebcnn.readings(shelf / "shelf.avi", classifier, every_frame=True)
    next(readings)
    assert any(thread.name.startswith("model") for thread in threading.enumerate())
    readings.close()
    assert not any(thread.name.startswith("model") for thread in threading.enumerate())


def test_a_source_that_was_opened_stays_open(shelf: Path, classifier: edgebcnn.Classifier) -> None:
    with edgebcnn.open_source(shelf / "photos", reporter=QUIET) as source:
        first = [reading.label for reading in edgebcnn.readings(source, classifier)]
        assert first == [reading.label for reading in edgebcnn.readings(source, classifier)] != []


def test_a_source_that_is_not_there_is_an_error_of_ours(classifier: edgebcnn.Classifier) -> None:
    with pytest.raises(edgebcnn.CameraError, match="nowhere"):
        next(edgebcnn.readings("nowhere.mp4", classifier))


def test_training_options_have_the_names_of_the_flags() -> None:
    config = config_of(data="photos", epochs=3, head_epochs=2, optimizer="sgd", flip=True, input_px=64)
    assert (config.full_finetune.epochs, config.compact_finetune.epochs) == (3, 3)
    assert (config.full_head.epochs, config.full_head.optimizer, config.full_finetune.optimizer) == (2, "adamw", "sgd")
    assert (config.augmentation.flip, config.input_px) == (True, 64)
    assert config_of(data="photos") == TrainConfig(data="photos")
    assert config_of(data="photos", epochs=3, compact_epochs=1).compact_finetune.epochs == 1
    assert isinstance(config.full_head, StageConfig)


@pytest.mark.parametrize(
    ("options", "error", "fact"),
    [
        ({"epoch": 3}, TypeError, "epochs"),
        ({"xyzzy": 3}, TypeError, "xyzzy"),
        ({"epochs": -1}, ValueError, "epochs=-1"),
        ({"head_rate": "fast"}, ValueError, "head_rate='fast'"),
        ({"epochs": 0}, ValueError, "nothing to train"),
    ],
)
def test_a_wrong_training_option_is_one_sentence(options: dict[str, object], error: type[Exception], fact: str) -> None:
    with pytest.raises(error, match=fact) as raised:
        config_of(data="photos", **options)
    assert "\n" not in str(raised.value)


def test_without_the_train_extra_the_error_names_the_line_that_installs_it() -> None:
    # A process of its own, because what was imported once is not looked for again.
    source = (
        "import sys; sys.modules['sklearn'] = None; import edgebcnn\n"
        "try: edgebcnn.evaluate('runs/latest')\n"
        "except edgebcnn.MissingExtraError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    assert "edgebcnn[train]" in said


def test_photos_become_a_run_a_bundle_and_figures(tmp_path: Path) -> None:
    data = draw_blocks(tmp_path / "photos", per_product={"train": 12, "val": 2, "test": 4})
    options: dict[str, Any] = {
        **{"streams": "small", "weights": "none", "train_px": 32, "input_px": 32, "rank": 8, "copies": 1},
        **{"epochs": 1, "batch_size": 8},
    }
    run = edgebcnn.train(data, output=tmp_path / "run", reporter=QUIET, **options)
    assert Path(run) == tmp_path / "run"
    bundle = edgebcnn.export(run, recipe="quick", accept_drop=True, reporter=QUIET)
    assert Path(bundle) == tmp_path / "run" / "bundle"
    figures = edgebcnn.evaluate(bundle, data, split="test", reporter=QUIET).figures
    assert figures.n == 12
    photos = sorted((data / "test").rglob("*.png"))
    with edgebcnn.load(bundle) as classifier:
        labels = [prediction.label for prediction in classifier.classify_many(photos)]
    right = sum(label == photo.parent.name for label, photo in zip(labels, photos, strict=True))
    assert figures.top1.successes == right
