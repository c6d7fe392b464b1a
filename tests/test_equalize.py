"""Scaled channels: the float model stays what it was bit for bit, what is scaled fits, and int8 gains steps by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.model.bcnn import Architecture, build, folded
from edgebcnn.model.head import Tail
from edgebcnn.model.keras import keras
from edgebcnn.quantize.calibration.observe import Activation, observe
from edgebcnn.quantize.calibration.ranges import Int8Rules
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.inspect.layer_error import propagated
from edgebcnn.quantize.qat.fake_quant import FakeQuantized
from edgebcnn.quantize.tflite.convert import float_file, int8_source
from edgebcnn.quantize.tflite.equalize import Equalized, equalized
from edgebcnn.quantize.tflite.int8 import Int8Model, quantize
from tests.tiny import PREPROCESSING, photos
from tests.typing_in import typed

PHOTOS = photos(8)
DIM, BRIGHT = PHOTOS // 4 + 96, np.where(PHOTOS > 125, 255, 0).astype(np.uint8)
"""The same photos with a quarter of the contrast, and with all that there can be: channels go lower and higher."""

PLAIN, SCALED = (Int8Rules(bias_correction=False, equalization=wanted) for wanted in (False, True))
layers = keras.layers


def _uneven(model: Any) -> Any:
    """The model with channels of very different size: its kernels, times a factor for each output channel."""
    rng = np.random.default_rng(7)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            depthwise = isinstance(layer, layers.DepthwiseConv2D)
            kernel, *bias = layer.get_weights()
            factors = np.exp(rng.normal(0, 1.2, kernel.shape[2 if depthwise else 3]))
            layer.set_weights([kernel * (factors[:, np.newaxis] if depthwise else factors), *bias])
    return model


def _chain(activation: Any) -> Any:
    """Convolution, depthwise, convolution, an addition, a convolution, mean, classifier.

    Three layers give small channels that the next one makes up for, as normalisation that was folded into them does.
    """
    keras.utils.set_random_seed(5)
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    shortcut = layers.Conv2D(12, 1, strides=2, name="shortcut")(image)
    x = activation(name="first_relu")(layers.Conv2D(12, 3, strides=2, padding="same", name="first")(image))
    x = activation(name="middle_relu")(layers.DepthwiseConv2D(3, padding="same", name="middle")(x))
    x = layers.Add(name="sum")([shortcut, layers.Conv2D(12, 1, name="narrow")(x)])
    x = activation(name="last_relu")(layers.Conv2D(8, 1, name="last")(x))
    logits = layers.Dense(5, name="logits")(layers.GlobalAveragePooling2D(name="mean")(x))
    model, rng = keras.Model(image, logits), np.random.default_rng(7)
    for first, second in (("first", "middle"), ("middle", "narrow"), ("last", "logits")):
        before, after = model.get_layer(first), model.get_layer(second)
        (kernel, bias), (taking, *rest) = before.get_weights(), after.get_weights()
        factors = np.exp(rng.normal(0, 1.2, len(bias)))
        before.set_weights([kernel * factors.reshape(kernel.shape[2:] if first == "middle" else -1), bias])
        after.set_weights([taking / factors[:, np.newaxis], *rest])
    return model


def _relu6(name: str) -> Any:
    return layers.ReLU(6.0, name=name)


def _bilinear(streams: str, pooling: str = "hadamard", tail: Tail = "tanh") -> Any:
    keras.utils.set_random_seed(6)
    rank = None if pooling == "gap" else 12
    bcnn = build(Architecture(streams=streams, pooling=pooling, rank=rank, tail=tail, classes=5))
    _uneven(bcnn.model)
    return folded(bcnn, height_px=PREPROCESSING.height_px, width_px=PREPROCESSING.width_px)


def _file(model: Any) -> bytes:
    return float_file(model, "int8", preprocessing=PREPROCESSING)


def _equalized(content: bytes, photos_u8: NDArray[np.uint8] = PHOTOS) -> Equalized:
    seen = observe(content, photos_u8, preprocessing=PREPROCESSING, advance=lambda photos: None)
    return equalized(content, seen)


def _probabilities(content: bytes, photos_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
    run = Interpreter(model_content=content).get_signature_runner()
    return np.concatenate([run(image=PREPROCESSING.normalize(each[np.newaxis]))["probabilities"] for each in photos_u8])


def _seen(content: bytes, photos_u8: NDArray[np.uint8]) -> dict[str, Activation]:
    seen = observe(content, photos_u8, preprocessing=PREPROCESSING, advance=lambda photos: None)
    return {activation.name: activation for activation in seen}


def _quantized(content: bytes, rules: Int8Rules) -> Int8Model:
    return quantize(content, PHOTOS, rules=rules, preprocessing=PREPROCESSING)


def _sqnr_db(int8: Int8Model) -> dict[str, float]:
    found = propagated(int8.ranged.float_tflite, int8.content, PHOTOS, preprocessing=PREPROCESSING)
    return {each.name: each.sqnr_db or 0.0 for each in found}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: _chain(layers.ReLU), id="relu"),
        pytest.param(lambda: _chain(_relu6), id="relu6"),
        pytest.param(lambda: _bilinear("small", tail="sqrt"), id="square root"),
        pytest.param(lambda: _bilinear("small", "gap", "none"), id="average"),
        pytest.param(lambda: _bilinear("mobilenet_v2"), id="mobilenet_v2", marks=pytest.mark.slow),
    ],
)
def test_the_float_model_computes_the_same_bit_for_bit(model: Any) -> None:
    content = _file(model())
    found = _equalized(content)
    assert any(group.highest_factor > 1 for group in found.groups)
    np.testing.assert_array_equal(_probabilities(found.content, PHOTOS), _probabilities(content, PHOTOS))


def test_without_relu6_that_holds_for_photos_that_calibration_never_saw() -> None:
    content = _file(_chain(layers.ReLU))
    found = _equalized(content)
    np.testing.assert_array_equal(_probabilities(found.content, BRIGHT), _probabilities(content, BRIGHT))


def test_with_relu6_it_does_not_but_what_calibration_saw_is_never_clipped() -> None:
    content = _file(_chain(_relu6))
    found = _equalized(content, DIM)
    dim, bright, dim_scaled, bright_scaled = (
        _seen(file, photos_u8)["first_relu"].reach for file in (content, found.content) for photos_u8 in (DIM, BRIGHT)
    )
    factors = dim_scaled / dim
    assert set(np.log2(factors)) <= set(range(9))
    np.testing.assert_allclose(bright_scaled, np.minimum(bright * factors, 6), rtol=1e-6)
    assert np.any(6 / factors < bright)
    assert np.all(6 / factors >= dim)


def test_the_groups_are_those_of_the_model_and_channels_fill_their_range() -> None:
    found = _equalized(_file(_chain(_relu6))).groups
    assert [(group.tensors, group.between) for group in found] == [
        (("first_relu",), "relu6"),
        (("middle_relu",), "relu6"),
        (("narrow", "shortcut", "sum"), "linear"),
        (("last_relu", "mean"), "relu6"),
    ]
    assert all(group.unused_bits_after <= group.unused_bits_before for group in found)
    assert all(group.lowest_factor >= 1 for group in found if group.between == "relu6")


def test_a_product_of_two_layers_shares_what_it_multiplies() -> None:
    (group,) = (each for each in _equalized(_file(_bilinear("small"))).groups if each.between == "product")
    assert group.tensors == ("project_u", "project_v")
    assert group.lowest_factor < 1 < group.highest_factor


def test_what_a_layer_cannot_take_back_is_left_alone() -> None:
    keras.utils.set_random_seed(8)
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    x = layers.Conv2D(8, 3, strides=2, name="grouped_before")(image)
    x = layers.Conv2D(8, 3, strides=2, groups=2, activation="sigmoid", name="before_sigmoid")(x)
    x = layers.Conv2D(8, 1, name="flattened")(x)
    content = _file(_uneven(keras.Model(image, layers.Dense(5)(layers.Flatten()(x)))))
    found = _equalized(content)
    assert found.groups == ()
    np.testing.assert_array_equal(_probabilities(found.content, PHOTOS), _probabilities(content, PHOTOS))


def test_int8_comes_closer_to_float_and_stays_integer() -> None:
    content = _file(_chain(layers.ReLU))
    plain, scaled = (_quantized(content, rules) for rules in (PLAIN, SCALED))
    assert audit(scaled.content).integer_only
    assert [len(scaled.equalized), len(plain.equalized)] == [4, 0]
    assert _sqnr_db(scaled)["logits"] > _sqnr_db(plain)["logits"] + 3


def test_a_signed_square_root_of_equalized_channels_loses_less() -> None:
    model = _bilinear("small", tail="sqrt")
    source = int8_source(model, preprocessing=PREPROCESSING)
    plain, scaled = (source.quantized(PHOTOS, rules=rules) for rules in (PLAIN, SCALED))
    (group,) = (each for each in scaled.equalized if each.between == "square root")
    assert (group.lowest_factor, group.highest_factor % 4) == (1, 0)
    assert group.unused_bits_after < 2 < group.unused_bits_before
    assert _sqnr_db(scaled)["tail_norm"] > _sqnr_db(plain)["tail_norm"] + 3


def test_files_that_stay_in_float_between_their_ops_keep_the_given_file_and_its_means() -> None:
    content = _file(_chain(_relu6))
    plain, scaled = (_quantized(content, Int8Rules(equalization=wanted)) for wanted in (False, True))
    assert plain.original.float_tflite == scaled.original.float_tflite == content
    assert plain.ranged.float_tflite == content != scaled.ranged.float_tflite
    for index, mean in plain.ranged.means.items():
        np.testing.assert_array_equal(mean, scaled.original.means[index])


def test_an_equalized_model_can_be_fine_tuned() -> None:
    model = _chain(_relu6)
    int8 = _quantized(_file(model), SCALED)
    rounding = FakeQuantized(int8.corrected, int8.content, learning=[each.name for each in model.layers])
    assert len(_probabilities(rounding.float_file(), PHOTOS)) == len(PHOTOS)


@pytest.mark.slow
def test_export_equalizes_where_the_flag_or_the_recipe_says_so(shop: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "scaled.toml"
    recipe.write_text('name = "scaled"\ndescription = ""\nphotos = 16\nseed = 0\nequalization = true\n')
    shown = typed(shop, "calibrate", "--recipe", recipe, "--json")
    groups = json.loads(shown.stdout)["equalized"]
    assert ["small_1_relu"] in [group["tensors"] for group in groups]
    flags = ("--mixed", "--int16", "--dynamic", "--recipe", "quick", "--equalization", "--accept-drop")
    result = typed(shop, "export", *flags, "--output", tmp_path / "bundle", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["calibration"]["equalized"]
    result = typed(shop, "export", "--fp16", "--equalization", "--output", tmp_path / "bundle")
    assert (result.exit_code, "--equalization is for the int8 model" in result.output) == (2, True)
