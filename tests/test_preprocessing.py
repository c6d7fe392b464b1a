"""A photo becomes the same model input everywhere, and a broken photo is never taken for a whole one."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.errors import UnreadablePhotoError
from edgebcnn.preprocessing import Interpolation, Preprocessing, read_photo

Photo = NDArray[np.uint8]

MAGIC_BYTES = 12  # these say which format a file has

BLUE_BGR, GREEN_BGR, RED_BGR = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def _plain(height: int, width: int, colour_bgr: tuple[int, int, int]) -> Photo:
    return np.full((height, width, 3), colour_bgr, np.uint8)


def _encoded(photo_bgr: Photo, suffix: str, *parameters: int) -> bytes:
    done, encoded = cv2.imencode(suffix, photo_bgr, parameters)
    assert done
    return encoded.tobytes()


def _noise(rng: np.random.Generator, height: int = 40, width: int = 60) -> Photo:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def _with_exif(jpeg: bytes, *, orientation: int = 1, thumbnail: bytes = b"") -> bytes:
    """Puts an EXIF block with an orientation, and with a thumbnail where one is given, behind the start marker."""
    entries = struct.pack("<HHHIHH", 1, 0x0112, 3, 1, orientation, 0)
    first_end = 8 + len(entries) + 4
    if not thumbnail:
        tiff = b"II*\0" + struct.pack("<I", 8) + entries + struct.pack("<I", 0)
    else:
        offset = first_end + 2 + 2 * 12 + 4
        second = struct.pack("<HHHIIHHII", 2, 0x0201, 4, 1, offset, 0x0202, 4, 1, len(thumbnail)) + struct.pack("<I", 0)
        tiff = b"II*\0" + struct.pack("<I", 8) + entries + struct.pack("<I", first_end) + second + thumbnail
    body = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def _saved(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


@pytest.mark.parametrize(
    ("colour_bgr", "colour_rgb"), [(BLUE_BGR, (0, 0, 255)), (GREEN_BGR, (0, 255, 0)), (RED_BGR, (255, 0, 0))]
)
def test_a_bgr_photo_becomes_rgb_input(colour_bgr: tuple[int, int, int], colour_rgb: tuple[int, int, int]) -> None:
    pixels = Preprocessing(height_px=8, width_px=8).apply(_plain(50, 70, colour_bgr))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, np.full((8, 8, 3), colour_rgb, np.uint8))


@pytest.mark.parametrize("upright", [False, True])
def test_crop_cuts_both_ends_of_the_longer_side_and_stretch_keeps_them(upright: bool) -> None:
    photo = np.hstack([_plain(60, 30, RED_BGR), _plain(60, 60, GREEN_BGR), _plain(60, 30, RED_BGR)])
    if upright:
        photo = np.ascontiguousarray(photo.transpose(1, 0, 2))
    cropped = Preprocessing(height_px=12, width_px=12).apply(photo)
    stretched = Preprocessing(height_px=12, width_px=12, fit="stretch").apply(photo)
    np.testing.assert_array_equal(cropped, np.full((12, 12, 3), (0, 255, 0), np.uint8))
    assert np.sum(stretched[..., 1] == 255) == 12 * 6


def test_crop_to_an_oblong_input_keeps_its_aspect() -> None:
    photo = np.vstack([_plain(20, 80, RED_BGR), _plain(40, 80, GREEN_BGR), _plain(20, 80, RED_BGR)])
    pixels = Preprocessing(height_px=8, width_px=16).apply(photo)
    np.testing.assert_array_equal(pixels, np.full((8, 16, 3), (0, 255, 0), np.uint8))


def test_a_photo_of_the_input_size_is_not_resampled(rng: np.random.Generator) -> None:
    photo = _noise(rng, 32, 32)
    np.testing.assert_array_equal(Preprocessing(height_px=32, width_px=32).apply(photo), photo[..., ::-1])


def test_area_averages_the_pixels_that_it_covers(rng: np.random.Generator) -> None:
    photo = _noise(rng, 32, 32)
    pixels = Preprocessing(height_px=16, width_px=16).apply(photo)
    mean = photo[..., ::-1].reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(pixels - mean).max() <= 0.5


def _resized(photo: Photo, interpolation: Interpolation, side_px: int = 256) -> NDArray[np.int16]:
    pixels = Preprocessing(height_px=side_px, width_px=side_px, interpolation=interpolation).apply(photo)
    return pixels.astype(np.int16)


def _off(photo: Photo, interpolation: Interpolation) -> float:
    """Mean distance from exact averages, in grey levels."""
    return float(np.abs(_resized(photo, interpolation) - _resized(photo, "area")).mean())


def _textured(rng: np.random.Generator, side_px: int) -> Photo:
    """Structures of all sizes, as on a shelf, and a sensor's noise."""
    layers = [cv2.GaussianBlur(rng.normal(0, 1, (side_px, side_px, 3)), (0, 0), px) * px for px in (1, 2, 4, 8, 16)]
    levels = 128 + 30 * np.sum(layers, axis=0) + rng.normal(0, 4, (side_px, side_px, 3))
    return np.asarray(np.clip(levels, 0, 255), np.uint8)


