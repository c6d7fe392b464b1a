"""Chooses the golden photos that a device replays to verify that it computes what the export computed.

Two kinds of held-out photos, chosen by a fixed seed and by the predictions of the models:

- **typical**: one of each product in turn, drawn at random. Accuracy and agreement on them are unbiased.
- **hard**: photos on which the models differ, or nearly do, as many products as there are places. The slightest error
  of a runtime or delegate shows on them first.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import ModelFile, Precision
from edgebcnn.images.dataset import Photo
from edgebcnn.quantize.calibration.photos import deal, lot
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun

MIN_TYPICAL, MAX_TYPICAL = 32, 96
"""One photo for each product within these: enough to show a broken delegate, few enough to travel with the model."""

HARD = 32

_SEED = 0


def golden_photos(
    photos: Sequence[Photo], probabilities: Sequence[NDArray[np.floating]]
) -> tuple[list[int], list[bool]]:
    """Places of the chosen photos, ascending, and whether each is there because it is hard.

    Args:
        photos: All held-out photos.
        probabilities: `(n, k)` of each model on them: full, compact, and the model files.
    """
    typical = _typical(photos)
    hard = _hard(photos, probabilities, without=frozenset(typical))
    chosen = sorted([*typical, *hard])
    return chosen, [place in hard for place in chosen]


def golden_archive(
    run: TrainedRun,
    models: Mapping[Precision, ModelFile],
    references: Mapping[str, NDArray[np.float32]],
    edges: Mapping[Precision, NDArray[np.float32]],
) -> bytes:
    """`golden.npz`, as `docs/bundle.md` describes it.

    Args:
        run: The run, whose held-out photos are chosen from.
        models: The manifest's entries.
        references: Probabilities `(n, k)` of the full and the compact model on the held-out photos.
        edges: Those of the model files.
    """
    held_out = run.dataset.held_out
    places, is_hard = golden_photos(held_out, [*references.values(), *edges.values()])
    photos = [held_out[place] for place in places]
    arrays: dict[str, NDArray[Any]] = {
        "pixels": PreparedPhotos(photos, run.preprocessing)[:],
        "class_ids": np.array([photo.class_id for photo in photos], np.int64),
        "hard": np.array(is_hard, np.bool_),
        **{name: of_model[places] for name, of_model in references.items()},
        **{f"edge_{name}": _as_given(of_model[places], models[name]) for name, of_model in edges.items()},
    }
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]
    return archive.getvalue()


def _typical(photos: Sequence[Photo]) -> list[int]:
    by_product: defaultdict[int, list[int]] = defaultdict(list)
    for place in sorted(range(len(photos)), key=lambda place: lot(_SEED, place)):
        by_product[photos[place].class_id].append(place)
    products = sorted(by_product, key=lambda class_id: lot(_SEED, class_id))
    count = min(max(len(products), MIN_TYPICAL), MAX_TYPICAL)
    return deal([by_product[product] for product in products])[:count]


def _hard(
    photos: Sequence[Photo], probabilities: Sequence[NDArray[np.floating]], *, without: frozenset[int]
) -> frozenset[int]:
    """The hardest photo of each product, beginning with the hardest of all, then the second of each."""
    top1 = np.stack([of_model.argmax(axis=1) for of_model in probabilities])
    differ = (top1 != top1[0]).any(axis=0)
    margin = np.min([_margins(of_model) for of_model in probabilities], axis=0)
    by_product: defaultdict[int, list[int]] = defaultdict(list)
    for place in sorted(set(range(len(photos))) - without, key=lambda place: (not differ[place], margin[place], place)):
        by_product[photos[place].class_id].append(place)
    return frozenset(deal(list(by_product.values()))[:HARD])


def _margins(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """By how much the most probable product is ahead of the next, `(n,)`."""
    if probabilities.shape[1] < 2:
        return np.ones(len(probabilities))
    runner_up, first = np.partition(probabilities, -2, axis=1)[:, -2:].T
    margins: NDArray[np.floating] = first - runner_up
    return margins


def _as_given(probabilities: NDArray[np.float32], model: ModelFile) -> NDArray[Any]:
    """Outputs in the form of the file: float32, or 1/256 as uint8, whether it counts them from 0 or from -128."""
    return probabilities if model.output.dtype == "float32" else np.round(probabilities * 256).astype(np.uint8)
