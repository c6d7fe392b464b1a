"""Fine-tuning sees the rounding that the int8 file will do, wins answers back, and lands in the same export."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from click.testing import CliRunner
from numpy.typing import NDArray

from edgebcnn.bundle import PAGE_NAME, REPORT_NAME, Label, open_bundle
from edgebcnn.cli import main
from edgebcnn.errors import DataError, QuantizationError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.model.bcnn import Architecture, build, folded
from edgebcnn.model.head import Tail
from edgebcnn.model.keras import keras, tf
from edgebcnn.progress import Silent
from edgebcnn.quantize.calibration.observe import flowing
from edgebcnn.quantize.calibration.ranges import Int8Rules
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.inspect.layer_error import paired
from edgebcnn.quantize.qat.fake_quant import FakeQuantized
from edgebcnn.quantize.qat.finetune import FineTuning
from edgebcnn.quantize.tflite.bias import constant
from edgebcnn.quantize.tflite.convert import float_file
from edgebcnn.quantize.tflite.int8 import Int8Model, quantize
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun
from tests.solved import solved_run
from tests.tiny import PREPROCESSING, Elementwise, photos, tanh_model

PLAIN = Int8Rules(bias_correction=False)
PRODUCTS, PER_PRODUCT = 8, {"train": 16, "test": 24}


def _dataset(folder: Path) -> ProductDataset:
    """Noisy photos of colours that are alike: a few steps of int8 decide between them."""
    rng = np.random.default_rng(4)
    colours = rng.integers(60, 200, (PRODUCTS, 3))
    splits: dict[str, tuple[Photo, ...]] = {}
    for split, count in PER_PRODUCT.items():
        (folder / split).mkdir(parents=True)
        splits[split] = tuple(
            Photo(folder / split / f"{product}-{number}.png", product)
            for product in range(PRODUCTS)
            for number in range(count)
        )
        for photo in splits[split]:
            colour = colours[photo.class_id] + rng.normal(0, 12, 3)
            pixels = np.clip(rng.normal(colour, 25, (32, 32, 3)), 0, 255)
            cv2.imwrite(str(photo.path), pixels.astype(np.uint8))
    labels = tuple(Label(name=f"product {product}") for product in range(PRODUCTS))
    return ProductDataset(folder, labels, splits["train"], (), splits["test"], skipped=(), notes=())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """A run whose random features leave the products so close together that int8 mixes them up."""
    folder = tmp_path_factory.mktemp("shop")
    return solved_run(folder / "runs" / "alike", _dataset(folder / "photos"), rank=16, train_px=32)


def _folded(run: TrainedRun) -> Any:
    return folded(run.load("compact"), height_px=32, width_px=32)


@pytest.fixture(scope="module")
def plain(run: TrainedRun) -> Int8Model:
    """The run's compact model in int8 with min-max ranges and nothing else."""
    photos_u8 = PreparedPhotos(run.dataset.train[::4], run.preprocessing)[:]
    source = float_file(_folded(run), "int8", preprocessing=run.preprocessing)
    return quantize(source, photos_u8, rules=PLAIN, preprocessing=run.preprocessing)


def _tuned(run: TrainedRun, plain: Int8Model, *, epochs: int) -> Int8Model:
    fine_tuning = FineTuning(run, run.load("full"), epochs=epochs)
    tuned, tuning = fine_tuning.tuned(plain, _folded(run), io="uint8", reporter=Silent())
    assert (tuning.epochs, tuning.photos, len(tuning.losses)) == (epochs, len(run.dataset.train), epochs)
    return tuned


def _top1(content: bytes, run: TrainedRun) -> NDArray[np.int64]:
    pixels = PreparedPhotos(run.dataset.test, run.preprocessing)[:]
    runner = Interpreter(model_content=content).get_signature_runner()
    (given,) = runner.get_input_details().values()
    images = pixels if given["dtype"] == np.uint8 else run.preprocessing.normalize(pixels)
    found = np.concatenate([runner(image=image[np.newaxis])["probabilities"] for image in images])
    return np.asarray(found.argmax(axis=1))


