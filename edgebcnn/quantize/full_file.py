"""Converts the full model to a float32 `.tflite` file of the bundle, for comparison on the device."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import FULL_NAME, Bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.runtime import load_runtime
from edgebcnn.device.selftest import difference
from edgebcnn.errors import QuantizationError
from edgebcnn.model.bcnn import Bcnn, folded
from edgebcnn.progress import Reporter
from edgebcnn.quantize.inspect.audit import audit
from edgebcnn.quantize.model_files import MadeFile
from edgebcnn.quantize.tflite.convert import float_file
from edgebcnn.quantize.tflite.metadata import with_metadata
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun

MAX_COMPARED = 64  # held-out photos on which the file is compared with the model


def full_file(run: TrainedRun, full: Bcnn, *, runtime_compat: bool, reporter: Reporter) -> MadeFile:
    """The full model of a run as a model file, with its metadata.

    Raises:
        QuantizationError: TFLite has no op for a part of it.
    """
    size = run.preprocessing
    with reporter.progress("converting the full model", 0):
        model = folded(full, height_px=size.height_px, width_px=size.width_px)
        content = float_file(model, "float32", preprocessing=size, runtime_compat=runtime_compat)
    content = with_metadata(content, name=f"{run.name} (full)", labels=run.dataset.labels, preprocessing=size)
    return MadeFile(content, audit(content))


def check_full_file(run: TrainedRun, draft: Bundle, full: NDArray[np.float32], reporter: Reporter) -> None:
    """Checks the file in a bundle against the predictions `(n, k)` of the Keras model on the held-out photos.

    Raises:
        QuantizationError: their predictions differ.
    """
    places = range(0, len(full), -(-len(full) // MAX_COMPARED))
    pixels = PreparedPhotos([run.dataset.held_out[place] for place in places], run.preprocessing)[:]
    runtime = load_runtime(draft.path / FULL_NAME)
    model = Classifier(runtime, draft.labels, preprocessing=run.preprocessing, precision="float32")
    with reporter.progress("full.tflite on held-out photos", 0):
        found = difference(model.probabilities(pixels), full[list(places)])
    if not found.is_rounding:
        raise QuantizationError(f"{FULL_NAME} and the full model predict differently ({found}): please report this bug")
