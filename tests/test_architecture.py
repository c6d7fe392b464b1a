"""What runs on a device never needs TensorFlow, and there is one Keras.

`pyproject.toml` says the same as import contracts, which see indirect imports too, and `make base-test` runs a device
without TensorFlow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "edgebcnn"

KERAS = {"keras", "tensorflow", "tf_keras"}
TRAINING_ONLY = KERAS | {"jinja2", "matplotlib", "scipy", "sklearn", "tensorflow_model_optimization"}
TRAINING_FOLDERS = {"cli", "demo", "evaluation", "images", "model", "quantize", "train"}
PAGES = {
    PACKAGE / "report" / "figures.py": {"matplotlib"},
    PACKAGE / "report" / "latency_figure.py": {"matplotlib"},
    PACKAGE / "report" / "page.py": {"jinja2"},
}
"""What these may import; a contract in `pyproject.toml` keeps devices from importing them."""

KERAS_MODULE = PACKAGE / "model" / "keras.py"


def _imports(source: str) -> list[tuple[int, str]]:
    """Line and top-level package of every import in a source text, within functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module.partition(".")[0]))
    return found


def _offenders(files: Iterable[Path], forbidden: set[str]) -> str:
    return "\n".join(
        f"{file.relative_to(ROOT)}:{line} imports {package}"
        for file in sorted(files)
        for line, package in sorted(_imports(file.read_text(encoding="utf-8")))
        if package in forbidden
    )


@pytest.mark.parametrize(
    "line", ["import tensorflow", "import numpy, tensorflow.lite as lite", "from tensorflow.lite import Interpreter"]
)
def test_the_scan_finds_an_import_wherever_it_hides(line: str) -> None:
    assert (4, "tensorflow") in _imports(f"class A:\n    def f(self):\n        if True:\n            {line}\n")


def test_what_runs_on_a_device_never_imports_what_only_training_installs() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).parts[0] not in TRAINING_FOLDERS]
    offenders = _offenders((file for file in files if file not in PAGES), TRAINING_ONLY)
    offenders += "".join(_offenders([file], TRAINING_ONLY - allowed) for file, allowed in PAGES.items())
    assert not offenders, f"do this in train/, quantize/ or model/, or with numpy:\n{offenders}"


def test_one_keras_imported_in_one_module() -> None:
    offenders = _offenders((file for file in PACKAGE.rglob("*.py") if file != KERAS_MODULE), KERAS)
    assert not offenders, f"write `from edgebcnn.model.keras import keras, tf` instead:\n{offenders}"
