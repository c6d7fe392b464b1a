"""The device side never needs TensorFlow, one module imports Keras, no import runs in a circle, no folder overflows.

The import contracts in `pyproject.toml` also see indirect imports, and `make base-test` runs the device side without
TensorFlow.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
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

MAX_FILES = 15  # what a reader still takes in at a glance, besides `__init__.py`
LARGER_FOLDERS = {
    ".": "the front door (api, __init__, __main__) beside what all folders share",
    "cli": "one file per command, so that its name is the file's",
    "device": "one file per way to run a model, and one per way to try it first",
}


def _imports(source: str) -> list[tuple[int, str]]:
    """Line and top-level package of every import in a source text, within functions too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name.partition(".")[0]) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.lineno, node.module.partition(".")[0]))
    return found


def _module(file: Path, root: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _import_graph(package: Path) -> dict[str, set[str]]:
    """The modules of a package that each of its modules imports, anywhere in its text.

    Imports of the package itself are left out: it is the front door, which imports what it offers when that is used.
    """
    files = {_module(file, package.parent): file for file in package.rglob("*.py")}
    return {
        module: {name for name in _imported_names(file.read_text(encoding="utf-8"), files) if name != package.name}
        for module, file in files.items()
    }


def _imported_names(source: str, modules: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module and node.module in modules:
            members = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (member if member in modules else node.module for member in members)


def _cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """One circle of imports; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


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


def test_the_search_for_circles_finds_one_that_hides_in_a_function(tmp_path: Path) -> None:
    package = tmp_path / "toy"
    (package / "room").mkdir(parents=True)
    (package / "__init__.py").write_text("from toy.a import f\n")
    (package / "a.py").write_text("from toy import __version__\nfrom toy.room import b\n")
    (package / "room" / "__init__.py").write_text("")
    (package / "room" / "b.py").write_text("from toy.c import g\n")
    (package / "c.py").write_text("import math\n")
    assert _cycle(_import_graph(package)) == []
    (package / "c.py").write_text("def g():\n    import toy.a\n")
    assert set(_cycle(_import_graph(package))) == {"toy.a", "toy.room.b", "toy.c"}


def test_no_import_runs_in_a_circle() -> None:
    circle = _cycle(_import_graph(PACKAGE))
    assert not circle, "move what both need into a third module: " + " -> ".join(circle)


def test_no_folder_holds_more_files_than_a_reader_takes_in() -> None:
    folders = {file.parent for file in PACKAGE.rglob("*.py")}
    counts = {str(folder.relative_to(PACKAGE)): len(list(folder.glob("*.py"))) - 1 for folder in sorted(folders)}
    larger = {folder: count for folder, count in counts.items() if count > MAX_FILES}
    assert set(larger) <= set(LARGER_FOLDERS), f"split a folder of more than {MAX_FILES} files: {larger}"
