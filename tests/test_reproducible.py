"""The same run, seed and recipe give the same model files, byte for byte, in another process on other cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgebcnn.bundle import GOLDEN_NAME, Bundle, open_bundle

FLOAT_NOISE = 1e-6  # of a probability: on other cores, TensorFlow may add in another order
FLAGS = ("--int8", "--mixed", "--int16", "--dynamic", "--fp16", "--float32", "--recipe", "quick")


def _exported(shop: Path, output: Path, *, hash_seed: str, cores: set[int]) -> Bundle:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = str(shop / "runs" / "latest")
    command = [sys.executable, "-m", "edgebcnn", "export", run, *FLAGS, "--output", str(output)]
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    assert done.returncode == 0, done.stderr
    return open_bundle(output)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system cannot confine a process to some cores")
def test_two_processes_export_the_same_bytes(shop: Path, tmp_path: Path) -> None:
    cores = os.sched_getaffinity(0)
    first = _exported(shop, tmp_path / "first", hash_seed="1", cores=cores)
    second = _exported(shop, tmp_path / "second", hash_seed="2", cores={min(cores)})
    assert len(first.manifest.models) == 6
    for precision in first.manifest.models:
        assert first.model_path(precision).read_bytes() == second.model_path(precision).read_bytes(), precision
    with np.load(first.path / GOLDEN_NAME) as golden, np.load(second.path / GOLDEN_NAME) as again:
        assert golden.files == again.files
        for name in golden.files:
            in_float = name in ("full", "compact")
            np.testing.assert_allclose(again[name], golden[name], rtol=0, atol=FLOAT_NOISE if in_float else 0)
