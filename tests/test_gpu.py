"""A model runs on the GPU alone, or one sentence says why it does not.

Most of this needs a GPU that the CPU plays. It is SwiftShader, which Debian's Chromium brings along; elsewhere
`tests/software_gpu.sh` fetches it and runs this file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn import __version__
from edgebcnn.bundle import GOLDEN_NAME, SCHEMA_VERSION, Bundle, Manifest, ModelFile, Precision, Tensor, write_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.delegate import Policy, open_classifier, try_delegate
from edgebcnn.device.profile import DeviceProfile, GpuSettings
from edgebcnn.device.selftest import read_golden
from edgebcnn.device.trial import try_model
from edgebcnn.device.vulkan import SWIFTSHADER, find_adapters
from edgebcnn.errors import DeviceError
from edgebcnn.preprocessing import Preprocessing
from tests.tiny_bundle import INPUT_PX, LABELS, make_tiny_bundle

CHROMIUMS_GPU = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
DRIVER_VARIABLES = ("VK_ICD_FILENAMES", "VK_DRIVER_FILES")
PRECISIONS: tuple[Precision, ...] = ("int8", "fp16", "float32")
PREPROCESSING = Preprocessing(height_px=INPUT_PX, width_px=INPUT_PX)


def gpu(*, software_adapter: bool = True, enforce_f32: bool = False) -> DeviceProfile:
    return DeviceProfile(
        name="gpu",
        description="Any GPU.",
        runtime="litert",
        delegate="gpu",
        precision="fp16",
        gpu=GpuSettings(software_adapter=software_adapter, enforce_f32=enforce_f32),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", PRECISIONS)


@pytest.fixture
def software_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """SwiftShader as the only GPU; skips where neither Vulkan nor the folder of Debian's Chromium has it."""
    if not sees_swiftshader_alone() and CHROMIUMS_GPU.exists():
        for variable in DRIVER_VARIABLES:
            monkeypatch.setenv(variable, str(CHROMIUMS_GPU))
    if not sees_swiftshader_alone():
        pytest.skip("no SwiftShader: apt install chromium libvulkan1, or run tests/software_gpu.sh")


def sees_swiftshader_alone() -> bool:
    return _sees_swiftshader_alone(*(os.environ.get(variable) for variable in DRIVER_VARIABLES))


@cache
def _sees_swiftshader_alone(*drivers: str | None) -> bool:
    adapters = find_adapters()
    return bool(adapters) and all(SWIFTSHADER in adapter.name for adapter in adapters)


def bundle_of(path: Path, compute: Callable[[Any], Any]) -> Bundle:
    """A float32 bundle of that TensorFlow function, image to probabilities."""
    import tensorflow as tf

    signature = [tf.TensorSpec((1, INPUT_PX, INPUT_PX, 3), tf.float32, name="image")]
    function = tf.function(lambda image: {"probabilities": compute(image)}, input_signature=signature)
    module = tf.Module()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], module)
    return bundle_around(path, converter.convert(), "float32")


def bundle_around(path: Path, content: bytes, precision: Precision) -> Bundle:
    """A bundle with that model file, and as golden what the CPU computes for random photos."""
    dtype: Any = "uint8" if precision == "int8" else "float32"
    model = ModelFile(
        file=f"model.{precision}.tflite",
        input=Tensor(dtype=dtype),
        output=Tensor(dtype=dtype),
        integer_only=precision == "int8",
    )
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        name="gpu",
        edgebcnn_version=__version__,
        architecture={},
        preprocessing=PREPROCESSING,
        models={precision: model},
        tools={},
    )
    pixels = random_pixels(6)
    without_golden = write_bundle(path, manifest, LABELS, {model.file: content})
    outputs = Classifier.from_bundle(without_golden).probabilities(pixels)
    archive = io.BytesIO()
    arrays: dict[str, Any] = {"full": outputs, f"edge_{precision}": outputs}
    np.savez(archive, pixels=pixels, class_ids=outputs.argmax(axis=1), **arrays)
    return write_bundle(path, manifest, LABELS, {model.file: content, GOLDEN_NAME: archive.getvalue()})


def bundle_with_head(path: Path, pooling: Any, rank: int | None, tail: Any, precision: Precision) -> Bundle:
    """A bundle of an untrained compact model with that head."""
    from edgebcnn.model.bcnn import Architecture, build, folded
    from edgebcnn.quantize.tflite.convert import float_file, int8_source

    bcnn = build(Architecture(streams="small", pooling=pooling, rank=rank, tail=tail, classes=len(LABELS)))
    model = folded(bcnn, height_px=INPUT_PX, width_px=INPUT_PX)
    if precision == "int8":
        content = int8_source(model, preprocessing=PREPROCESSING).quantized(random_pixels(8)).content
    else:
        content = float_file(model, precision, preprocessing=PREPROCESSING)
    return bundle_around(path, content, precision)


