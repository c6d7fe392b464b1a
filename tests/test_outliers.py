"""The few weights that are far larger than the rest: set apart where that helps, and the function stays the same."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.device.runtime import load_runtime
from edgebcnn.model.keras import keras
from edgebcnn.quantize.calibration.ranges import Int8Rules
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.tflite.bias import constant
from edgebcnn.quantize.tflite.convert import float_file
from edgebcnn.quantize.tflite.int8 import Int8Model, quantize
from edgebcnn.quantize.tflite.outliers import outliers, without_outliers
from tests.tiny import PREPROCESSING, photos

FEATURES, CLASSES = 256, 6


@cache
def model(largest: float) -> Any:
    """A classifier of tanh features, with one weight for each class as large as this times the deviation of all."""
    keras.utils.set_random_seed(0)
    image = keras.Input((PREPROCESSING.height_px, PREPROCESSING.width_px, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(FEATURES, 5, strides=3)(image))
    logits = keras.layers.Dense(CLASSES, name="logits")
    made = keras.Model(image, logits(keras.layers.Activation("tanh")(x)), name="model")
    weights = np.random.default_rng(1).normal(0, 0.1, (FEATURES, CLASSES))
    weights[np.arange(CLASSES), np.arange(CLASSES)] = 0.1 * largest
    logits.set_weights([weights, np.linspace(-0.2, 0.2, CLASSES)])
    return made


@cache
def file(largest: float) -> bytes:
    return float_file(model(largest), "int8", preprocessing=PREPROCESSING)


@cache
def int8(*, apart: bool) -> Int8Model:
    return quantize(file(60), photos(32), rules=Int8Rules(outliers_apart=apart), preprocessing=PREPROCESSING)


def dense_weights(int8_tflite: bytes) -> NDArray[np.float64]:
    """What the dense layers of a file add up to, `(out, in)`."""
    found = schema.ModelT.InitFromPackedBuf(int8_tflite)
    codes = [found.operatorCodes[operator.opcodeIndex].builtinCode for operator in found.subgraphs[0].operators]
    dense = zip(found.subgraphs[0].operators, codes, strict=True)
    parts = [constant(found, op.inputs[1]) for op, code in dense if code == schema.BuiltinOperator.FULLY_CONNECTED]
    return np.asarray(sum(parts))


def probabilities(tflite: bytes, photos_u8: NDArray[np.uint8]) -> NDArray[np.float32]:
    run = Interpreter(model_content=tflite).get_signature_runner()
    return np.concatenate([run(image=PREPROCESSING.normalize(each[np.newaxis]))["probabilities"] for each in photos_u8])


def test_a_layer_is_split_and_the_float_model_computes_the_same() -> None:
    split = without_outliers(file(60))
    assert [op.name for op in audit(split).ops][-4:] == ["FULLY_CONNECTED", "FULLY_CONNECTED", "ADD", "SOFTMAX"]
    # Sums of 256 float32 products in another order.
    np.testing.assert_allclose(probabilities(split, photos(16)), probabilities(file(60), photos(16)), atol=1e-5)


def test_the_other_weights_are_no_longer_rounded_to_the_steps_of_the_largest() -> None:
    kernel = model(60).get_layer("logits").get_weights()[0].T
    rounded = [np.std(dense_weights(int8(apart=apart).content) - kernel) for apart in (False, True)]
    # The largest of 255 normal weights is about 3 deviations, where it was 60, and so is the step.
    assert rounded[1] < rounded[0] / 8


def test_in_int8_every_op_is_integer_and_xnnpack_takes_both_layers_and_their_sum(tmp_path: Path) -> None:
    content = int8(apart=True).content
    assert audit(content).integer_only
    (tmp_path / "model.tflite").write_bytes(content)
    assert Counter(load_runtime(tmp_path / "model.tflite", threads=1).left) == {"QUANTIZE": 2, "SOFTMAX": 1}


def test_weights_that_are_much_alike_stay_in_one_layer() -> None:
    assert without_outliers(file(3)) == file(3)


def test_a_recipe_leaves_them_where_they_are() -> None:
    assert Counter(op.name for op in audit(int8(apart=False).content).ops)["FULLY_CONNECTED"] == 1


@pytest.mark.parametrize(("large", "others"), [([8.0], 17), ([-9.0, 9.0], 26)])
def test_the_largest_weights_of_a_row_go_whatever_their_sign(large: list[float], others: int) -> None:
    # Steps of 8 for 18 weights have a variance of 18 · 8², those of 8 for one and 1 for 17 of 8² + 17: 7 % of that.
    weights = np.array([[*large, *np.resize([1.0, -1.0], others)]])
    found = outliers(weights)
    assert found is not None
    np.testing.assert_array_equal(found, np.abs(weights) > 1)


@pytest.mark.parametrize("weights", [np.zeros((2, 8)), np.ones((2, 8)), np.eye(4)], ids=["zeros", "ones", "eye"])
def test_rows_of_which_nothing_is_rounded_or_all_alike_stay_whole(weights: NDArray[np.float64]) -> None:
    assert outliers(weights) is None