def _fine_print(height_px: int, width_px: int) -> Photo:
    """Lines of the smallest letters that are readable in the frame."""
    page = np.full((height_px, width_px, 3), 255, np.uint8)
    for baseline in range(10, height_px, 11):
        for left in range(-(baseline % 23), width_px, 230):
            cv2.putText(page, "Ingredients: sugar, milk, E471", (left, baseline), 0, 0.35, (0, 0, 0), 1)
    return page


def test_area_and_linear_resize_as_they_always_did(rng: np.random.Generator) -> None:
    photo = _noise(rng, 90, 90)
    for interpolation, flag in (("area", cv2.INTER_AREA), ("linear", cv2.INTER_LINEAR)):
        expected = cv2.resize(photo, (32, 32), interpolation=flag)[..., ::-1]
        pixels = Preprocessing(height_px=32, width_px=32, interpolation=interpolation).apply(photo)  # type: ignore[arg-type]
        np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("shape", [(64, 64), (128, 128), (40, 40)])
def test_halving_is_area_where_there_is_nothing_between_two_halves(
    rng: np.random.Generator, shape: tuple[int, int]
) -> None:
    photo = _noise(rng, *shape)
    if shape == (40, 40):  # it is enlarged
        photo = photo[:24, :24]
    np.testing.assert_array_equal(_resized(photo, "halving", 64), _resized(photo, "area", 64))


def test_halving_a_side_alone_leaves_the_other_whole(rng: np.random.Generator) -> None:
    column = np.repeat(rng.integers(0, 256, (1, 128, 3), np.uint8), 40, axis=0)
    stretched = Preprocessing(height_px=40, width_px=32, fit="stretch", interpolation="halving").apply(column)
    exact = column[0, :, ::-1].reshape(32, 4, 3).mean(1)
    assert np.abs(stretched - exact).max() <= 1.5, "an average of two averages is rounded twice"


@pytest.mark.parametrize(("side_px", "levels"), [(480, 1.5), (719, 1.5), (720, 1.5), (1080, 3.0)])
def test_halving_is_close_to_exact_averages_on_textures(rng: np.random.Generator, side_px: int, levels: float) -> None:
    photo = _textured(rng, side_px)
    assert _off(photo, "halving") < levels
    if side_px >= 2 * 256:
        assert _off(photo, "halving") < 0.75 * _off(photo, "linear")


def test_fine_print_makes_no_moire_by_halving() -> None:
    page = _fine_print(720, 720)
    assert _off(page, "halving") < 0.5 * _off(page, "linear")
    stripes = np.tile(np.where(np.arange(720) % 3 < 1.5, 0, 255).astype(np.uint8)[None, :, None], (720, 1, 3))

    def moire(interpolation: Interpolation) -> float:
        """Contrast of what is coarser than any stripe, in grey levels."""
        return float(cv2.GaussianBlur(_resized(stripes, interpolation), (0, 0), 3).std())

    assert moire("linear") > 30, "these stripes would prove little"
    assert moire("halving") < 0.2 * moire("linear")


def test_an_enlarged_photo_is_interpolated_not_repeated() -> None:
    ramp = np.arange(0, 240, 30).astype(np.uint8)[None, :, None].repeat(8, 0).repeat(3, 2)
    row = Preprocessing(height_px=32, width_px=32).apply(ramp)[0, :, 0]
    assert len(np.unique(row)) > 8


