"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(20)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the grocery photos and the ImageNet weights; for tests marked `shared`."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not there")
    return SHARED
