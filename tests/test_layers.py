"""The layers of a quantized file are compared with those of the float file, one by one and alone."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.bundle import REPORT_NAME, Bundle, open_bundle, write_bundle
from edgebcnn.errors import BundleError
from edgebcnn.model.keras import tf
from edgebcnn.preprocessing import read_photo
from edgebcnn.quantize.calibration.ranges import Int8Rules, LayerRanges
from edgebcnn.quantize.inspect.layer_error import FloatReference, Simulation, layer_costs, propagated
from edgebcnn.quantize.inspect.layers import LayerError, LayerErrors
from edgebcnn.quantize.inspect.mixed import MAX_TAKEN, choose_wide, tensors_of
from edgebcnn.quantize.tflite.convert import float_file
from edgebcnn.quantize.tflite.int8 import Int8Model, quantize
from tests.tiny import PREPROCESSING, bilinear_cnn, photos, tanh_model, tflite
from tests.typing_in import typed

PROBES = photos(8, seed=2)
COARSE = LayerRanges(layer="multiply*", range_method="percentile", percentile=60.0)
"""Clips most of what one layer gives: nothing else can be as bad."""


@cache
def _float() -> bytes:
    return float_file(tanh_model(), "int8", preprocessing=PREPROCESSING)


@cache
def _int8(*layers: LayerRanges) -> Int8Model:
    return quantize(_float(), photos(16), rules=Int8Rules(layers=layers), preprocessing=PREPROCESSING)


@cache
def _reference_run() -> FloatReference:
    return FloatReference(_float(), PROBES, PREPROCESSING)


def _probabilities(content: bytes, images: NDArray[Any]) -> NDArray[Any]:
    runner = Interpreter(model_content=content).get_signature_runner()
    return np.concatenate([runner(image=image[np.newaxis])["probabilities"] for image in images])


def test_every_layer_is_held_against_the_same_layer_in_float() -> None:
    layers = propagated(_float(), _int8().content, PROBES, preprocessing=PREPROCESSING)
    assert [layer.op for layer in layers][:2] == ["CONV_2D", "CONV_2D"]
    assert (layers[-1].name, layers[-1].op) == ("probabilities", "SOFTMAX")
    assert len({layer.name for layer in layers}) == len(layers) >= 8
    for layer in layers:
        assert layer.dtype == "int8"
        assert layer.sqnr_db is not None
        assert layer.cosine is not None
        assert 15 < layer.sqnr_db < 60
        assert 0.98 < layer.cosine <= 1


def test_a_file_beside_itself_loses_nothing() -> None:
    layers = propagated(_float(), _float(), PROBES, preprocessing=PREPROCESSING)
    assert {layer.dtype for layer in layers} == {"float32"}
    assert all(layer.sqnr_db is None and layer.cosine == pytest.approx(1, abs=1e-6) for layer in layers)


def test_sqnr_and_cosine_are_those_of_the_values() -> None:
    images = PREPROCESSING.normalize(PROBES)
    x = _probabilities(_float(), images).astype(np.float64)
    y = _probabilities(_int8().content, PROBES) / 256.0
    last = propagated(_float(), _int8().content, PROBES, preprocessing=PREPROCESSING)[-1]
    # XNNPACK, which answers here, and the kernels whose tensors can be read round differently.
    assert last.sqnr_db == pytest.approx(10 * np.log10((x**2).sum() / ((x - y) ** 2).sum()), abs=1.5)
    assert last.cosine == pytest.approx((x * y).sum() / np.sqrt((x**2).sum() * (y**2).sum()), abs=1e-3)


def test_all_layers_simulated_are_the_int8_model_but_for_its_last_rounding() -> None:
    simulation = Simulation(_float(), _int8().content)
    simulated = _probabilities(simulation.tflite(simulation.layers), PREPROCESSING.normalize(PROBES))
    int8 = _probabilities(_int8().content, PROBES)
    # A step of a logit is a dozen of its probability where two products are alike.
    assert np.median(np.abs(256 * simulated - int8)) <= 1
    assert np.abs(256 * simulated - int8).mean() < 3


def test_no_layer_simulated_is_the_float_model() -> None:
    assert _reference_run().distance(Simulation(_float(), _int8().content).tflite(())) == 0


def test_the_layer_that_was_clipped_is_found_by_what_it_costs_alone() -> None:
    fine, coarse = (
        layer_costs(Simulation(_float(), int8.content), _reference_run()) for int8 in (_int8(), _int8(COARSE))
    )
    (clipped,) = (name for name in coarse if name.startswith("multiply"))
    assert coarse[clipped] == max(coarse.values())
    assert coarse[clipped] > 5 * fine[clipped]
    (first, *_) = coarse
    assert coarse[first] == fine[first], "what comes before is as it was"


def test_layers_in_float_halve_the_distance_and_say_what_they_cost() -> None:
    int8 = _int8(COARSE)
    simulation = Simulation(_float(), int8.content)
    mixed = choose_wide(_float(), simulation, _reference_run(), layer_costs(simulation, _reference_run()))
    assert any(name.startswith("multiply") for name in mixed.layers)
    assert mixed.distance <= mixed.distance_int8 / 2
    assert len(mixed.layers) <= 2 * MAX_TAKEN
    content, _ = int8.ranged.quantized("uint8", wide=tensors_of(_float(), mixed))
    dtypes = {layer.name: layer.dtype for layer in propagated(_float(), content, PROBES, preprocessing=PREPROCESSING)}
    assert {name for name, dtype in dtypes.items() if dtype == "float32"} == set(mixed.layers)
    reference = _probabilities(_float(), PREPROCESSING.normalize(PROBES))

    def off(tflite_content: bytes) -> float:
        return float(np.abs(_probabilities(tflite_content, PROBES) / 256.0 - reference).mean())

    assert off(content) < off(int8.content)


def test_what_layers_in_float_cost_is_counted() -> None:
    simulation = Simulation(_float(), _int8().content)
    mixed = choose_wide(_float(), simulation, _reference_run(), {"dense": 1.0})
    assert (mixed.layers, mixed.extra_bytes) == (("dense",), 3 * 12 * 5)
    convolutions = 8 * 8 * (3 * 3 * 3 * 8 + 2 * 8 * 12)
    assert mixed.multiply_adds == pytest.approx(12 * 5 / (12 * 5 + convolutions), abs=1e-5)


def test_an_op_that_stays_in_float_is_told_apart() -> None:
    model = bilinear_cnn(lambda x: tf.sign(x) * tf.sqrt(tf.abs(x)))
    content = float_file(model, "int8", preprocessing=PREPROCESSING)
    int8 = tflite(model)
    layers = propagated(content, int8, PROBES, preprocessing=PREPROCESSING)
    assert [layer.op for layer in layers if layer.dtype == "float32"] == ["SIGN"]
    assert (
        len(layer_costs(Simulation(content, int8), FloatReference(content, PROBES, PREPROCESSING))) == len(layers) - 1
    )


def test_the_worst_layers_are_named() -> None:
    def layer(name: str, alone: float | None, sqnr_db: float | None) -> LayerError:
        return LayerError(name=name, op="ADD", dtype="int8", sqnr_db=sqnr_db, cosine=1.0, alone=alone)

    rows = (layer("a", 0.1, 30.0), layer("b", 0.3, None), layer("c", None, 5.0), layer("d", 0.2, 10.0))
    found = LayerErrors(photos=4, calibrated_on=False, distance=0.4, layers=rows)
    assert str(found).endswith("b 0.3000, d 0.2000, a 0.1000")
    unmeasured = tuple(row.model_copy(update={"alone": None}) for row in rows)
    found = LayerErrors(photos=4, calibrated_on=False, layers=unmeasured)
    assert str(found).endswith(": c (5.0 dB), d (10.0 dB), a (30.0 dB)")


@pytest.fixture
def bundle(shop: Path, tmp_path: Path) -> Bundle:
    """A copy of the shop's bundle."""
    opened = open_bundle(shop / "runs" / "latest" / "bundle")
    files = {str(file.relative_to(opened.path)): file.read_bytes() for file in opened.path.rglob("*") if file.is_file()}
    kept = {name: content for name, content in files.items() if name not in ("bundle.json", "labels.json")}
    return write_bundle(tmp_path / "bundle", opened.manifest, opened.labels, kept)


