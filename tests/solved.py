"""A finished run without training: random features tell colours apart, and the classifier on them is least squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.images.dataset import ProductDataset
from edgebcnn.model.bcnn import Bcnn, Role, build
from edgebcnn.model.keras import keras
from edgebcnn.train.claim import created, point_latest_at
from edgebcnn.train.config import TrainConfig
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import RunRecord, TrainedRun, open_run, write_photos, write_record, write_weights

ROLES: tuple[Role, ...] = ("full", "compact")


def solved_run(path: Path, dataset: ProductDataset, **choices: Any) -> TrainedRun:
    """Makes a run of the small network in `path`.

    Args:
        path: The run's folder.
        dataset: Photos whose products differ in colour.
        choices: Fields of `TrainConfig` that differ from the smallest run.
    """
    shape = {"streams": "small", "pooling": "hadamard", "input_px": 32}
    config = TrainConfig(data=str(dataset.origin), weights="none", **{**shape, **choices})
    with created(path) as part:
        write_photos(part, dataset)
        write_record(part, RunRecord(config=config, labels=dataset.labels, state="finished"))
    point_latest_at(path)
    draft = TrainedRun(path, config, dataset, "finished")
    images = draft.preprocessing.normalize(PreparedPhotos(dataset.train, draft.preprocessing)[:])
    targets = np.eye(len(dataset.labels))[[photo.class_id for photo in dataset.train]]
    keras.utils.set_random_seed(0)
    for role in ROLES:
        bcnn = build(draft.architecture(role))
        _solve(bcnn, images, targets)
        write_weights(path, role, bcnn)
    return open_run(path)


def _solve(bcnn: Bcnn, images: NDArray[np.float32], targets: NDArray[np.float64]) -> None:
    def outputs(layer: str) -> NDArray[np.float32]:
        return np.asarray(keras.Model(bcnn.model.input, bcnn.model.get_layer(layer).output)(images))

    if bcnn.architecture.tail == "tanh":
        pooled = outputs("hadamard_product")
        size = pooled.shape[1]
        moments = [pooled.mean(axis=0), pooled.var(axis=0)]
        bcnn.model.get_layer("tail_BN").set_weights([np.ones(size), np.zeros(size), *moments])
    inputs = np.column_stack([outputs("dropout"), np.ones(len(images))])
    solution, *_ = np.linalg.lstsq(inputs, 8 * targets, rcond=None)
    bcnn.model.get_layer("logits").set_weights([solution[:-1], solution[-1]])