def random_pixels(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (n, INPUT_PX, INPUT_PX, 3), dtype=np.uint8)


def test_a_machine_without_a_gpu_is_told_so_and_the_cpu_may_take_over(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in DRIVER_VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path / "no_driver.json"))
    with pytest.raises(DeviceError, match="LiteRT finds no GPU: install the GPU's Vulkan driver"):
        open_classifier(bundle, gpu())
    receipt = open_classifier(bundle, gpu(), policy=Policy(allow_cpu_fallback=True)).receipt
    assert receipt.delegate == "XNNPACK"
    assert "CPU FALLBACK: LiteRT finds no GPU" in str(receipt)


@pytest.mark.usefixtures("software_gpu")
@pytest.mark.parametrize("enforce_f32", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_gpu_answers_as_the_cpu_does(bundle: Bundle, precision: Precision, enforce_f32: bool) -> None:
    found = try_delegate(bundle, gpu(enforce_f32=enforce_f32), read_golden(bundle, precision), precision=precision)
    assert found.problem is None
    receipt = found.trial.receipt
    assert (receipt.delegate, receipt.threads, receipt.ops_left) == ("GPU", None, 0)
    assert receipt.adapter is not None
    assert "SwiftShader" in receipt.adapter
    assert receipt.adapter.endswith("Vulkan, software")


@pytest.mark.usefixtures("software_gpu")
def test_a_gpu_that_the_cpu_plays_is_refused_unless_it_is_asked_for(bundle: Bundle) -> None:
    with pytest.raises(DeviceError, match=r"the only GPU here is SwiftShader.*which the CPU plays"):
        open_classifier(bundle, gpu(software_adapter=False))


@pytest.mark.usefixtures("software_gpu")
def test_an_op_that_the_gpu_rejects_is_named(tmp_path: Path) -> None:
    import tensorflow as tf

    norm = bundle_of(
        tmp_path / "norm", lambda image: tf.nn.l2_normalize(tf.reduce_mean(image, (1, 2)) @ np.ones((3, 4), "f4"), -1)
    )
    with pytest.raises(DeviceError, match=r"the GPU rejects ops of .*\(L2_NORMALIZATION: .*\): export without them"):
        try_model(norm, gpu(), precision="float32")


@pytest.mark.usefixtures("software_gpu")
def test_a_graph_that_aborts_the_process_costs_a_sentence(tmp_path: Path) -> None:
    import tensorflow as tf

    def gram(image: Any) -> Any:
        rows = tf.reshape(image[:, :, :, :2], (1, -1, 2))
        return tf.reshape(tf.matmul(rows, rows, transpose_a=True), (1, 4))

    with pytest.raises(DeviceError, match=r"the GPU ended its process .*already a consumer.*: use the profile cpu"):
        try_model(bundle_of(tmp_path / "gram", gram), gpu(), precision="float32")


@pytest.mark.slow
@pytest.mark.usefixtures("software_gpu")
@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize(
    ("pooling", "rank", "tail"),
    [
        ("hadamard", 16, "tanh"),
        ("quadratic", 16, "tanh"),
        ("projected", 8, "tanh"),
        ("maclaurin", 16, "tanh"),
        ("lrbc", 8, "none"),
        ("gap", None, "none"),
    ],
)
def test_the_gpu_takes_a_compact_head_whole(
    tmp_path: Path, pooling: Any, rank: int | None, tail: Any, precision: Precision
) -> None:
    head = bundle_with_head(tmp_path / "head", pooling, rank, tail, precision)
    found = try_delegate(head, gpu(), read_golden(head, precision), precision=precision, calls=0)
    assert found.problem is None
    assert found.trial.receipt.ops_left == 0
    assert np.isfinite(found.trial.outputs).all()


@pytest.mark.slow
@pytest.mark.usefixtures("software_gpu")
@pytest.mark.parametrize("tail", ["l2", "sqrt"])
def test_a_tail_with_a_norm_is_not_for_the_gpu(tmp_path: Path, tail: Any) -> None:
    head = bundle_with_head(tmp_path / "head", "hadamard", 16, tail, "fp16")
    with pytest.raises(DeviceError, match=r"\(L2_NORMALIZATION: Operation is not supported"):
        try_model(head, gpu(), precision="fp16")
