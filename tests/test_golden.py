"""Golden photos show every product, and those on which an error shows first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.bundle import open_bundle
from edgebcnn.images.dataset import Photo
from edgebcnn.quantize.golden_photos import HARD, MAX_TYPICAL, MIN_TYPICAL, golden_photos

CLASSES = 4


def _photos(count: int, *, per_product: int) -> list[Photo]:
    return [Photo(Path(str(i)), i // per_product) for i in range(count)]


def _sure(count: int) -> NDArray[np.float32]:
    """Probabilities of a model that is sure of the first class, `(count, CLASSES)`."""
    return np.tile(np.array([0.97, 0.01, 0.01, 0.01], np.float32), (count, 1))


def _chosen(photos: list[Photo], *models: NDArray[np.float32]) -> tuple[list[int], list[int]]:
    """Typical and hard places."""
    places, is_hard = golden_photos(photos, models or [_sure(len(photos))] * 2)
    assert places == sorted(set(places))
    typical = [place for place, hard in zip(places, is_hard, strict=True) if not hard]
    return typical, [place for place, hard in zip(places, is_hard, strict=True) if hard]


def test_every_product_is_shown() -> None:
    photos = _photos(400, per_product=5)
    typical, hard = _chosen(photos)
    assert [photos[place].class_id for place in typical] == list(range(80))
    assert len(hard) == HARD


@pytest.mark.parametrize(("products", "count"), [(4, MIN_TYPICAL), (200, MAX_TYPICAL)])
def test_there_are_neither_too_few_nor_too_many(products: int, count: int) -> None:
    photos = _photos(2000, per_product=2000 // products)
    typical, _ = _chosen(photos)
    shown = [sum(photos[place].class_id == product for place in typical) for product in range(products)]
    assert len(typical) == count
    assert max(shown) - min(shown) <= 1


def test_photos_on_which_the_models_differ_are_hard_and_then_those_nearly_undecided() -> None:
    photos = _photos(600, per_product=10)
    typical, _ = _chosen(photos)
    first = [next(place for place in range(10 * i, 600) if place not in typical) for i in range(60)]
    differing, undecided = first[:10], first[30:40]
    full, edge = _sure(600), _sure(600)
    edge[differing] = np.roll(edge[differing], 1, axis=1)
    full[undecided] = [0.4, 0.39, 0.2, 0.01]
    assert {*differing, *undecided} <= set(_chosen(photos, full, edge)[1])


def test_hard_photos_of_one_product_do_not_crowd_out_the_others() -> None:
    photos = _photos(600, per_product=10)
    full, edge = _sure(600), _sure(600)
    edge[100:110] = np.roll(edge[100:110], 1, axis=1)
    _, hard = _chosen(photos, full, edge)
    assert len({photos[place].class_id for place in hard}) == HARD


def test_of_a_few_photos_all_are_taken() -> None:
    assert golden_photos(_photos(5, per_product=2), [_sure(5)]) == ([0, 1, 2, 3, 4], [False] * 5)


def test_the_choice_is_the_same_on_every_machine_and_with_every_version() -> None:
    typical, hard = _chosen(_photos(300, per_product=3))
    assert typical[:12] == [2, 4, 7, 9, 14, 15, 20, 21, 25, 29, 31, 33]
    assert hard[:12] == [0, 3, 6, 10, 12, 16, 18, 22, 24, 27, 30, 34]


def test_the_archive_says_which_photos_are_hard(shop: Path) -> None:
    bundle = open_bundle(shop / "runs" / "latest" / "bundle")
    with np.load(bundle.path / "golden.npz") as archive:
        golden: dict[str, NDArray[Any]] = dict(archive)
    assert (str(golden["hard"].dtype), len(golden["hard"])) == ("bool", 36)
    assert golden["hard"].sum() == 36 - MIN_TYPICAL
    assert {f"edge_{precision}" for precision in bundle.manifest.models} < set(golden)
