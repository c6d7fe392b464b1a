"""Between int8 and float: a mixed model, int16 activations, int8 weights alone; each says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, Precision, open_bundle
from edgebcnn.cli import main
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import BundleError, QuantizationError
from edgebcnn.model.keras import keras, tf
from edgebcnn.quantize.calibration.observe import observe
from edgebcnn.quantize.calibration.ranges import Int8Rules
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.inspect.layer_error import FloatReference, propagated
from edgebcnn.quantize.tflite.bias import with_corrected_biases
from edgebcnn.quantize.tflite.convert import float_file
from edgebcnn.quantize.tflite.int8 import quantize
from edgebcnn.quantize.tflite.int16 import quantize_int16
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import open_run
from tests.tiny import PREPROCESSING, bilinear_cnn, photos, tanh_model
from tests.typing_in import typed

PRECISIONS: tuple[Precision, ...] = ("mixed", "int16", "dynamic")

Exported = tuple[Bundle, dict[str, Any]]


@pytest.fixture(scope="module")
def exported(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A bundle of all three, and what the command says."""
    output = tmp_path_factory.mktemp("device") / "bundle"
    flags = [f"--{precision}" for precision in PRECISIONS]
    result = typed(shop, "export", *flags, "--recipe", "quick", "--output", output, "--json")
    assert result.exit_code == 0, result.output
    return open_bundle(output), json.loads(result.stdout)


def test_the_bundle_holds_them_and_what_they_were_calibrated_on(exported: Exported) -> None:
    bundle, _ = exported
    assert set(bundle.manifest.models) == set(PRECISIONS)
    assert bundle.manifest.calibration is not None
    dtypes = {name: (model.input.dtype, model.output.dtype) for name, model in bundle.manifest.models.items()}
    assert dtypes == {
        "mixed": ("uint8", "uint8"),
        "int16": ("float32", "float32"),
        "dynamic": ("float32", "float32"),
    }


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_devices_own_code_runs_it_and_the_golden_outputs_are_its(
    shop: Path, exported: Exported, precision: Precision
) -> None:
    bundle, document = exported
    run = open_run(shop / "runs" / "latest")
    classifier = Classifier.from_bundle(bundle, precision=precision)
    probabilities = classifier.probabilities(PreparedPhotos(run.dataset.test, run.preprocessing)[:])
    right = (probabilities.argmax(axis=1) == [photo.class_id for photo in run.dataset.test]).sum()
    models = {each["name"]: each["accuracy"]["successes"] for each in document["models"][precision]["models"]}
    assert models["edge"] == right >= models["compact"] - 1
    with np.load(bundle.path / "golden.npz") as golden:
        given: NDArray[Any] = golden[f"edge_{precision}"]
        assert given.dtype == (np.uint8 if precision == "mixed" else np.float32)
        np.testing.assert_array_equal(given, probabilities * (256 if precision == "mixed" else 1))


def test_mixed_says_which_layers_are_in_float_and_what_they_cost(exported: Exported) -> None:
    bundle, document = exported
    mixed = document["models"]["mixed"]["mixed"]
    layers = document["models"]["mixed"]["layers"]["layers"]
    assert [layer["name"] for layer in layers if layer["dtype"] == "float32"] == mixed["layers"]
    assert mixed["distance"] <= mixed["distance_int8"], "both are zero where every score is 0 or 1"
    assert not bundle.manifest.models["mixed"].integer_only
    assert document["models"]["int16"]["mixed"] is None


def test_every_layer_of_int16_is_closer_to_float_than_any_of_int8() -> None:
    source = float_file(tanh_model(), "float32", preprocessing=PREPROCESSING)
    int8 = quantize(source, photos(16), rules=Int8Rules(), preprocessing=PREPROCESSING)
    int16 = quantize_int16(int8.corrected, photos(16), preprocessing=PREPROCESSING)
    found = audit(int16)
    assert [op.name for op in found.float_ops] == ["QUANTIZE", "DEQUANTIZE"], "at its two ends alone"
    assert {"int16"} == {dtype for op in found.ops[1:-1] for dtype in op.inputs + op.outputs}
    layers = {
        name: propagated(source, content, photos(8, seed=2), preprocessing=PREPROCESSING)
        for name, content in (("int16", int16), ("int8", int8.content))
    }
    # A softmax may lose less of a logit that is further off, so the layers before it are compared.
    decibels = {name: [layer.sqnr_db or 0 for layer in found[:-1]] for name, found in layers.items()}
    assert np.all(np.array(decibels["int16"]) > decibels["int8"])


def test_int16_takes_all_pixels_though_no_photo_shows_black_or_white() -> None:
    dark = photos(8) // 4
    source = float_file(tanh_model(), "float32", preprocessing=PREPROCESSING)
    int16 = quantize_int16(source, dark, preprocessing=PREPROCESSING)
    (quantize, *_) = propagated(source, int16, np.full((1, 16, 16, 3), 255, np.uint8), preprocessing=PREPROCESSING)
    assert quantize.sqnr_db is not None
    assert quantize.sqnr_db > 10, "white was not clipped to the grey of the photos"


def test_an_op_without_int16_form_is_named() -> None:
    source = float_file(bilinear_cnn(lambda x: tf.nn.l2_normalize(x, -1)), "float32", preprocessing=PREPROCESSING)
    with pytest.raises(QuantizationError, match=r"^L2_NORMALIZATION has no int16 form in TFLite: train with another"):
        quantize_int16(source, photos(4), preprocessing=PREPROCESSING)


def test_dynamic_has_int8_weights_and_float_between() -> None:
    wide = bilinear_cnn(lambda x: tf.tanh(tf.repeat(x, 128, axis=1)))  # weights of less than 1024 stay in float
    dense = audit(float_file(wide, "dynamic", preprocessing=PREPROCESSING)).ops[-2]
    assert (dense.name, dense.inputs, dense.outputs) == ("FULLY_CONNECTED", ("float32",), ("float32",))
    assert "int8" in dense.constants


def test_corrected_biases_bring_int8_weights_closer_to_float() -> None:
    keras.utils.set_random_seed(4)
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    x = keras.layers.Conv2D(128, 3, activation="relu", bias_initializer="ones")(image)
    model = keras.Model(image, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))
    source, plain = (float_file(model, name, preprocessing=PREPROCESSING) for name in ("float32", "dynamic"))
    seen = observe(source, photos(16), preprocessing=PREPROCESSING, advance=lambda photos: None)
    corrected = with_corrected_biases(plain, source, {each.index: each.means for each in seen})
    reference = FloatReference(source, photos(16), PREPROCESSING)
    assert 0 < reference.distance(corrected) < reference.distance(plain)


def test_a_precision_that_the_bundle_lacks_is_one_sentence(exported: Exported) -> None:
    with pytest.raises(BundleError, match="has no int8 model, it has dynamic, int16, mixed: export it with --int8"):
        exported[0].model_path("int8")


def test_every_command_that_takes_a_precision_takes_all_of_them() -> None:
    import click

    from edgebcnn.cli import COMMANDS

    taken: set[tuple[str, tuple[str, ...]]] = set()
    for name in COMMANDS:
        command = main.get_command(click.Context(main), name)
        for parameter in getattr(command, "params", ()):
            if isinstance(parameter.type, click.Choice) and "int8" in parameter.type.choices:
                taken.add((name, tuple(parameter.type.choices)))
    every = ("int8", "mixed", "int16", "dynamic", "fp16", "float32")
    assert taken == {(name, every) for name in ("benchmark", "check", "evaluate", "layers", "predict", "run")}
