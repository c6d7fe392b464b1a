"""The cache of frozen layers: equal to computing afresh, resumed after a cut, thrown away when anything changed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.errors import StorageError, UnreadablePhotoError
from edgebcnn.images.dataset import Photo
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.train import features
from edgebcnn.train.augment import Augmentation
from edgebcnn.train.features import CHUNK, AugmentedPhotos, PreparedPhotos, cached, read_ahead
from tests.blocks import draw_blocks

SQUARE = Preprocessing(height_px=32, width_px=32)


@pytest.fixture
def photos(tmp_path: Path) -> list[Photo]:
    folder = draw_blocks(tmp_path / "data", per_product={"train": 4})
    return [Photo(path, 0) for path in sorted(folder.rglob("*.png"))]


class Numbers:
    """Rows 0, 1, 2, …; refuses to be read past `broken_at`."""

    def __init__(self, count: int, *, broken_at: int | None = None) -> None:
        self.count, self.broken_at, self.read = count, broken_at, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, key: slice) -> NDArray[np.float32]:
        if self.broken_at is not None and key.stop > self.broken_at:
            raise UnreadablePhotoError(Path("photo.jpg"), "gone")
        rows = np.arange(*key.indices(self.count), dtype=np.float32)
        self.read += len(rows)
        return rows[:, np.newaxis]


def fill(path: Path, source: Any, **key: Any) -> NDArray[Any]:
    return cached(path, source, lambda rows: rows * 2, made_from=key, advance=lambda rows: None)


def test_cached_rows_equal_computed_rows(tmp_path: Path) -> None:
    rows = fill(tmp_path / "rows.bin", Numbers(3 * CHUNK + 7))
    np.testing.assert_array_equal(rows[:, 0], 2 * np.arange(3 * CHUNK + 7))
    assert rows.dtype == np.float16


def test_a_cache_that_was_cut_off_goes_on_where_it_stopped(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePhotoError):
        fill(tmp_path / "rows.bin", Numbers(8 * CHUNK, broken_at=7 * CHUNK))
    recorded = json.loads((tmp_path / "rows.json").read_text())["done"]
    assert recorded >= CHUNK
    source = Numbers(8 * CHUNK)
    rows = fill(tmp_path / "rows.bin", source)
    np.testing.assert_array_equal(rows[:, 0], 2 * np.arange(8 * CHUNK))
    assert source.read == 1 + 8 * CHUNK - recorded  # the first row again, to learn the shape


def test_a_complete_cache_is_not_computed_again_and_one_made_from_something_else_is(tmp_path: Path) -> None:
    fill(tmp_path / "rows.bin", Numbers(2 * CHUNK), weights="a")
    same, other = Numbers(2 * CHUNK), Numbers(2 * CHUNK)
    fill(tmp_path / "rows.bin", same, weights="a")
    fill(tmp_path / "rows.bin", other, weights="b")
    assert (same.read, other.read) == (1, 1 + 2 * CHUNK)


@pytest.mark.parametrize("length", [0, 100, 10**6])
def test_a_cache_of_another_length_than_it_says_is_computed_again(tmp_path: Path, length: int) -> None:
    fill(tmp_path / "rows.bin", Numbers(2 * CHUNK))
    os.truncate(tmp_path / "rows.bin", length)
    rows = fill(tmp_path / "rows.bin", Numbers(2 * CHUNK))
    np.testing.assert_array_equal(rows[:, 0], 2 * np.arange(2 * CHUNK))


def test_a_cache_larger_than_the_disk_is_refused_before_it_is_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "DISK_RESERVE_BYTES", 2**60)
    with pytest.raises(StorageError, match=r"GB and .* GB are free: free some .* or train again with fewer --copies"):
        fill(tmp_path / "rows.bin", Numbers(CHUNK))
    assert not (tmp_path / "rows.bin").exists()


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()
    with pytest.raises(StorageError, match=r"cannot write .*rows\.bin"):
        fill(tmp_path / "cache" / "rows.bin", Numbers(CHUNK))


def test_a_photo_that_vanished_is_blamed_and_not_the_cache(
    tmp_path: Path, photos: list[Photo], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "CHUNK", 2)
    photos[-1].path.unlink()
    with pytest.raises(UnreadablePhotoError, match=photos[-1].path.name):
        fill(tmp_path / "rows.bin", PreparedPhotos(photos, SQUARE))


def test_augmented_copies_depend_on_the_seed_alone_and_differ_from_each_other(photos: list[Photo]) -> None:
    def views(seed: int) -> AugmentedPhotos:
        return AugmentedPhotos(photos, SQUARE, Augmentation(), 2, seed)

    assert len(views(0)) == 2 * len(photos)
    whole = views(0)[0 : 2 * len(photos)]
    np.testing.assert_array_equal(views(0)[5:7], whole[5:7])
    assert (whole[: len(photos)] != whole[len(photos) :]).any(axis=(1, 2, 3)).all()
    assert (views(1)[0:1] != whole[0:1]).any()


def test_an_augmentation_of_no_strength_is_the_prepared_photo(photos: list[Photo]) -> None:
    still = Augmentation(
        min_area=1, max_aspect=1, rotation_deg=0, perspective=0, brightness=0, saturation=0, cast=0, blur_px=0,
        jpeg_quality=100,
    )  # fmt: skip
    views = AugmentedPhotos(photos, Preprocessing(height_px=40, width_px=40), still, 1, 0)[:]
    prepared = PreparedPhotos(photos, Preprocessing(height_px=40, width_px=40))[:]
    # One grey level: the light is computed in float and cut down to whole numbers.
    assert np.abs(views.astype(int) - prepared).max() <= 1


def test_what_is_read_ahead_comes_in_order() -> None:
    assert list(read_ahead(lambda key: key * key, range(20))) == [key * key for key in range(20)]
