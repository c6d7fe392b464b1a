"""An audit finds every op that is not an integer op."""

from __future__ import annotations

from typing import Any

import pytest

from edgebcnn.bundle import ModelFile, Tensor
from edgebcnn.model.keras import tf
from edgebcnn.quantize.inspect.audit import Audit, Op, audit
from tests.tiny import bilinear_cnn, tanh_tflite, tflite


@pytest.fixture(scope="module")
def integer() -> Audit:
    return audit(tanh_tflite("int8"))


@pytest.fixture(scope="module")
def with_sign() -> Audit:
    return audit(tflite(bilinear_cnn(lambda x: tf.sign(x) * tf.sqrt(tf.abs(x)))))


def test_batch_norm_and_tanh_are_integer_throughout(integer: Audit) -> None:
    assert integer.integer_only
    names = [op.name for op in integer.ops]
    assert names[0] == names[-1] == "QUANTIZE", "between uint8 outside and int8 inside"
    assert {"CONV_2D", "MUL", "MEAN", "TANH", "FULLY_CONNECTED", "SOFTMAX"} <= set(names)
    assert integer.summary() == f"{len(names)} ops, all integer"


def test_weights_are_not_counted_as_what_flows(integer: Audit) -> None:
    convolution = next(op for op in integer.ops if op.name == "CONV_2D")
    assert convolution == Op("CONV_2D", ("int8",), ("int8",), constants=("int8", "int32"))


def test_the_proof_names_every_dtype_that_flows_or_lies_in_the_file(integer: Audit, with_sign: Audit) -> None:
    flows = "int8 and uint8 flow, constants are int32 and int8"
    assert integer.proof() == f"{len(integer.ops)} ops, all integer; {flows}"
    assert "; float32 and int8 and uint8 flow, constants are " in with_sign.proof()


def test_a_float_constant_is_a_float() -> None:
    pixels = Tensor(dtype="uint8")
    found = Audit((Op("ADD", ("int8",), ("int8",), constants=("float32",)),), input=pixels, output=pixels)
    assert not found.integer_only


def test_a_sign_is_found_with_the_conversions_around_it(with_sign: Audit) -> None:
    assert not with_sign.integer_only
    assert [op.name for op in with_sign.float_ops] == ["DEQUANTIZE", "SIGN", "QUANTIZE"]
    assert with_sign.summary() == f"{len(with_sign.ops)} ops, 3 not integer (DEQUANTIZE, QUANTIZE, SIGN)"


def test_every_op_that_the_converter_leaves_in_float_is_found() -> None:
    five = bilinear_cnn(lambda x: tf.concat([-x, tf.square(x), tf.nn.elu(x), tf.floor(x), tf.cumsum(x, 1)], 1))
    found = audit(tflite(five))
    assert {"NEG", "SQUARE", "ELU", "FLOOR", "CUMSUM"} <= {op.name for op in found.float_ops}


def test_complex_numbers_are_no_integers() -> None:
    found = audit(tflite(bilinear_cnn(lambda x: tf.math.real(tf.signal.rfft(x, [16])))))
    assert "RFFT2D" in {op.name for op in found.float_ops}


def test_all_of_a_float_model_is_float() -> None:
    found = audit(tanh_tflite("float32"))
    assert found.float_ops == found.ops
    assert found.summary() == f"{len(found.ops)} ops, all in float"


def test_an_op_that_is_there_twice_is_counted() -> None:
    pixels = Tensor(dtype="uint8")
    island = [Op("NEG", ("float32",), ("float32",))] * 2
    found = Audit((Op("ADD", ("int8", "int8"), ("int8",)), *island), input=pixels, output=pixels)
    assert found.summary() == "3 ops, 2 not integer (2 NEG)"


def test_ops_inside_a_loop_are_audited() -> None:
    def doubled_three_times(x: Any) -> Any:
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.sign(y) * 2.0), (0, x))[1]

    found = audit(tflite(bilinear_cnn(doubled_three_times), "float32"))
    assert {"WHILE", "LESS", "SIGN"} <= {op.name for op in found.ops}


def test_the_manifest_gets_what_the_audit_found(integer: Audit, with_sign: Audit) -> None:
    entry = integer.model_file("model.int8.tflite")
    assert entry == ModelFile(
        file="model.int8.tflite",
        input=entry.input,
        output=Tensor(dtype="uint8", scale=1 / 256, zero_point=0),
        integer_only=True,
    )
    assert entry.input.dtype == "uint8"
    assert entry.input.scale == pytest.approx(1 / 127.5)
    marked = with_sign.model_file("model.int8.tflite")
    assert (marked.integer_only, marked.float_ops) == (False, ("DEQUANTIZE", "QUANTIZE", "SIGN"))
