"""Calibration photos show every product in every light, and never a held-out photo."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebcnn import catalog
from edgebcnn.bundle import CalibrationRecord, Label
from edgebcnn.errors import DataError, UnreadablePhotoError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.quantize.calibration.photos import CalibrationSet, choose, deal
from edgebcnn.quantize.calibration.recipe import Recipe, load_recipe

PREPROCESSING = Preprocessing(height_px=8, width_px=8)
LEVELS = (20, 30, 40, 110, 120, 130, 210, 220, 230)
"""Grey levels of each product's photos: three dark, three middling, three bright."""

Draw = Callable[[str, int, int], Photo]


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Makes a grey photo of a product; no two products have the same grey."""

    def make(split: str, product: int, level: int) -> Photo:
        path = tmp_path / split / f"{product}-{level}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((8, 8, 3), level + product, np.uint8))
        return Photo(path, product)

    return make


def _dataset(train: Sequence[Photo], *, val: Sequence[Photo] = (), test: Sequence[Photo] = ()) -> ProductDataset:
    labels = tuple(Label(name=f"product {class_id}") for class_id in range(9))
    return ProductDataset(Path("shop"), labels, tuple(train), tuple(val), tuple(test), skipped=(), notes=())


def _train(draw: Draw, products: int) -> list[Photo]:
    return [draw("train", product, level) for product in range(products) for level in LEVELS]


def _choose(train: Sequence[Photo], photos: int, *, seed: int = 0) -> CalibrationSet:
    recipe = Recipe(name="test", description="", photos=photos, seed=seed)
    return choose(_dataset(train), recipe, preprocessing=PREPROCESSING)


def _band(photo: Photo) -> str:
    level = int(photo.path.stem.partition("-")[2])
    return "dark" if level < 100 else "middling" if level < 200 else "bright"


def test_every_product_is_chosen_equally_often_in_every_light(draw: Draw) -> None:
    chosen = _choose(_train(draw, 4), 12)
    shown = Counter((photo.class_id, _band(photo)) for photo in chosen.photos)
    assert shown == {(product, band): 1 for product in range(4) for band in ("dark", "middling", "bright")}
    assert chosen.notes == ()


def test_one_photo_a_product_is_not_always_a_dark_one(draw: Draw) -> None:
    chosen = _choose(_train(draw, 3), 3)
    assert {photo.class_id for photo in chosen.photos} == {0, 1, 2}
    assert {_band(photo) for photo in chosen.photos} == {"dark", "middling", "bright"}


def test_a_product_with_few_photos_leaves_its_share_to_the_others(draw: Draw) -> None:
    train = [*_train(draw, 2), draw("train", 2, 50)]
    chosen = _choose(train, 11)
    assert Counter(photo.class_id for photo in chosen.photos) == {0: 5, 1: 5, 2: 1}


def test_names_and_order_do_not_change_the_choice(draw: Draw) -> None:
    train = _train(draw, 3)
    renamed = [
        Photo(photo.path.rename(photo.path.with_stem(f"{9 * i % 31}-1")), photo.class_id)
        for i, photo in enumerate(train)
    ]
    before = _choose(renamed, 7).sha256
    assert before == _choose(renamed[::-1], 7).sha256


def test_every_store_is_chosen_from_equally_often(draw: Draw) -> None:
    train = [
        draw(f"store-{store}", product, level + 3 * store)
        for product in range(2)
        for store, count in ((1, 9), (2, 3), (3, 2))
        for level in LEVELS[:count]
    ]
    recipe = Recipe(name="stores", description="", photos=12, seed=0, group_pattern="/(store-.)/")
    chosen = choose(_dataset(train), recipe, preprocessing=PREPROCESSING)
    shown = Counter((photo.class_id, photo.path.parent.name) for photo in chosen.photos)
    assert shown == {(product, f"store-{store}"): 2 for product in range(2) for store in (1, 2, 3)}
    assert chosen.groups == tuple(photo.path.parent.name for photo in chosen.photos)
    assert set(chosen.brightness) == {"dark", "middling", "bright"}
    few = choose(_dataset(train), recipe.model_copy(update={"photos": 2}), preprocessing=PREPROCESSING)
    assert few.notes == ("the 2 calibration photos show nothing of 1 of 3 groups: use a recipe with more photos",)


def test_a_pattern_that_fits_no_photo_is_refused_by_the_recipes_name(draw: Draw) -> None:
    recipe = Recipe(name="stores", description="", photos=2, seed=0, group_pattern="/(shop-.)/")
    with pytest.raises(DataError, match=r"recipe stores: group_pattern '/\(shop-\.\)/' matches no photo"):
        choose(_dataset(_train(draw, 1)), recipe, preprocessing=PREPROCESSING)


def test_another_seed_makes_another_choice(draw: Draw) -> None:
    train = _train(draw, 3)
    assert set(_choose(train, 7).sha256) != set(_choose(train, 7, seed=1).sha256)


def test_the_bundle_records_the_recipe_and_a_digest_of_each_photo(draw: Draw) -> None:
    chosen = _choose(_train(draw, 2), 3, seed=5)
    digests = tuple(hashlib.sha256(photo.path.read_bytes()).hexdigest() for photo in chosen.photos)
    assert chosen.record() == CalibrationRecord(recipe="test", seed=5, photo_sha256=digests)


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_held_out_photo_is_never_chosen_whatever_its_name(draw: Draw, split: str) -> None:
    train = _train(draw, 2)
    held_out = [draw(split, 0, LEVELS[0]), train[-1]]  # a copy of a training photo, and the very same file
    dataset = _dataset(train, **{split: held_out})
    chosen = choose(dataset, Recipe(name="all", description="", photos=16, seed=0), preprocessing=PREPROCESSING)
    assert set(chosen.photos) == set(train[1:-1])
    assert chosen.notes == ("2 training photos are also held out, byte for byte, and were left out of the calibration",)


def test_copies_of_a_photo_count_once(draw: Draw) -> None:
    train = [draw("train", 0, 20), draw("copies", 0, 20), draw("train", 0, 30)]
    assert len(_choose(train, 3).photos) == 2


def test_too_few_training_photos_are_all_used_and_it_is_said(draw: Draw) -> None:
    chosen = _choose(_train(draw, 1), 320)
    assert len(chosen.photos) == len(LEVELS)
    assert chosen.notes == ("recipe test asks for 320 photos and there are 9: all of them are used",)


def test_products_that_the_photos_cannot_show_are_counted(draw: Draw) -> None:
    assert _choose(_train(draw, 5), 3).notes == (
        "the 3 calibration photos show nothing of 2 of 5 products: use a recipe with more photos",
    )


def test_each_photo_advances_the_progress(draw: Draw) -> None:
    seen: list[int] = []
    recipe = Recipe(name="test", description="", photos=2, seed=0)
    choose(_dataset(_train(draw, 2)), recipe, preprocessing=PREPROCESSING, advance=seen.append)
    assert sum(seen) == 2 * len(LEVELS)


def test_nothing_to_choose_from_is_an_error(draw: Draw) -> None:
    photo = draw("train", 0, 20)
    dataset = _dataset([photo], test=[photo])
    with pytest.raises(DataError, match="shop has no training photo that is not also held out"):
        choose(dataset, Recipe(name="test", description="", photos=1, seed=0), preprocessing=PREPROCESSING)


def test_a_photo_that_is_gone_is_named(draw: Draw) -> None:
    train = _train(draw, 1)
    train[3].path.unlink()
    with pytest.raises(UnreadablePhotoError, match=str(train[3].path)):
        _choose(train, 2)


def test_dealing_takes_one_from_each_in_turn() -> None:
    assert deal(["ab", "", "cdef"]) == ["a", "c", "b", "d", "e", "f"]


@pytest.mark.parametrize("name", catalog.names("edgebcnn._calibration"))
def test_a_recipe_that_comes_with_edgebcnn_loads_by_its_name(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_recipes_are_those_that_the_readme_promises() -> None:
    assert {name: load_recipe(name).photos for name in ("balanced", "quick")} == {"balanced": 320, "quick": 64}


def test_a_users_own_recipe_loads_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "mine"\ndescription = "dark shop"\nphotos = 9\nseed = 4\nrange_method = "minmax"\n')
    assert load_recipe(str(file)) == Recipe(name="mine", description="dark shop", photos=9, seed=4)


def test_an_unknown_recipe_names_the_closest() -> None:
    with pytest.raises(DataError, match=r"no calibration recipe is called 'balancd': use balanced"):
        load_recipe("balancd")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("photos = 0", "field photos"),
        ('photos = "9"', "field photos"),
        ("seed = -1", "field seed"),
        ("fotos = 9", "field fotos: there is no such field"),
        ('range_method = "median"', "field range_method"),
        ("percentile = 99.9", "field percentile: range_method minmax takes none"),
        ('range_method = "percentile"', r"field percentile: .* needs one, such as 99\.9"),
        ('layers = [{ layer = "conv", range_metod = "mse" }]', r"field layers\.0\.range_metod: there is no such field"),
    ],
)
def test_a_recipe_that_does_not_fit_names_file_and_field(tmp_path: Path, line: str, complaint: str) -> None:
    values = {"name": '"x"', "description": '"x"', "photos": "9", "seed": "0"}
    key, _, value = line.partition(" = ")
    file = tmp_path / "mine.toml"
    file.write_text("".join(f"{k} = {v}\n" for k, v in {**values, key: value}.items()))
    with pytest.raises(DataError, match=complaint) as caught:
        load_recipe(str(file))
    assert str(file) in str(caught.value)
