"""What every test may ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.blocks import QUICK, draw_blocks
from tests.chromium import chromium
from tests.made_once import made_once
from tests.typing_in import typed

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20)


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 64 KiB, or of the size that is given as parameter."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = f"size={getattr(request, 'param', '64k')}"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)  # TensorFlow keeps a file open


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the grocery photos and the ImageNet weights; for tests marked `shared`."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    return SHARED


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with `data/`, in which train and export were typed; tests leave it as it is."""
    return made_once(tmp_path_factory, "shop", _open_shop)


def _open_shop(folder: Path) -> None:
    draw_blocks(folder / "data", per_product={"train": 24, "val": 8, "test": 12})
    for command in (["train", *QUICK], ["export", "--int8", "--fp16", "--float32"]):
        result = typed(folder, *command)
        assert result.exit_code == 0, result.stderr


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a real demo; minutes, for tests marked `slow`.

    Where `EDGEBCNN_DEMO` names a folder, as `.ci/run` does after `make demo`, it is that one.
    """
    if given := os.environ.get("EDGEBCNN_DEMO"):
        return Path(given)
    return made_once(tmp_path_factory, "demo", _type_demo)


def _type_demo(folder: Path) -> None:
    # A process of its own, because the demo says how much memory it took.
    command = [sys.executable, "-m", "edgebcnn", "demo", "--output", str(folder)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium; tests that ask for it are skipped where there is none."""
    with chromium() as opened:
        yield opened
