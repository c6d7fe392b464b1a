"""What takes long to make is made once in a run of pytest, and shared by its workers."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

WORKER = "PYTEST_XDIST_WORKER"
"""pytest-xdist sets it in its workers, whose temporary folders lie beside each other."""


def made_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` that `make` filled, in this worker or in another, which this one then waited for.

    Args:
        folders: pytest's own.
        name: Of the folder.
        make: Fills an empty folder. What it leaves when it fails is removed, so that the next worker tries again.
    """
    base = folders.getbasetemp()
    folder = (base.parent if WORKER in os.environ else base) / f"made_once-{name}"
    made = folder.with_suffix(".made")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
