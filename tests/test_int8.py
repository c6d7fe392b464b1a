"""Ranges that we choose reach the file and change nothing else; corrected biases give back the mean."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.errors import DataError
from edgebcnn.model.keras import keras, tf
from edgebcnn.model.pooling import HadamardProduct, SignedSqrt
from edgebcnn.native import muted_native_stderr
from edgebcnn.quantize.calibration.observe import Activation, annotated, observe, packed, ranges_in_file
from edgebcnn.quantize.calibration.ranges import Int8Rules, LayerRanges, Range, choose_range
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.tflite.bias import bias_corrected, constant
from edgebcnn.quantize.tflite.convert import float_file, int8_source
from edgebcnn.quantize.tflite.int8 import quantize
from tests.tiny import PREPROCESSING, photos, tanh_model, tflite

PLAIN = Int8Rules(bias_correction=False)
PHOTOS = photos(16)


@cache
def _float() -> bytes:
    return float_file(tanh_model(), "int8", preprocessing=PREPROCESSING)


@cache
def _seen() -> tuple[Activation, ...]:
    return observe(_float(), PHOTOS, preprocessing=PREPROCESSING, advance=lambda photos: None)


def _quantize(rules: Int8Rules, content: bytes | None = None, **more: Any) -> Any:
    return quantize(content or _float(), PHOTOS, rules=rules, preprocessing=PREPROCESSING, **more)


def _probabilities(content: bytes) -> NDArray[np.float32]:
    run = Interpreter(model_content=content).get_signature_runner()
    return np.concatenate([run(image=PREPROCESSING.normalize(photo[np.newaxis]))["probabilities"] for photo in PHOTOS])


def test_ranges_leave_the_float_model_as_it_is_bit_for_bit() -> None:
    ranges = {activation.index: Range(-0.1, 0.1) for activation in _seen()}
    np.testing.assert_array_equal(_probabilities(annotated(_float(), ranges)), _probabilities(_float()))


def test_minmax_gives_the_scales_of_tensorflows_own_calibration() -> None:
    calibration = photos(16)
    calibration[0, 0, 0], calibration[0, -1, -1] = 0, 255  # their range of the image is that of the photos
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3), batch_size=1)
    converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(image, tf.nn.softmax(tanh_model()(image))))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([PREPROCESSING.normalize(photo[np.newaxis])] for photo in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    with muted_native_stderr():
        theirs = converter.convert()
    ours = quantize(_float(), calibration, rules=PLAIN, preprocessing=PREPROCESSING).content
    scales = np.array([sorted(found.scale for found in ranges_in_file(file).values()) for file in (ours, theirs)])
    assert scales.shape[1] > 8
    # Their kernels add up in another order.
    np.testing.assert_allclose(scales[0], scales[1], rtol=1e-5)


@pytest.mark.parametrize(
    "rules",
    [Int8Rules(), Int8Rules(range_method="percentile", percentile=99.0), Int8Rules(range_method="mse")],
    ids=lambda rules: rules.range_method,
)
def test_a_chosen_range_is_the_one_in_the_file_and_every_op_is_integer(rules: Int8Rules) -> None:
    made = _quantize(rules)
    in_file = ranges_in_file(made.content)
    free = [each for each in _seen() if not (each.is_input or each.layer.startswith(("elementwise", "Stateful")))]
    assert len(free) >= 6
    for activation in free:
        chosen, found = choose_range(activation.seen, rules), in_file[activation.tensor]
        assert found.scale == pytest.approx(chosen.scale, rel=1e-5)
        assert found.low == pytest.approx(chosen.low, abs=chosen.scale / 2 + 1e-9), "zero is moved onto a step"
    assert audit(made.content).integer_only
    assert _quantize(rules).content == made.content, "the same photos and rules give the same bytes"


def test_the_methods_give_different_files() -> None:
    contents = [_quantize(Int8Rules()).content, _quantize(Int8Rules(range_method="mse")).content]
    assert contents[0] != contents[1]


def test_a_layer_can_have_a_method_of_its_own() -> None:
    rules = Int8Rules(layers=(LayerRanges(layer="multiply*", range_method="percentile", percentile=95.0),))
    plain, special = (_quantize(each).tensors for each in (Int8Rules(), rules))
    changed = [tensor.name for tensor, other in zip(special, plain, strict=True) if tensor.high != other.high]
    assert [name.rstrip("0123456789_") for name in changed] == ["multiply"]
    (tensor,) = (tensor for tensor in special if tensor.name in changed)
    assert tensor.method == "percentile"
    assert 0.02 < tensor.clipped < 0.1
    assert tensor.lowest < tensor.p0_1 < tensor.low < tensor.high < tensor.p99_9 < tensor.highest


def test_a_layer_that_the_model_lacks_is_named_with_the_closest() -> None:
    rules = Int8Rules(layers=(LayerRanges(layer="multipy", range_method="mse"),))
    with pytest.raises(
        DataError, match=r"the recipe names the layer 'multipy', which the model lacks: it has multiply"
    ):
        _quantize(rules)


def test_before_a_signed_square_root_the_error_is_that_of_the_root() -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    u, v = (keras.layers.Conv2D(8, 1, use_bias=False)(image) for _ in range(2))
    pooled = HadamardProduct(name="pooled")([u, v])
    model = keras.Model(image, keras.layers.Dense(3)(SignedSqrt(name="root")(pooled)))
    source = int8_source(model, preprocessing=PREPROCESSING)
    content = source.float_tflite
    assert source.square_roots == {"root"}
    rules = Int8Rules(range_method="mse")
    rooted = {t.name: t for t in _quantize(rules, content, square_roots=source.square_roots).tensors}
    plain = {t.name: t for t in _quantize(rules, content).tensors}
    assert rooted["pooled/Mean"] != plain["pooled/Mean"]
    assert rooted["pooled/mul"] == plain["pooled/mul"]


def _linear_model() -> Any:
    """Every kind of layer with weights, of which each output is linear in its input's mean."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    x = layers.Conv2D(8, 1, use_bias=False)(image)
    x = layers.DepthwiseConv2D(1, depth_multiplier=2)(x)
    x = layers.Conv2D(8, 1, groups=2)(x)
    return keras.Model(image, layers.Dense(4, bias_initializer="ones")(layers.GlobalAveragePooling2D()(x)))


