"""A converted model computes what the Keras model computes, from pixels as they are, and always in the same bytes."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.bundle import Precision, Tensor
from edgebcnn.errors import Interrupted, QuantizationError
from edgebcnn.model.keras import tf
from edgebcnn.native import muted_native_stderr
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.tflite.convert import check_pixel_input, int8_source
from tests.tiny import CLASSES, PREPROCESSING, bilinear_cnn, photos, tanh_model, tanh_tflite, tflite

TRIALS = photos(32, seed=1)


@pytest.fixture(scope="module")
def truth() -> NDArray[np.float32]:
    """Keras probabilities of the trials."""
    return np.asarray(tf.nn.softmax(tanh_model()(PREPROCESSING.normalize(TRIALS), training=False)))


def _run(content: bytes, batch: NDArray[Any]) -> NDArray[Any]:
    """Raw outputs, `(n, classes)`, one photo at a time."""
    run = Interpreter(model_content=content).get_signature_runner()
    return np.concatenate([run(image=image[np.newaxis])["probabilities"] for image in batch])


def _constants(content: bytes) -> list[Any]:
    """Tensors of two or more dimensions that are stored in the file."""
    model = schema.ModelT.InitFromPackedBuf(content)
    tensors = model.subgraphs[0].tensors
    return [tensor for tensor in tensors if model.buffers[tensor.buffer].data is not None and len(tensor.shape) > 1]


def test_int8_takes_pixels_and_gives_256ths_though_no_photo_shows_black_or_white() -> None:
    assert 0 < photos(16).min() < photos(16).max() < 255
    found = audit(tanh_tflite("int8"))
    assert found.output == Tensor(dtype="uint8", scale=1 / 256, zero_point=0)
    assert found.input.scale == pytest.approx(1 / 127.5)
    assert found.input.zero_point in (127, 128)
    check_pixel_input(found.input, PREPROCESSING)


def test_int8_input_and_output_are_the_same_less_128() -> None:
    content = int8_source(tanh_model(), preprocessing=PREPROCESSING).quantized(photos(16), io="int8").content
    found = audit(content)
    assert found.integer_only
    assert (found.input.dtype, found.output) == ("int8", Tensor(dtype="int8", scale=1 / 256, zero_point=-128))
    check_pixel_input(found.input, PREPROCESSING)
    outputs = _run(content, (TRIALS.astype(np.int16) - 128).astype(np.int8))
    np.testing.assert_array_equal(outputs.astype(np.int16) + 128, _run(tanh_tflite("int8"), TRIALS))


def test_int8_follows_the_float_model(truth: NDArray[np.float32]) -> None:
    assert truth.max(axis=1).mean() > 0.7, "undecided trials would agree with anything"
    outputs = _run(tanh_tflite("int8"), TRIALS)
    assert (outputs.argmax(axis=1) == truth.argmax(axis=1)).mean() > 0.9
    # One step of a logit near a tie is a dozen steps of its probability; most photos are not near a tie.
    assert np.median(np.abs(outputs - 256 * truth)) <= 2


@pytest.mark.parametrize(("precision", "tolerance"), [("fp16", 0.005), ("float32", 1e-4)])
def test_float_models_take_normalized_images_and_give_probabilities(
    truth: NDArray[np.float32], precision: Precision, tolerance: float
) -> None:
    content = tanh_tflite(precision)
    assert audit(content).input == audit(content).output == Tensor(dtype="float32")
    np.testing.assert_allclose(_run(content, PREPROCESSING.normalize(TRIALS)), truth, atol=tolerance)


def test_fp16_halves_the_weights() -> None:
    stored = {tensor.type for tensor in _constants(tanh_tflite("fp16"))}
    assert schema.TensorType.FLOAT16 in stored
    assert schema.TensorType.FLOAT32 not in stored


def test_convolutions_have_a_scale_for_every_channel() -> None:
    kernels = [tensor for tensor in _constants(tanh_tflite("int8")) if len(tensor.shape) == 4]
    assert [len(kernel.quantization.scale) for kernel in kernels] == [kernel.shape[0] for kernel in kernels]
    assert len(kernels) == 3


def test_the_file_has_one_signature_with_our_names_and_takes_one_photo() -> None:
    interpreter = Interpreter(model_content=tanh_tflite("int8"))
    signatures = interpreter.get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["image"], "outputs": ["probabilities"]}}
    assert interpreter.get_input_details()[0]["shape"].tolist() == [1, 16, 16, 3]
    assert interpreter.get_output_details()[0]["shape"].tolist() == [1, CLASSES]


def test_the_same_model_and_photos_give_the_same_bytes_and_others_do_not() -> None:
    calibration = photos(16)
    seen: list[int] = []
    again = int8_source(tanh_model(), preprocessing=PREPROCESSING).quantized(calibration, advance=seen.append).content
    assert again == tanh_tflite("int8")
    assert sum(seen) == 16, "every photo advances the progress"
    np.testing.assert_array_equal(calibration, photos(16), err_msg="the caller's photos are not to be touched")
    other = int8_source(tanh_model(), preprocessing=PREPROCESSING).quantized(photos(16, seed=9)).content
    assert other != again


def test_an_op_that_tflite_lacks_is_named() -> None:
    with pytest.raises(QuantizationError, match=r"^Sinh has no int8 form in TFLite: "):
        tflite(bilinear_cnn(tf.sinh))


def test_an_op_that_cannot_be_calibrated_is_named() -> None:
    with pytest.raises(QuantizationError, match=r"^RFFT2D has no int8 form in TFLite: "):
        tflite(bilinear_cnn(lambda x: tf.math.real(tf.signal.rfft(x, [6]))))


def test_int8_needs_photos() -> None:
    with pytest.raises(ValueError, match="calibration photos"):
        int8_source(tanh_model(), preprocessing=PREPROCESSING).quantized(photos(0))


def test_whoever_watches_the_progress_can_end_the_work() -> None:
    def stop(done: int) -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted, match="stopped"):
        int8_source(tanh_model(), preprocessing=PREPROCESSING).quantized(photos(4), advance=stop)


def _input_at(preprocessing: Preprocessing) -> Tensor:
    return audit(int8_source(tanh_model(), preprocessing=preprocessing).quantized(photos(4)).content).input


def test_another_normalization_takes_pixels_as_well() -> None:
    preprocessing = PREPROCESSING.model_copy(update={"mean": 0.0, "std": 255.0})
    found = _input_at(preprocessing)
    check_pixel_input(found, preprocessing)
    assert found.zero_point == 0


def test_a_mean_outside_the_pixels_cannot_take_pixels() -> None:
    preprocessing = PREPROCESSING.model_copy(update={"mean": -20.0})
    with pytest.raises(QuantizationError, match=r"pixel 0 would reach the int8 model as -20\.0, .* not -20\.0"):
        check_pixel_input(_input_at(preprocessing), preprocessing)


def test_float_input_takes_no_pixels() -> None:
    with pytest.raises(QuantizationError, match="takes float32 and not pixels"):
        check_pixel_input(Tensor(dtype="float32"), PREPROCESSING)


def test_the_converter_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    tflite(tanh_model())
    assert capfd.readouterr() == ("", "")


def test_progress_is_shown_while_native_code_is_silenced(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(2, "w", closefd=False) as real_stderr:
        monkeypatch.setattr(sys, "stderr", real_stderr)
        with muted_native_stderr():
            os.write(2, b"fully_quantize: 0\n")
            print("16 of 16", file=sys.stderr)
        print("done", file=sys.stderr)
        monkeypatch.undo()
    assert capfd.readouterr().err == "16 of 16\ndone\n"
