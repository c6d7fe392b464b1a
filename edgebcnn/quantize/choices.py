"""Defines the options of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebcnn.bundle import Precision
from edgebcnn.quantize.calibration.recipe import Recipe
from edgebcnn.quantize.tflite.int8 import QuantizedIo


@dataclass(frozen=True)
class ExportChoices:
    """Which model files to make of a run, how, and what to accept of them.

    Attributes:
        precisions: Model files to make.
        recipe: How calibration photos and ranges for int8 are chosen, and what a model file may lose.
        captured: Folder of photos to calibrate on in place of training photos.
        io: What int8 and mixed files take and give.
        qat_epochs: How long int8 and mixed files are fine-tuned after calibration; 0 leaves them as calibrated.
        runtime_compat: Make files that tflite-runtime 2.14 runs, or none.
        old_python: The Python of an environment with tflite-runtime 2.14, to compare predictions on held-out photos.
        with_full: Put the full model into the bundle as well, in float, for `run --shadow`.
        allow_float: Accept an int8 file that keeps ops in float.
        accept_drop: Write the bundle even if the accuracy loss is above the limits; its report records that.
    """

    precisions: Sequence[Precision]
    recipe: Recipe
    captured: Path | None = None
    io: QuantizedIo = "uint8"
    qat_epochs: int = 0
    runtime_compat: bool = False
    old_python: Path | None = None
    with_full: bool = False
    allow_float: bool = False
    accept_drop: bool = False
