"""Opens a run's or a bundle's model by its path and runs inference with it.

A run holds a full and a compact model in Keras, a bundle a model file for each precision. Here they are alike: opened
by a path, asked for probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Label, Precision, is_bundle, open_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import BundleError, RunError
from edgebcnn.images.dataset import Photo
from edgebcnn.model.bcnn import Bcnn, Role
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance
from edgebcnn.train.features import Pictures, PreparedPhotos, run_through
from edgebcnn.train.run_folder import RECORD_NAME, TrainedRun, open_run
from edgebcnn.train.steps import predictor

__all__ = ["OpenedModel", "Role", "open_model"]


@dataclass(frozen=True)
class OpenedModel:
    """A model of any form, ready for inference.

    Attributes:
        name: Path and form, such as `runs/latest (compact)`.
        labels: Products, in the order of its outputs.
        preprocessing: What turns a photo into its input.
        run: The run that it belongs to; None for a bundle that lies outside the run that it was made from.
        bcnn: The Keras model of a run; None for a bundle.
        predict: Probabilities `(n, classes)` float32 of images `(n, h, w, 3)` uint8 RGB.
    """

    name: str
    labels: tuple[Label, ...]
    preprocessing: Preprocessing
    run: TrainedRun | None
    bcnn: Bcnn | None
    predict: Callable[[Pictures, Advance], NDArray[np.float32]]

    def probabilities(self, photos: Sequence[Photo], advance: Advance) -> NDArray[np.float32]:
        """Probabilities of photos, `(n, classes)`.

        Raises:
            UnreadablePhotoError: a photo cannot be read.
        """
        return self.predict(PreparedPhotos(photos, self.preprocessing), advance)


def open_model(path: Path, *, role: Role | None = None, precision: Precision | None = None) -> OpenedModel:
    """Opens a model of a run or of a bundle.

    Args:
        path: Run folder or bundle.
        role: Which model of a run; the compact one by default.
        precision: Which model of a bundle; by default the smallest and fastest that it has.

    Raises:
        RunError: `path` is neither a run nor a bundle, or a run that cannot be used or has no precisions.
        BundleError: the bundle cannot be used, or has no roles.
        DeviceError: no runtime can load the bundle's model.
    """
    if is_bundle(path):
        if role:
            raise BundleError(f"{path} is a bundle: choose among its models by precision, not by role")
        return _of_bundle(path, precision)
    if (path / RECORD_NAME).is_file():
        if precision:
            raise RunError(f"{path} is a run: choose between its models by role, or give its bundle for {precision}")
        return _of_run(path, role or "compact")
    raise RunError(
        f"{path} is neither a run nor a bundle: give a folder that edgebcnn train or edgebcnn export has made"
    )


def _of_run(path: Path, role: Role) -> OpenedModel:
    run = open_run(path)
    bcnn = run.load(role)
    return OpenedModel(
        f"{path} ({role})",
        run.dataset.labels,
        run.preprocessing,
        run,
        bcnn,
        predictor(bcnn),
    )


def _of_bundle(path: Path, precision: Precision | None) -> OpenedModel:
    bundle = open_bundle(path)
    classifier = Classifier.from_bundle(bundle, precision=precision)
    around = path.resolve().parent  # where export puts a bundle by default
    return OpenedModel(
        f"{path} ({classifier.receipt.precision})",
        bundle.labels,
        bundle.manifest.preprocessing,
        open_run(around) if (around / RECORD_NAME).is_file() else None,
        None,
        lambda images, advance: run_through(classifier.probabilities, images, advance),
    )
