"""A model file that crashes the runtime ends a process of its own and never this one; what passed is remembered."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgebcnn.bundle import Bundle, write_bundle
from edgebcnn.device import admission
from edgebcnn.device.admission import admit
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.profile import load_profile
from edgebcnn.errors import BundleError, DeviceError, EdgebcnnError
from tests.tiny_bundle import LABELS, make_tiny_bundle, tiny_model
from tests.typing_in import typed

CRASHING_WORDS = (1024, 1036, 1120, 1132, 1392, 1408)
"""Where a huge offset crashes the interpreter, in the tiny model that TensorFlow 2.21 converts."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model.tflite").write_bytes(tiny_model("int8"))
    return tmp_path / "model.tflite"


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Each process that was started to try a model."""
    started: list[Any] = []
    run = subprocess.run

    def counted(*arguments: Any, **options: Any) -> Any:
        if admission.__name__ in arguments[0]:
            started.append(arguments)
        return run(*arguments, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return started


def mutated(bundle: Bundle, path: Path, word: int) -> Bundle:
    """The bundle with a huge number in one word of its model, and every digest made right."""
    manifest = bundle.manifest.model_copy(update={"models": {"int8": bundle.manifest.models["int8"]}})
    content = bytearray(tiny_model("int8"))
    content[word : word + 4] = (0x7FFFFFFF).to_bytes(4, "little")
    files = {manifest.models["int8"].file: bytes(content), "golden.npz": (bundle.path / "golden.npz").read_bytes()}
    return write_bundle(path, manifest, LABELS, files)


def crashing_runtime(folder: Path, end: str) -> dict[str, str]:
    """An environment in which the runtime ends its process when it loads a model."""
    package = folder / "runtime" / "ai_edge_litert"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '0'\n")
    (package / "interpreter.py").write_text(f"import os, time\n\n\ndef Interpreter(**_):\n    {end}\n")
    path = os.pathsep.join((str(package.parent), str(Path(admission.__file__).parents[2])))
    return {**os.environ, "PYTHONPATH": path}


def test_a_mutated_model_is_a_bundle_error_of_the_command_and_ends_no_process(tmp_path: Path) -> None:
    whole = make_tiny_bundle(tmp_path / "whole")
    said = []
    for word in CRASHING_WORDS[:3]:
        bundle = mutated(whole, tmp_path / f"at-{word}", word)
        with pytest.raises(EdgebcnnError) as refused:
            Classifier.from_bundle(bundle)
        said.append(str(refused.value))
    assert all("model.int8.tflite" in sentence for sentence in said)
    cv2.imwrite(str(tmp_path / "photo.png"), np.zeros((48, 48, 3), np.uint8))
    result = typed(
        tmp_path, "run", "--bundle", tmp_path / f"at-{CRASHING_WORDS[0]}", "--camera", tmp_path / "photo.png"
    )
    assert result.exit_code in (BundleError.exit_code, DeviceError.exit_code)


@pytest.mark.parametrize(
    ("end", "error", "reason"),
    [
        ("os.abort()", BundleError, r"crashed the process \(SIGABRT\).*copy the bundle again"),
        ("os.kill(os.getpid(), 11)", BundleError, r"crashed the process \(SIGSEGV\)"),
        ("os._exit(7)", BundleError, "ended the process with exit code 7"),
        ("raise ValueError('not a flatbuffer')", DeviceError, "cannot load .*not a flatbuffer"),
        ("raise TypeError('no such type')", BundleError, r"cannot be run \(no such type\)"),
        ("time.sleep(60)", DeviceError, "did not load and run within"),
    ],
)
def test_whatever_a_model_does_to_its_process_is_one_sentence(
    end: str, error: type[EdgebcnnError], reason: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = crashing_runtime(tmp_path, end)
    monkeypatch.setattr(admission, "own_environment", lambda: environment)
    monkeypatch.setattr(admission, "TIMEOUT_S", 5.0 if "sleep" in end else 60.0)
    with pytest.raises(error, match=reason):
        admit(model)


def test_what_passed_is_tried_once_for_its_bytes_profile_and_threads(model: Path, tries: list[Any]) -> None:
    for _ in range(2):
        admit(model)
    assert len(tries) == 1
    admit(model, load_profile("cpu"), threads=1)
    assert len(tries) == 2
    model.write_bytes(model.read_bytes() + b"\0")
    admit(model)
    assert len(tries) == 3


def test_what_failed_is_tried_again(model: Path, tries: list[Any]) -> None:
    model.write_bytes(b"\0" * 100)
    for _ in range(2):
        with pytest.raises(EdgebcnnError, match="model"):
            admit(model)
    assert len(tries) == 2


def test_without_a_cache_each_load_is_tried(
    model: Path, cache: Path, tries: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file where the folder belongs")
    for _ in range(2):
        admit(model)
    assert len(tries) == 2