def test_the_command_shows_every_layer_and_the_worst(shop: Path) -> None:
    result = typed(shop, "layers", "--precision", "int8")
    assert result.exit_code == 0, result.output
    assert "ops, all integer; int8 and uint8 flow, constants are int32 and int8" in result.stdout
    for words in ("mean_square", "logits", "SQNR", "alone", "largest single layers"):
        assert words in result.stdout


def test_the_command_gives_ops_and_layers_as_json_and_the_report_has_them(shop: Path) -> None:
    result = typed(shop, "layers", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert list(document) == ["int8", "fp16", "float32"]
    assert (document["int8"]["integer_only"], document["fp16"]["integer_only"]) == (True, False)
    assert document["int8"]["ops"][0] == {"name": "QUANTIZE", "inputs": ["uint8"], "outputs": ["int8"], "constants": []}
    report = json.loads((shop / "runs" / "latest" / "bundle" / REPORT_NAME).read_bytes())
    assert document["int8"]["layers"] == report["models"]["int8"]["layers"]
    assert document["fp16"]["layers"] is None
    assert report["models"]["int8"]["layers"]["calibrated_on"], "of 72 training photos none are left"


def test_the_picture_lies_in_the_bundle(shop: Path) -> None:
    assert read_photo(shop / "runs" / "latest" / "bundle" / "report" / "layers.int8.png").shape[1] > 500


def test_integer_only_is_a_statement_with_an_exit_code(shop: Path) -> None:
    assert typed(shop, "layers", "--precision", "int8", "--integer-only").exit_code == 0
    result = typed(shop, "layers", "--integer-only")
    assert (result.exit_code, result.stdout) == (5, "")
    assert "Error: the fp16 model is not integer only: " in result.stderr


def test_a_bundle_without_layers_in_its_report_is_one_sentence(bundle: Bundle) -> None:
    files = {bundle.manifest.models[name].file: bundle.model_path(name).read_bytes() for name in bundle.manifest.models}
    write_bundle(bundle.path, bundle.manifest, bundle.labels, files)
    result = typed(bundle.path, "layers", "--bundle", ".")
    assert (result.exit_code, result.stdout) == (BundleError.exit_code, "")
    assert "report.json has no layer errors: export the bundle again" in result.stderr
