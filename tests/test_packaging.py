"""A wheel carries every module and every data file, and asks a device for nothing that only training needs."""

from __future__ import annotations

import email
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from edgebcnn import __version__

ROOT = Path(__file__).parents[1]
PACKED = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "edgebcnn", "devices", "calibration")
PLACES = {"edgebcnn": "edgebcnn", "devices": "edgebcnn/_devices", "calibration": "edgebcnn/_calibration"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of a copy of this tree, because setuptools leaves its traces in the tree that it builds."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in PACKED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip_wheel, "--wheel-dir", built, source], check=True)
    (path,) = built.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def about(wheel: Path) -> Message:
    """The wheel's metadata."""
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"edgebcnn-{__version__}.dist-info/METADATA"))


def test_a_wheel_carries_every_module_and_data_file(wheel: Path) -> None:
    expected = {
        str(place / file.relative_to(ROOT / folder))
        for folder, place in ((folder, Path(place)) for folder, place in PLACES.items())
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected
    assert {"edgebcnn/_devices/cpu.toml", "edgebcnn/_calibration/README.md", "edgebcnn/py.typed"} <= expected


def test_a_wheel_says_its_version_licence_and_python(about: Message) -> None:
    assert (about["Version"], about["License"], about["Requires-Python"]) == (__version__, "Apache-2.0", ">=3.10")


def test_a_device_is_asked_for_nothing_that_only_training_needs(about: Message) -> None:
    base = {line.partition(">")[0] for line in about.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert base == {
        "ai-edge-litert",
        "click",
        "numpy",
        "opencv-python-headless",
        "pydantic",
        "rich",
        "simplejpeg",
        "tomli",
    }
