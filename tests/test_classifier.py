"""A frame becomes the prediction that the model file means, or the file is refused."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, Label, ModelFile, Precision, write_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.interpreter import split_ops
from edgebcnn.device.profile import load_profile
from edgebcnn.device.runtime import TensorSpec, load_runtime
from edgebcnn.errors import BundleError, DeviceError
from edgebcnn.preprocessing import Preprocessing
from tests.tiny_bundle import COLOURS_BGR, LABELS, coloured, make_tiny_bundle, meant_probabilities

PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "float32")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", PRECISIONS)


def remade(bundle: Bundle, path: Path, *, labels: tuple[Label, ...] = LABELS, **fields: Any) -> Bundle:
    """The same bundle with another manifest or other labels around the same model files."""
    manifest = bundle.manifest.model_copy(update=fields)
    files = {model.file: (bundle.path / model.file).read_bytes() for model in bundle.manifest.models.values()}
    return write_bundle(path, manifest, labels, files)


class FixedRuntime:
    """A model that always answers the same, and remembers what it was asked."""

    name, version = "fixed", "1"
    threads: int | None = 1
    delegate: str | None = None
    adapter: str | None = None
    taken: tuple[str, ...] = ()
    left: tuple[str, ...] = ("FIXED",)

    def __init__(self, output: NDArray[Any], *, input_dtype: str, scale: float = 1.0, zero_point: int = 0) -> None:
        self.input = TensorSpec((1, 8, 8, 3), np.dtype(input_dtype), 1.0, 0)
        self.output = TensorSpec((1, len(output)), output.dtype, scale, zero_point)
        self._output = output
        self.asked: NDArray[Any] = np.empty(0)

    def invoke(self, batch: NDArray[Any]) -> NDArray[Any]:
        self.asked = batch
        return self._output[np.newaxis].copy()

    def classifier(self) -> Classifier:
        labels = [Label(name=str(class_id)) for class_id in range(len(self._output))]
        preprocessing = Preprocessing(height_px=8, width_px=8, mean=100.0, std=50.0)
        return Classifier(self, labels, preprocessing=preprocessing, precision="int8")


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("label", COLOURS_BGR)
def test_a_frame_in_opencvs_colour_order_gets_its_colours_name(
    bundle: Bundle, precision: Precision, label: str, rng: np.random.Generator
) -> None:
    prediction = Classifier.from_bundle(bundle, precision=precision).classify(coloured(label, rng))
    assert prediction.label == label
    assert LABELS[prediction.class_id].name == label
    assert prediction.score == prediction.scores.max()
    assert [product.class_id for product in prediction.top(1)] == [prediction.class_id]


# int8 logits span -12 to 12 in steps of about 0.1, and half a step of logit moves a probability by up to 3 steps of
# 1/256; the zero point, output rounding and two logits off together make 5. XNNPACK sums 1024 pixels in float32.
@pytest.mark.parametrize(("precision", "tolerance"), [("int8", 5 / 256), ("fp16", 1e-3), ("float32", 1e-4)])
def test_probabilities_are_those_that_the_weights_mean(
    bundle: Bundle, precision: Precision, tolerance: float, rng: np.random.Generator
) -> None:
    pixels_rgb = rng.integers(0, 256, (6, 1, 1, 3), dtype=np.uint8).repeat(32, axis=1).repeat(32, axis=2)
    measured = Classifier.from_bundle(bundle, precision=precision).probabilities(pixels_rgb)
    assert measured.shape == (6, 4)
    assert measured.dtype == np.float32
    np.testing.assert_allclose(measured, meant_probabilities(pixels_rgb), atol=tolerance)


def test_one_frame_and_a_batch_give_the_same_probabilities(bundle: Bundle, rng: np.random.Generator) -> None:
    classifier = Classifier.from_bundle(bundle)
    frames = [coloured(label, rng, height_px=90, width_px=70) for label in COLOURS_BGR]
    batch = classifier.probabilities(np.stack([bundle.manifest.preprocessing.apply(frame) for frame in frames]))
    for frame, probabilities in zip(frames, batch, strict=True):
        np.testing.assert_array_equal(classifier.classify(frame).scores, probabilities)


def test_the_lowest_class_id_wins_among_equals() -> None:
    output = np.ones(100, np.uint8)
    output[[17, 60, 80]] = 9
    prediction = FixedRuntime(output, input_dtype="uint8").classifier().classify(np.zeros((8, 8, 3), np.uint8))
    assert prediction.class_id == 17
    assert [product.class_id for product in prediction.top(6)] == [17, 60, 80, 0, 1, 2]


def test_an_int8_output_is_dequantized_without_wrapping_around() -> None:
    runtime = FixedRuntime(np.array([-128, 127], np.int8), input_dtype="int8", scale=1 / 256, zero_point=-128)
    probabilities = runtime.classifier().probabilities(np.zeros((1, 8, 8, 3), np.uint8))
    np.testing.assert_array_equal(probabilities, np.array([[0, 255 / 256]], np.float32))


@pytest.mark.parametrize(
    ("input_dtype", "expected"),
    [("uint8", [0, 100, 255]), ("int8", [-128, -28, 127]), ("float32", [-2.0, 0.0, 3.1])],
)
def test_pixels_reach_each_kind_of_input_as_its_model_expects(input_dtype: str, expected: list[float]) -> None:
    runtime = FixedRuntime(np.zeros(2, np.float32), input_dtype=input_dtype)
    pixels = np.broadcast_to(np.array([0, 100, 255], np.uint8), (1, 8, 8, 3))
    runtime.classifier().probabilities(pixels)
    assert runtime.asked.dtype == input_dtype
    assert runtime.asked.shape == (1, 8, 8, 3)
    np.testing.assert_allclose(runtime.asked[0, 3, 4], expected, rtol=1e-6)


def test_pixels_that_are_not_prepared_are_refused(bundle: Bundle) -> None:
    classifier = Classifier.from_bundle(bundle)
    for pixels in (np.zeros((1, 32, 32, 3), np.float32), np.zeros((1, 31, 32, 3), np.uint8), np.zeros((32, 32, 3))):
        with pytest.raises(ValueError, match="pixels must be uint8"):
            classifier.probabilities(pixels)  # type: ignore[arg-type]


def test_int8_is_preferred_and_the_receipt_says_what_ran(bundle: Bundle, tmp_path: Path) -> None:
    receipt = Classifier.from_bundle(bundle, threads=1).receipt
    assert receipt.precision == "int8"
    assert re.fullmatch(r"LiteRT \d+\.\d+\.\d+ · XNNPACK · 1 thread · [1-4] of 5 ops · int8", str(receipt))
    only_float = make_tiny_bundle(tmp_path / "float", ["float32"])
    assert str(Classifier.from_bundle(only_float, threads=2).receipt).endswith("2 threads · 3 of 3 ops · float32")


@pytest.mark.parametrize("precision", PRECISIONS)
def test_ops_taken_and_left_are_all_ops_of_a_model_without_delegates(bundle: Bundle, precision: Precision) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(
        model_path=str(bundle.model_path(precision)),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    plain.allocate_tensors()
    receipt = Classifier.from_bundle(bundle, precision=precision).receipt
    assert receipt.ops_taken + receipt.ops_left == len(plain._get_ops_details())


def test_delegated_ops_are_named_over_several_parts() -> None:
    def node(name: str, inputs: list[int], outputs: list[int]) -> dict[str, Any]:
        return {"op_name": name, "inputs": inputs, "outputs": outputs}

    chain = [node("CONV_2D", [0, 10], [1]), node("MUL", [1, 1], [2]), node("SIGN", [2], [3]), node("MUL", [3, 2], [4])]
    parts = [node("DELEGATE", [0, 10], [2]), node("DELEGATE", [2, 3], [4])]
    assert split_ops(chain) == ((), ("CONV_2D", "MUL", "SIGN", "MUL"))
    assert split_ops(chain + parts) == (("CONV_2D", "MUL", "MUL"), ("SIGN",))


def test_a_precision_that_the_bundle_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no int8 model, it has float32"):
        Classifier.from_bundle(make_tiny_bundle(tmp_path / "bundle", ["float32"]), precision="int8")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda model: {"labels": LABELS[:3]}, "its output has shape"),
        (lambda model: {"preprocessing": Preprocessing(height_px=48, width_px=32)}, "its input has shape"),
        (lambda model: {"models": {"int8": _changed(model, dtype="int8")}}, "its input has dtype uint8"),
        (lambda model: {"models": {"int8": _changed(model, scale=0.5)}}, "its input has scale 0.0078"),
        (lambda model: {"models": {"int8": _changed(model, zero_point=3)}}, "its input has zero point 127"),
    ],
)
def test_a_file_that_does_not_fit_its_manifest_is_refused(
    bundle: Bundle, tmp_path: Path, change: Callable[[ModelFile], dict[str, Any]], complaint: str
) -> None:
    wrong = remade(bundle, tmp_path / "wrong", **change(bundle.manifest.models["int8"]))
    with pytest.raises(BundleError, match=complaint):
        Classifier.from_bundle(wrong)


def _changed(model: ModelFile, **fields: Any) -> ModelFile:
    return model.model_copy(update={"input": model.input.model_copy(update=fields)})


def test_a_file_that_is_no_model_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    files = {model.file: b"no model" * 100 for model in bundle.manifest.models.values()}
    broken = write_bundle(tmp_path / "broken", bundle.manifest, LABELS, files)
    with pytest.raises(DeviceError, match=r"cannot load .*model\.int8\.tflite"):
        Classifier.from_bundle(broken)


def test_a_model_that_is_too_new_for_the_runtime_is_told_by_its_op(bundle: Bundle, tmp_path: Path) -> None:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    content = bundle.model_path("float32").read_bytes()
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content))
    for code in model.operatorCodes:
        if code.builtinCode == schema.BuiltinOperator.SOFTMAX:
            code.version = 99
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    file = tmp_path / "model.tflite"
    file.write_bytes(builder.Output())
    with pytest.raises(DeviceError, match=r"it has no SOFTMAX of version 99, the model is too new for it; pip install"):
        load_runtime(file)


def test_a_runtime_that_a_profile_names_and_nobody_installed_is_told(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tflite_runtime", None)
    monkeypatch.delitem(sys.modules, "tflite_runtime.interpreter", raising=False)
    with pytest.raises(
        DeviceError, match="tflite-runtime is not installed: pip install tflite-runtime, or use another"
    ):
        load_runtime(bundle.model_path("int8"), load_profile("raspberry-pi-3-armv7"))


def test_a_machine_without_a_runtime_is_told_what_to_install(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, name, None)
        monkeypatch.delitem(sys.modules, f"{name}.interpreter", raising=False)
    with pytest.raises(DeviceError, match="pip install ai-edge-litert"):
        Classifier.from_bundle(bundle)


def test_several_frames_at_once_get_what_each_gets_alone(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    frames = [coloured(label, rng, height_px=40 + 9 * i) for i, label in enumerate(COLOURS_BGR)]
    classifier = Classifier.from_bundle(make_tiny_bundle(tmp_path / "bundle", ["int8"]))
    alone = np.stack([classifier.classify(frame).scores for frame in frames])
    for _ in range(2):  # the first batch is checked photo by photo, the second is not
        assert np.abs(classifier.scores(frames) - alone).max() <= 1 / 256
    assert np.array_equal(classifier.classify(frames[0]).scores, alone[0]), "a batch must leave no trace"
    assert np.array_equal(classifier.scores(frames[:1]), alone[:1])


def test_a_graph_that_computes_other_values_from_a_batch_gets_photos_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = [coloured(label, np.random.default_rng(5)) for label in COLOURS_BGR]
    classifier = Classifier.from_bundle(make_tiny_bundle(tmp_path / "bundle", ["int8"]))
    alone = np.stack([classifier.classify(frame).scores for frame in frames])
    monkeypatch.setattr(
        type(classifier._runtime), "invoke_batch", lambda self, batch: np.zeros((len(batch), 4), np.uint8)
    )
    for _ in range(2):
        assert np.array_equal(classifier.scores(frames), alone)


def test_several_threads_that_ask_one_classifier_each_get_their_own_answer(bundle: Bundle) -> None:
    classifier = Classifier.from_bundle(bundle, precision="float32", threads=1)
    rng = np.random.default_rng(0)
    frames = {name: coloured(name, rng, height_px=32, width_px=32) for name in COLOURS_BGR}

    def wrong(name: str) -> int:
        return sum(classifier.classify(frames[name]).label != name for _ in range(1000))

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(wrong, frames)) == 0
