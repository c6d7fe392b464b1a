"""Measures which frames the camera loop skips, and what the model would have predicted for them.

    python benchmarks/frame_quality.py RUN

Takes held-out photos of a run, puts them out of focus, shakes, darkens and overexposes them, and prints for each kind
and strength the model's accuracy on all of them, and the share that `edgebcnn run` refuses by its default limits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import open_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.loop.quality import SIDE_PX, FrameCheck, FrameLimits
from edgebcnn.preprocessing import read_photo
from edgebcnn.sources.frames import Frame

Photo = NDArray[np.uint8]
SENSOR_NOISE = 1.5  # grey levels, of a frame in the dark
SEED = 0


def defocused(photo: Photo, sigma_px: float) -> Photo:
    """Out of focus, by `sigma_px` where the shorter side has `SIDE_PX`."""
    return np.asarray(cv2.GaussianBlur(photo, (0, 0), sigma_px * _scale(photo)), np.uint8)


def shaken(photo: Photo, length_px: float) -> Photo:
    """Moved sideways during the exposure, by `length_px` where the shorter side has `SIDE_PX`."""
    return np.asarray(cv2.blur(photo, (max(1, round(length_px * _scale(photo))), 1)), np.uint8)


def exposed(photo: Photo, factor: float) -> Photo:
    """Exposed `factor` times as long; with a sensor's noise where that is shorter."""
    noise = np.random.default_rng(SEED).normal(0, SENSOR_NOISE if factor < 1 else 0, photo.shape)
    return np.clip(photo.astype(np.float32) * factor + noise + 0.5, 0, 255).astype(np.uint8)


KINDS: dict[str, tuple[Callable[[Photo, float], Photo], tuple[float, ...]]] = {
    "out of focus, px": (defocused, (1, 1.5, 2, 3, 4, 6)),
    "shaken, px": (shaken, (5, 9, 15, 25)),
    "exposure, times": (exposed, (0.03, 0.06, 0.12, 0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 10)),
}


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--limit", type=int, default=300, show_default=True, help="Photos, chosen by chance.")
def main(run: Path, limit: int) -> None:
    """Judges degraded held-out photos of RUN."""
    from edgebcnn.train.run_folder import open_run

    classifier = Classifier.from_bundle(open_bundle(run / "bundle"))
    held_out = open_run(run).dataset.held_out
    chosen = np.random.default_rng(SEED).permutation(len(held_out))[:limit]
    photos = [(read_photo(held_out[number].path), held_out[number].class_id) for number in chosen]
    print(f"{'':18}{'strength':>10}{'accuracy':>10}{'refused':>10}   of {len(photos)} photos")
    for kind, (degrade, strengths) in KINDS.items():
        for strength in strengths:
            right = refused = 0
            for photo, class_id in photos:
                frame = degrade(photo, strength)
                right += classifier.classify(frame).class_id == class_id
                refused += FrameCheck(FrameLimits()).fault(Frame(0, frame, 0.0), 0.0) is not None
            print(f"{kind:18}{strength:10g}{right / len(photos):10.1%}{refused / len(photos):10.1%}")


def _scale(photo: Photo) -> float:
    return max(1.0, min(photo.shape[:2]) / SIDE_PX)


if __name__ == "__main__":
    main()