def test_normalize_is_pixel_minus_mean_over_std() -> None:
    preprocessing = Preprocessing(height_px=8, width_px=8, mean=100.0, std=50.0)
    normalized = preprocessing.normalize(np.array([0, 100, 255], np.uint8))
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(normalized, [-2.0, 0.0, 3.1], rtol=1e-6)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff"])
def test_a_lossless_photo_is_read_as_it_was_written(tmp_path: Path, rng: np.random.Generator, suffix: str) -> None:
    photo = _noise(rng)
    np.testing.assert_array_equal(read_photo(_saved(tmp_path, "a" + suffix, _encoded(photo, suffix))), photo)


def test_a_grey_photo_has_three_equal_channels(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    photo = read_photo(_saved(tmp_path, "grey.png", _encoded(grey, ".png")))
    np.testing.assert_array_equal(photo, np.repeat(grey[..., None], 3, 2))


def test_a_photo_is_turned_upright_as_its_exif_says(tmp_path: Path) -> None:
    lying = np.hstack([_plain(32, 32, RED_BGR), _plain(32, 64, BLUE_BGR)])
    turned_clockwise = 6  # EXIF: row 0 of the file is the right side of the scene
    upright = read_photo(_saved(tmp_path, "a.jpg", _with_exif(_encoded(lying, ".jpg"), orientation=turned_clockwise)))
    assert upright.shape == (96, 32, 3)
    np.testing.assert_allclose(upright[4, 16], RED_BGR, atol=3)
    np.testing.assert_allclose(upright[90, 16], BLUE_BGR, atol=3)


@pytest.mark.parametrize(
    "kind", ["baseline", "progressive", "restart intervals", "thumbnail", ".png", ".webp", ".bmp", ".tiff"]
)
def test_a_photo_that_is_cut_short_anywhere_is_refused(tmp_path: Path, rng: np.random.Generator, kind: str) -> None:
    photo = _noise(rng)
    whole = {
        "baseline": lambda: _encoded(photo, ".jpg"),
        "progressive": lambda: _encoded(photo, ".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        "restart intervals": lambda: _encoded(photo, ".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        "thumbnail": lambda: _with_exif(_encoded(photo, ".jpg"), thumbnail=_encoded(_noise(rng, 16, 16), ".jpg")),
    }.get(kind, lambda: _encoded(photo, kind))()
    assert read_photo(_saved(tmp_path, "whole", whole)).shape == photo.shape
    cuts = {1, 2, 3, len(whole) - 1, len(whole) - 2, *(int(cut) for cut in rng.integers(1, len(whole), 60))}
    for cut in sorted(cuts):
        with pytest.raises(UnreadablePhotoError) as caught:
            read_photo(_saved(tmp_path, "cut", whole[:cut]))
        # OpenCV 4 takes some of these for whole, OpenCV 5 does not: what counts is that we see it ourselves.
        if cut >= MAGIC_BYTES and kind not in (".bmp", ".tiff"):
            assert caught.value.reason == "the file is cut short", f"the first {cut} of {len(whole)} bytes"


def test_bytes_behind_the_end_of_a_photo_do_no_harm(tmp_path: Path, rng: np.random.Generator) -> None:
    photo = _noise(rng)
    for suffix in (".jpg", ".png"):
        assert read_photo(_saved(tmp_path, "a", _encoded(photo, suffix) + bytes(200))).shape == photo.shape


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.jpg", b"", "the file is empty"),
        ("note.jpg", b"buy milk\n", "not an image that OpenCV can decode"),
        ("cut.jpg", b"\xff\xd8\xff\xe0", "the file is cut short"),
    ],
)
def test_a_broken_photo_is_named_with_the_reason(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = _saved(tmp_path, name, content)
    with pytest.raises(UnreadablePhotoError) as caught:
        read_photo(path)
    assert str(caught.value) == f"{path}: {reason}"
    assert caught.value.path == path


def test_a_missing_photo_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadablePhotoError, match=r"gone\.jpg: No such file or directory"):
        read_photo(tmp_path / "gone.jpg")
    with pytest.raises(UnreadablePhotoError, match="not a file"):
        read_photo(tmp_path)
