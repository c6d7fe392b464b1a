"""The drawn shelf: its products, its photos and its video."""

from __future__ import annotations

import csv
import json
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.demo.products import PRODUCTS, Product, cue_mask, gtin_check_digit, pack_picture
from edgebcnn.demo.scene import PHOTO_PX
from edgebcnn.demo.shelf import ShelfSizes, draw_photo, draw_shelf, draw_video
from edgebcnn.errors import DataError, StorageError
from edgebcnn.preprocessing import read_photo

SIZES = ShelfSizes(train=3, val=1, test=2)
ONE_EACH = ShelfSizes(train=1, val=0, test=0)
FAMILIES = sorted({product.coarse for product in PRODUCTS})


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "shelf"
    draw_shelf(folder, seed=3, sizes=SIZES)
    return folder


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "shelf.avi"
    draw_video(path, seed=3, seconds_per_product=0.2, fps=15)
    return path


def photo(name: str, seed: int) -> NDArray[np.uint8]:
    product = next(product for product in PRODUCTS if product.name == name)
    return draw_photo(product, np.random.default_rng(seed))


def frames_of(path: Path) -> list[NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    while True:
        there_is_one, frame = capture.read()
        if not there_is_one:
            return frames
        frames.append(np.asarray(frame, np.uint8))


def truth_of(path: Path) -> list[list[str]]:
    return list(csv.reader(path.with_name(f"{path.name}.truth.csv").read_text().splitlines()))


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_there_are_six_families_of_at_least_four_products() -> None:
    sizes = Counter(product.coarse for product in PRODUCTS)
    assert len(sizes) >= 6
    assert min(sizes.values()) >= 4


def test_names_and_gtins_are_unique() -> None:
    assert len({product.name for product in PRODUCTS}) == len({product.gtin for product in PRODUCTS}) == len(PRODUCTS)


def test_a_known_gtin_has_the_check_digit_that_we_compute() -> None:
    assert gtin_check_digit("400638133393") == "1"  # GTIN-13
    assert gtin_check_digit("03600029145") == "2"  # UPC-A
    assert gtin_check_digit("9638507") == "4"  # GTIN-8


@pytest.mark.parametrize("product", PRODUCTS, ids=lambda product: product.name)
def test_every_gtin_is_valid_and_in_the_range_for_use_inside_a_shop(product: Product) -> None:
    gtin = product.gtin
    assert len(gtin) == 13
    assert gtin.startswith("2")
    assert (sum(map(int, gtin[0::2])) + 3 * sum(map(int, gtin[1::2]))) % 10 == 0


@pytest.mark.parametrize("coarse", FAMILIES)
def test_packs_of_a_family_differ_and_only_in_a_part_of_the_pack(coarse: str) -> None:
    pictures = [pack_picture(product) for product in PRODUCTS if product.coarse == coarse]
    pack = pictures[0][..., 3] > 0
    for one, other in combinations(pictures, 2):
        assert (one[..., 3] == other[..., 3]).all()
        differs = (one != other).any(axis=2)
        assert 0.01 < differs.sum() / pack.sum() < 0.4
        assert not (differs & ~cue_mask(coarse)).any()
    assert cue_mask(coarse).sum() < 0.4 * pack.sum()


def test_the_same_seed_draws_the_same_photo_whatever_was_drawn_before() -> None:
    first = photo("Alma-Milk-1.5", 7)
    photo("Brizlo-Soda-Red", 8)
    assert (photo("Alma-Milk-1.5", 7) == first).all()
    assert first.shape == (PHOTO_PX, PHOTO_PX, 3)


def test_another_seed_draws_another_photo() -> None:
    assert (photo("Alma-Milk-1.5", 7) != photo("Alma-Milk-1.5", 8)).mean() > 0.5


def test_each_split_has_the_photos_that_were_asked_for(shelf: Path) -> None:
    for split, photos in (("train", 3), ("val", 1), ("test", 2)):
        for product in PRODUCTS:
            files = sorted((shelf / split / product.name).iterdir())
            assert [file.name for file in files] == [f"{number:04}.jpg" for number in range(1, photos + 1)]
            assert read_photo(files[0]).shape == (PHOTO_PX, PHOTO_PX, 3)


def test_no_photo_is_drawn_twice(shelf: Path) -> None:
    photos = [file.read_bytes() for file in shelf.rglob("*.jpg")]
    assert len(set(photos)) == len(photos) == 6 * len(PRODUCTS)


def test_the_labels_name_every_product(shelf: Path) -> None:
    rows = list(csv.reader((shelf / "labels.csv").read_text().splitlines()))
    assert rows == [["name", "gtin", "coarse"], *([p.name, p.gtin, p.coarse] for p in PRODUCTS)]


def test_the_same_seed_draws_the_same_files_and_another_seed_others(shelf: Path, tmp_path: Path) -> None:
    draw_shelf(tmp_path / "again", seed=3, sizes=ONE_EACH)
    draw_shelf(tmp_path / "other", seed=4, sizes=ONE_EACH)
    for product in PRODUCTS:
        file = Path("train", product.name, "0001.jpg")
        drawn = (shelf / file).read_bytes()
        assert (tmp_path / "again" / file).read_bytes() == drawn
        assert (tmp_path / "other" / file).read_bytes() != drawn


def test_every_photo_is_reported(tmp_path: Path) -> None:
    reports: list[None] = []
    draw_shelf(tmp_path / "shelf", sizes=ONE_EACH, on_photo=lambda: reports.append(None))
    assert len(reports) == len(PRODUCTS)


def test_a_shelf_that_is_there_is_kept_and_another_seed_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "shelf"
    draw_shelf(folder, seed=1, sizes=ONE_EACH)
    drawn = folder.stat().st_ino
    draw_shelf(folder, seed=1, sizes=ONE_EACH)
    assert folder.stat().st_ino == drawn
    draw_shelf(folder, seed=2, sizes=ONE_EACH)
    assert json.loads((folder / "shelf.json").read_text())["seed"] == 2


def test_an_interrupted_drawing_leaves_no_shelf(tmp_path: Path) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw_shelf(tmp_path / "shelf", sizes=ONE_EACH, on_photo=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("marker", [None, "{}", "not JSON"])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    if marker is not None:
        (tmp_path / "shelf.json").write_text(marker)
    with pytest.raises(DataError, match="is not a drawn shelf: choose another folder"):
        draw_shelf(tmp_path, sizes=ONE_EACH)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_photos_that_cannot_be_written_are_a_storage_error(tmp_path: Path) -> None:
    with largest_file(100), pytest.raises(StorageError, match="cannot write"):
        draw_shelf(tmp_path / "shelf", sizes=ONE_EACH)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seed", "sizes", "named"), [(-1, ONE_EACH, "seed -1"), (0, ShelfSizes(test=-2), "test -2")])
def test_a_negative_seed_or_size_is_named(tmp_path: Path, seed: int, sizes: ShelfSizes, named: str) -> None:
    with pytest.raises(DataError, match=named):
        draw_shelf(tmp_path / "shelf", seed=seed, sizes=sizes)


def test_the_truth_has_a_row_for_every_frame_and_the_video_shows_every_product(video: Path) -> None:
    header, *rows = truth_of(video)
    assert header == ["frame", "label"]
    assert [int(frame) for frame, _ in rows] == list(range(len(frames_of(video))))
    assert Counter(label for _, label in rows) == {product.name: 3 for product in PRODUCTS}


def test_the_video_moves_within_a_product_and_cuts_between_products(video: Path) -> None:
    frames = [cv2.resize(frame, (32, 24), interpolation=cv2.INTER_AREA).astype(float) for frame in frames_of(video)]
    labels = [label for _, label in truth_of(video)[1:]]
    moves: list[float] = []
    cuts: list[float] = []
    for (before, label), (after, next_label) in pairwise(zip(frames, labels, strict=True)):
        (moves if label == next_label else cuts).append(float(np.abs(after - before).mean()))
    assert min(moves) > 0
    assert np.median(moves) < 0.5 * np.median(cuts)


def test_the_same_seed_draws_the_same_video_and_another_seed_another(video: Path, tmp_path: Path) -> None:
    draw_video(tmp_path / "again.avi", seed=3, seconds_per_product=0.2, fps=15)
    draw_video(tmp_path / "other.avi", seed=4, seconds_per_product=0.2, fps=15)
    assert truth_of(tmp_path / "again.avi") == truth_of(video) != truth_of(tmp_path / "other.avi")
    assert (np.stack(frames_of(video)) == np.stack(frames_of(tmp_path / "again.avi"))).all()


def test_a_video_that_does_not_fit_is_a_storage_error_and_leaves_nothing(tmp_path: Path) -> None:
    with largest_file(100_000), pytest.raises(StorageError, match="frames of"):
        draw_video(tmp_path / "shelf.avi", seconds_per_product=0.1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "seconds", "fps"), [("shelf.mp4", 1.0, 15), ("shelf.avi", 0.0, 15), ("shelf.avi", 1.0, 0)]
)
def test_a_video_that_cannot_be_is_refused(tmp_path: Path, name: str, seconds: float, fps: int) -> None:
    with pytest.raises(DataError, match="cannot draw a video"):
        draw_video(tmp_path / name, seconds_per_product=seconds, fps=fps)