def _with_weights_of(float_tflite: bytes, int8_tflite: bytes) -> bytes:
    """The float file with the weights that are left after rounding."""
    model, int8 = (schema.ModelT.InitFromPackedBuf(content) for content in (float_tflite, int8_tflite))
    layers = [[op for op in each.subgraphs[0].operators if len(op.inputs) == 3] for each in (model, int8)]
    for operator, rounded in zip(*layers, strict=True):
        buffer = model.buffers[model.subgraphs[0].tensors[operator.inputs[1]].buffer]
        buffer.data = np.frombuffer(constant(int8, rounded.inputs[1]).astype(np.float32).tobytes(), np.uint8)
    return packed(model)


def test_corrected_biases_give_every_channel_the_mean_that_it_had_before_rounding() -> None:
    content = float_file(_linear_model(), "int8", preprocessing=PREPROCESSING)
    seen = observe(content, PHOTOS, preprocessing=PREPROCESSING, advance=lambda photos: None)
    int8 = _quantize(PLAIN, content).content
    corrected = bias_corrected(content, int8, {each.index: each.means for each in seen})

    def means(float_tflite: bytes) -> list[NDArray[np.float64]]:
        found = observe(float_tflite, PHOTOS, preprocessing=PREPROCESSING, advance=lambda photos: None)
        return [each.means for each in found[:-1]]  # a softmax is not linear

    wanted = means(content)
    shifted, restored = means(_with_weights_of(content, int8)), means(_with_weights_of(corrected, int8))
    assert [len(each) for each in wanted] == [3, 8, 16, 8, 8, 4]
    for before, off, after in zip(wanted[1:], shifted[1:], restored[1:], strict=True):
        assert np.abs(off - before).max() > 2e-5, "rounding shifts the means"
        np.testing.assert_allclose(after, before, atol=2e-6)


def test_layers_whose_biases_were_one_tensor_get_their_own() -> None:
    corrected = bias_corrected(_float(), _quantize(PLAIN).content, {each.index: each.means for each in _seen()})
    graph = schema.ModelT.InitFromPackedBuf(corrected).subgraphs[0]
    biases = [operator.inputs[2] for operator in graph.operators if len(operator.inputs) == 3]
    assert len(biases) == len(set(biases)) == 4


def test_bias_correction_is_in_the_file_unless_it_is_turned_off() -> None:
    assert _quantize(PLAIN).content != _quantize(Int8Rules()).content == tflite(tanh_model())
