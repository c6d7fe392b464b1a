"""tflite-runtime 2.14 runs what is exported for it, in an environment of its own, and answers alike."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgebcnn.bundle import Precision
from edgebcnn.errors import DeviceError, QuantizationError
from edgebcnn.model.keras import tf
from edgebcnn.quantize.calibration.observe import packed
from edgebcnn.quantize.old_runtime.check import check_known, compared, newest_versions, unknown_ops
from edgebcnn.quantize.tflite.convert import float_file
from tests.tiny import PREPROCESSING, bilinear_cnn, photos, tanh_tflite
from tests.typing_in import typed

FLAGS = ("--int8", "--mixed", "--int16", "--dynamic", "--fp16", "--float32")

ASK = """
import sys
from pathlib import Path
from tflite_runtime.interpreter import Interpreter
for model in sorted(Path(sys.argv[1]).glob("*.tflite")):
    try:
        Interpreter(model_path=str(model))
    except ValueError:
        continue
    print(model.stem)
"""


def _with_op(name: str, version: int) -> bytes:
    """A model file that says that it has one more op."""
    model = schema.ModelT.InitFromPackedBuf(tanh_tflite("float32"))
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), version
    model.operatorCodes.append(code)
    return packed(model)


@pytest.mark.parametrize("precision", ["int8", "fp16", "float32"])
def test_the_old_runtime_knows_every_op(precision: Precision) -> None:
    assert unknown_ops(tanh_tflite(precision)) == []


def test_a_dense_layer_that_it_lacks_is_avoided() -> None:
    wide = bilinear_cnn(lambda x: tf.tanh(tf.repeat(x, 128, axis=1)))  # weights of less than 1024 stay in float
    plain, compatible = (
        float_file(wide, "dynamic", preprocessing=PREPROCESSING, runtime_compat=compatible)
        for compatible in (False, True)
    )
    assert unknown_ops(plain) == ["FULLY_CONNECTED 12 (it knows 10)"]
    assert unknown_ops(compatible) == []


def test_an_op_that_it_lacks_is_one_sentence() -> None:
    assert unknown_ops(_with_op("SQRT", 2)) == ["SQRT 2 (it knows 1)"]
    with pytest.raises(QuantizationError, match=r"cannot run the int8 model, .* know DILATE 1 \(not at all\): "):
        check_known(_with_op("DILATE", 1), "int8")


@pytest.mark.parametrize(
    ("python", "sentence"),
    [
        (Path("nowhere"), r"^nowhere cannot be run \(No such file or directory\): make it with python3\.11 -m venv"),
        (Path(sys.executable), r"No module named 'tflite_runtime'\): make it with "),
    ],
    ids=["no Python", "no runtime"],
)
def test_a_python_without_it_is_one_sentence(python: Path, sentence: str) -> None:
    with pytest.raises(DeviceError, match=sentence):
        compared(tanh_tflite("int8"), photos(1), preprocessing=PREPROCESSING, python=python)


@pytest.fixture(scope="module")
def old_python() -> Iterator[Path]:
    """The Python of an environment with tflite-runtime 2.14, which needs an older NumPy; removed afterwards."""
    with TemporaryDirectory(prefix="tflite-runtime") as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder, "bin", "python")
        packages = ["--disable-pip-version-check", "--retries", "1", "numpy<2", "tflite-runtime==2.14.0"]
        installed = subprocess.run([python, "-m", "pip", "install", *packages], capture_output=True, text=True)
        if installed.returncode:
            pytest.skip(f"pip cannot fetch tflite-runtime: {installed.stderr.strip().splitlines()[-1]}")
        yield python


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_knows_what_our_table_says_and_nothing_newer(old_python: Path, tmp_path: Path) -> None:
    names = [name for name in vars(schema.BuiltinOperator) if not name.startswith("_")]
    names.remove("CUSTOM")  # belongs to nobody
    known = newest_versions()
    for name in names:
        for version in {known.get(name, 1), known.get(name, 0) + 1}:
            (tmp_path / f"{name}-{version}.tflite").write_bytes(_with_op(name, version))
    asked = subprocess.run([old_python, "-c", ASK, tmp_path], capture_output=True, text=True, check=True)
    assert set(asked.stdout.split()) == {f"{name}-{version}" for name, version in known.items()}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_precision_answers_alike_in_both_runtimes(old_python: Path, shop: Path, tmp_path: Path) -> None:
    flags = (*FLAGS, "--recipe", "quick", "--old-python", old_python, "--output", tmp_path / "bundle")
    result = typed(shop, "export", *flags, "--json")
    assert result.exit_code == 0, result.output
    for precision, model in json.loads(result.stdout)["models"].items():
        old = model["old_runtime"]
        assert (old["version"], old["agreement"]["n"]) == ("2.14.0", 36), precision
        assert old["agreement"]["successes"] >= 35, precision
        # Kernels round differently: a step of a logit is a few of a probability. Floats differ by less than one.
        assert old["largest_step"] <= (12 if precision in ("int8", "mixed", "dynamic") else 0.5), precision
