"""The same run, seed and recipe give the same model files, byte for byte, in another process on other cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgebcnn.bundle import Bundle, open_bundle

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
    assert first.digest == second.digest, "nor does anything else of the bundle differ"