@pytest.mark.slow
def test_fine_tuning_wins_back_answers_that_minmax_lost(run: TrainedRun, plain: Int8Model) -> None:
    truth = np.array([photo.class_id for photo in run.dataset.test])
    tuned = _tuned(run, plain, epochs=20)
    as_float, before, after = (_top1(each, run) for each in (plain.corrected, plain.content, tuned.content))
    assert np.mean(before == as_float) < 0.8, "there is something to win back"
    assert np.mean(after == as_float) >= np.mean(before == as_float)
    assert np.mean(after == truth) > np.mean(before == truth) + 0.03
    assert audit(tuned.content).integer_only
    assert [op.name for op in audit(tuned.content).ops] == [op.name for op in audit(plain.content).ops]


def test_the_same_seed_gives_the_same_bytes(run: TrainedRun, plain: Int8Model) -> None:
    first, second = (_tuned(run, plain, epochs=1).content for _ in range(2))
    assert first == second != plain.content


def test_what_the_run_froze_stays_as_it_is(run: TrainedRun, plain: Int8Model) -> None:
    held = replace(run, config=run.config.model_copy(update={"frozen_through": "small_2_relu"}))
    tuned = _tuned(held, plain, epochs=1)
    changed = _changed_layers(plain.corrected, tuned.corrected)
    assert not {name for name in changed if name.startswith(("small_1", "small_2"))}
    assert {"small_5_relu", "project_u", "project_v", "logits"} <= changed


def _changed_layers(first: bytes, second: bytes) -> set[str]:
    """Layers whose kernels differ."""
    models = [schema.ModelT.InitFromPackedBuf(each) for each in (first, second)]
    names = {activation.index: activation.layer for activation in flowing(first)}
    with_kernels = [
        (names[mine.outputs[0]], constant(models[0], mine.inputs[1]), constant(models[1], theirs.inputs[1]))
        for mine, theirs in paired(*models)
        if len(mine.inputs) == 3
    ]
    return {name for name, mine, theirs in with_kernels if not np.array_equal(mine, theirs)}


@cache
def _every_op() -> Any:
    """A model of all that a backbone may hold."""
    keras.utils.set_random_seed(8)
    layers = keras.layers
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    x = layers.Conv2D(8, 3, padding="same", dilation_rate=2, activation="relu")(image)
    x = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, padding="same")(layers.ZeroPadding2D(1)(x))
    x = layers.Conv2D(16, 1, activation=lambda x: x * tf.nn.relu6(x + 3) / 6)(x)
    gate = layers.Conv2D(16, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Add()([layers.Multiply()([x, gate]), layers.ReLU()(x)])
    x = layers.MaxPooling2D(2, strides=1)(layers.AveragePooling2D(3, strides=1, padding="same")(x))
    means = layers.GlobalAveragePooling2D()
    x = layers.Concatenate()([means(x), means(layers.ReLU(6.0)(x))])
    return keras.Model(image, layers.Dense(5, kernel_initializer=keras.initializers.RandomNormal(stddev=2.0))(x))


def _head(pooling: str, tail: Tail) -> Callable[[], Any]:
    def model() -> Any:
        keras.utils.set_random_seed(8)
        architecture = Architecture(streams="custom", pooling=pooling, rank=8, tail=tail, classes=5)
        return folded(build(architecture), height_px=PREPROCESSING.height_px, width_px=PREPROCESSING.width_px)

    return model


HEADS = [_head("hadamard", "tanh"), _head("hadamard", "sqrt"), _head("lrbc", "none")]


@pytest.mark.parametrize("model", [_every_op, *HEADS], ids=["ops", "tanh", "sqrt", "lrbc"])
def test_the_network_says_what_the_int8_file_says_within_two_steps(model: Callable[[], Any]) -> None:
    """The file's integer kernels round half-way cases, and inner sums, in another way than float arithmetic does."""
    int8 = _calibrated(model())
    network = _network(int8, model()).network
    images = photos(32, seed=5)
    logits, step = _int8_logits(int8.content, images)
    off = np.abs(np.rint((network(PREPROCESSING.normalize(images)).numpy() - logits) / step))
    assert off.max() <= 2
    assert np.mean(off == 0) > 0.5
    assert np.ptp(logits) > 50 * step, "they say something"


def test_a_network_that_learned_nothing_gives_the_file_back() -> None:
    int8 = _calibrated(tanh_model())
    content = replace(int8.ranged, float_tflite=_network(int8, tanh_model()).float_file()).quantized("uint8")[0]
    images = photos(8, seed=5)
    np.testing.assert_array_equal(_int8_logits(content, images)[0], _int8_logits(int8.content, images)[0])


def _calibrated(model: Any) -> Int8Model:
    source = float_file(model, "int8", preprocessing=PREPROCESSING)
    return quantize(source, photos(16), rules=PLAIN, preprocessing=PREPROCESSING)


def _network(int8: Int8Model, model: Any) -> FakeQuantized:
    return FakeQuantized(int8.corrected, int8.content, learning=[layer.name for layer in model.layers])


def _int8_logits(content: bytes, images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """What goes into the softmax of an int8 file, and its step."""
    interpreter = Interpreter(model_content=content, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    (softmax,) = (op for op in interpreter._get_ops_details() if op["op_name"] == "SOFTMAX")
    (logits,) = (each for each in interpreter.get_tensor_details() if each["index"] == softmax["inputs"][0])
    step, zero_point = logits["quantization"]
    rows = []
    for image in images:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[np.newaxis])
        interpreter.invoke()
        rows.append((interpreter.get_tensor(logits["index"]).astype(np.float32) - zero_point) * step)
    return np.concatenate(rows), step


@pytest.mark.parametrize(
    ("layer", "op"),
    [
        (lambda: Elementwise(lambda x: tf.maximum(x, 0.1)), "MAXIMUM"),
        (lambda: keras.layers.Conv2D(6, 1, groups=3), "grouped CONV_2D"),
    ],
)
def test_an_op_that_cannot_be_learned_through_is_named(layer: Callable[[], Any], op: str) -> None:
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(layer()(image))))
    with pytest.raises(QuantizationError, match=rf"--qat cannot train through {op}, .* export it without --qat"):
        _network(_calibrated(model), model)


