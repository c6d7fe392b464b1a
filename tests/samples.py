"""Frames to keep that nobody took; `python -m tests.samples DIR MAX_BYTES` keeps such until it is killed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.field.record import Record, encoded
from edgebcnn.field.sample import SampleFolder

DIGEST = "0123456789abcdef" * 4


def record(name: str = "5f-0", **changes: Any) -> Record:
    """The record of one frame."""
    known = {"bundle": DIGEST, "precision": "int8", "rate": 1.0, "boost": 1.0, "draw": 0.5, "class_id": 2}
    said = {"label": "Bløk", "score": 0.9, "time": "2025-03-01T09:30:00.125Z", "source": "shelf.avi", "frame": 7}
    return Record(**{"id": name, **known, **said, "photo": None, "truth": None, **changes})


def noise(rng: np.random.Generator, size_px: int = 64) -> NDArray[np.uint8]:
    """A picture that no file format makes smaller."""
    return rng.integers(0, 256, (size_px, size_px, 3), np.uint8)


def fill(path: Path, max_bytes: int) -> None:
    """Keeps frames of random boosts for ever, and prints id and rank of each one once it is kept."""
    folder = SampleFolder(path, bundle_digest=DIGEST, max_bytes=max_bytes)
    rng = np.random.default_rng()
    run = rng.bytes(6).hex()
    print("ready", flush=True)
    for number in range(10**9):
        drawn = record(f"{run}-{number}", draw=float(rng.random()), boost=float(1 + 8 * rng.random()))
        if folder.add(drawn, encoded(drawn, noise(rng))):
            print(drawn.id, drawn.rank, flush=True)


if __name__ == "__main__":
    fill(Path(sys.argv[1]), int(sys.argv[2]))