def test_without_photos_to_learn_from_there_is_no_fine_tuning(run: TrainedRun) -> None:
    held_out = replace(run, dataset=replace(run.dataset, test=run.dataset.train))
    with pytest.raises(DataError, match="no training photo that is not also held out: add some and train again"):
        FineTuning(held_out, run.load("full"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--fp16", "--qat"], "--qat is for the int8 model: add --int8"),
        (["--int8", "--qat-epochs", "2"], "--qat-epochs is for --qat: add it"),
        (["--int8", "--qat", "--qat-epochs", "0"], "'--qat-epochs': 0 is not in the range x>=1"),
    ],
)
def test_flags_that_do_not_go_together_are_one_sentence(arguments: list[str], sentence: str) -> None:
    result = CliRunner().invoke(main, ["export", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert sentence in result.stderr


@pytest.mark.slow
def test_the_command_fine_tunes_and_the_bundle_says_so(run: TrainedRun, tmp_path: Path) -> None:
    asked = ["export", str(run.path), "--int8", "--dynamic", "--qat", "--qat-epochs", "1", "--accept-drop"]
    result = CliRunner().invoke(main, [*asked, "--recipe", "quick", "--output", str(tmp_path / "bundle")])
    assert result.exit_code == 0, result.stderr
    assert "fine-tuned with simulated quantization: 1 epoch of 128 training photos" in " ".join(result.stdout.split())
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.models["int8"].integer_only
    assert "tensorflow-model-optimization" in bundle.manifest.tools
    models = json.loads((bundle.path / REPORT_NAME).read_text())["models"]
    tuning = models["int8"]["tuning"]
    assert tuning["photos"] == tuning["curve"][-1]["photos"] == 128
    steps = np.diff([0, *(point["photos"] for point in tuning["curve"])])
    losses = [point["loss"] for point in tuning["curve"]]
    assert np.average(losses, weights=steps) == pytest.approx(tuning["losses"][0], abs=1e-5)
    names = [model["name"] for model in models["int8"]["untuned"]["models"]]
    assert names == ["full", "compact", "untuned", "edge"]
    assert "right only after fine-tuning" in (bundle.path / PAGE_NAME).read_text()
    assert models["int8"]["layers"]["layers"]
    assert models["dynamic"]["tuning"] is models["dynamic"]["untuned"] is None
