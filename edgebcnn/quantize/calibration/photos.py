"""Chooses calibration photos, from the training photos or from a folder of captured ones.

A range follows from the values that a tensor takes on the chosen photos. What they do not show is clipped on the
device, so every product is there, from every store or shelf if the recipe tells them apart, in its dark, middling and
bright photos. The choice follows from the photos' content, their groups and the recipe's seed alone: neither the names
of files nor their order change it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import CalibrationRecord, CalibrationSource
from edgebcnn.errors import DataError, UnreadablePhotoError
from edgebcnn.images.dataset import Photo, ProductDataset
from edgebcnn.images.groups import groups_by_pattern
from edgebcnn.preprocessing import PHOTO_SUFFIXES, Preprocessing, read_photo
from edgebcnn.progress import Advance
from edgebcnn.quantize.calibration.recipe import Recipe
from edgebcnn.report.calibration import BRIGHTNESS_BANDS

T = TypeVar("T")
_NOTHING: Any = object()
_UNLABELLED = -1
_NONE: Mapping[str, Path] = {}

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""Share of red, green and blue in perceived brightness (ITU-R BT.601)."""


@dataclass(frozen=True)
class CalibrationSet:
    """The photos that a recipe chose.

    Attributes:
        recipe: The recipe.
        source: Where they are from, `train` or `captured`.
        photos: The choice, in the order in which it was made.
        sha256: Digest of each photo's file.
        brightness: Of each photo among those of its product and group, `dark`, `middling` or `bright`.
        groups: Of each photo, if the recipe has a `group_pattern`.
        others: All training photos that were not chosen, in the order in which they would have been.
        notes: What a user should know about the choice, a sentence each.
    """

    recipe: Recipe
    source: CalibrationSource
    photos: tuple[Photo, ...]
    sha256: tuple[str, ...]
    brightness: tuple[str, ...]
    groups: tuple[str, ...]
    others: tuple[Photo, ...]
    notes: tuple[str, ...]

    def record(self) -> CalibrationRecord:
        """The entry for the bundle's manifest."""
        return CalibrationRecord(
            recipe=self.recipe.name, seed=self.recipe.seed, source=self.source, photo_sha256=self.sha256
        )


@dataclass(frozen=True)
class _Candidate:
    photo: Photo
    sha256: str
    luma: float
    group: str = ""
    brightness: str = ""


def choose(
    dataset: ProductDataset,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    advance: Advance = lambda photos: None,
) -> CalibrationSet:
    """Chooses training photos: of each product in turn, of each of its groups in turn a dark, middling, bright one.

    Brightness is the mean luma of the prepared photo; its bands are the terciles of a product and group. A photo whose
    file is byte for byte that of a held-out photo is never chosen, whatever its name.

    Args:
        dataset: Photos; `train` is chosen from, `val` and `test` are kept out.
        recipe: How many, and the seed.
        preprocessing: The model's.
        advance: Called with 1 after each training photo that was looked at.

    Raises:
        DataError: too few training photos are left to choose from, one cannot be read, or groups are missing.
    """
    held_out = _held_out(dataset)
    candidates, leaks = _candidates(dataset.train, preprocessing, advance, without=held_out)
    if not candidates:
        raise DataError(f"{dataset.origin} has no training photo that is not also held out: add some and train again")
    ordered = _stratified(_grouped(candidates, recipe), recipe.seed)
    return _calibration_set(recipe, "train", ordered, others=ordered[recipe.photos :], notes=_notes_on_leaks(leaks))


def choose_captured(
    folder: Path,
    dataset: ProductDataset,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    advance: Advance = lambda photos: None,
) -> CalibrationSet:
    """Chooses among photos that nobody labelled, such as frames that the device captured: dark, middling and bright.

    Args:
        folder: The photos, in folders of any depth.
        dataset: Photos that the model was trained and is evaluated on.
        recipe: How many, and the seed.
        preprocessing: The model's.
        advance: Called with 1 after each photo that was looked at, those of `dataset.train` included.

    Raises:
        DataError: the folder holds no photo, one that is held out, one that cannot be read, or too few.
    """
    held_out = _held_out(dataset)
    photos = [Photo(path, _UNLABELLED) for path in photos_in(folder)]
    for photo in photos:
        if (twin := held_out.get(_sha256(photo.path))) is not None:
            raise DataError(
                f"{photo.path} is the held-out photo {twin}, byte for byte, which would no longer measure anything: "
                "remove held-out photos from the calibration photos"
            )
    captured, _ = _candidates(photos, preprocessing, advance)
    ordered = _stratified(_grouped(captured, recipe), recipe.seed)
    chosen = {candidate.sha256: candidate.photo.path for candidate in ordered[: recipe.photos]}
    train, _ = _candidates(dataset.train, preprocessing, advance, without={**held_out, **chosen})
    return _calibration_set(recipe, "captured", ordered, others=_stratified(train, recipe.seed), notes=())


def learnable(dataset: ProductDataset) -> tuple[Photo, ...]:
    """Training photos, and those without a label, that are not held out under another name, byte for byte.

    Raises:
        DataError: none is left, or one cannot be read.
    """
    held_out = _held_out(dataset)
    found = tuple(photo for photo in (*dataset.train, *dataset.unlabelled) if _sha256(photo.path) not in held_out)
    if not found:
        raise DataError(f"{dataset.origin} has no training photo that is not also held out: add some and train again")
    return found


def photos_in(folder: Path) -> list[Path]:
    """Photos of a folder and of the folders in it, sorted.

    Raises:
        DataError: it is no folder, or holds none.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give --calibration-photos the folder that holds the photos")
    found = sorted(file for file in folder.rglob("*") if file.suffix.lower() in PHOTO_SUFFIXES)
    if not found:
        raise DataError(f"{folder} holds no photo: give --calibration-photos a folder that does")
    return found


def deal(queues: Sequence[Sequence[T]]) -> list[T]:
    """Takes one from each queue in turn, passing over those that are empty, until all are."""
    return [item for turn in zip_longest(*queues, fillvalue=_NOTHING) for item in turn if item is not _NOTHING]


def lot(seed: int, ticket: str | int) -> str:
    """A key that shuffles what is sorted by it, alike on every machine and with every version of every library."""
    return hashlib.sha256(f"{seed}:{ticket}".encode()).hexdigest()


def _held_out(dataset: ProductDataset) -> dict[str, Path]:
    return {_sha256(photo.path): photo.path for photo in (*dataset.val, *dataset.test)}


def _candidates(
    photos: Sequence[Photo], preprocessing: Preprocessing, advance: Advance, *, without: Mapping[str, Path] = _NONE
) -> tuple[list[_Candidate], int]:
    """The photos, those `without` and copies of one another left out; and how many of those `without` there were."""
    found: dict[str, _Candidate] = {}
    left_out = 0
    for photo in photos:
        digest = _sha256(photo.path)
        left_out += digest in without
        if digest not in without and digest not in found:
            found[digest] = _Candidate(photo, digest, _luma(preprocessing.apply(read_photo(photo.path))))
        advance(1)
    return list(found.values()), left_out


def _calibration_set(
    recipe: Recipe,
    source: CalibrationSource,
    ordered: Sequence[_Candidate],
    *,
    others: Sequence[_Candidate],
    notes: Sequence[str],
) -> CalibrationSet:
    if len(ordered) < recipe.min_photos:
        raise DataError(
            f"recipe {recipe.name} needs {recipe.min_photos} calibration photos and there are {len(ordered)}: "
            "add photos, or use a recipe with a smaller min_photos"
        )
    chosen = ordered[: recipe.photos]
    return CalibrationSet(
        recipe=recipe,
        source=source,
        photos=tuple(candidate.photo for candidate in chosen),
        sha256=tuple(candidate.sha256 for candidate in chosen),
        brightness=tuple(candidate.brightness for candidate in chosen),
        groups=tuple(candidate.group for candidate in chosen) if recipe.group_pattern else (),
        others=tuple(candidate.photo for candidate in others),
        notes=(*notes, *_notes_on_number(recipe, ordered, chosen)),
    )


def _grouped(candidates: Sequence[_Candidate], recipe: Recipe) -> Sequence[_Candidate]:
    """The candidates with their groups; without a pattern all are in one."""
    if recipe.group_pattern is None:
        return candidates
    names = [candidate.photo.path.as_posix() for candidate in candidates]
    groups = groups_by_pattern(names, recipe.group_pattern, given=f"recipe {recipe.name}: group_pattern")
    return [replace(candidate, group=group) for candidate, group in zip(candidates, groups, strict=True)]


def _stratified(candidates: Sequence[_Candidate], seed: int) -> list[_Candidate]:
    by_product: defaultdict[int, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_product[candidate.photo.class_id].append(candidate)
    products = sorted(by_product, key=lambda class_id: lot(seed, class_id))
    # Each product begins with another group and band, so that a recipe of one photo a product is not all dark.
    return deal([_by_group(by_product[product], seed, first=turn) for turn, product in enumerate(products)])


def _by_group(candidates: Sequence[_Candidate], seed: int, *, first: int) -> list[_Candidate]:
    by_group: defaultdict[str, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_group[candidate.group].append(candidate)
    groups = sorted(by_group, key=lambda group: lot(seed, group))
    ordered = [_by_brightness(by_group[group], seed, first=first + turn) for turn, group in enumerate(groups)]
    return deal(_rotated(ordered, first))


def _by_brightness(candidates: Sequence[_Candidate], seed: int, *, first: int) -> list[_Candidate]:
    ordered = sorted(candidates, key=lambda candidate: (candidate.luma, candidate.sha256))
    count = len(BRIGHTNESS_BANDS)
    cuts = [len(ordered) * band // count for band in range(count + 1)]
    bands = [
        sorted(
            (replace(candidate, brightness=name) for candidate in ordered[low:high]),
            key=lambda candidate: lot(seed, candidate.sha256),
        )
        for name, (low, high) in zip(BRIGHTNESS_BANDS, pairwise(cuts), strict=True)
    ]
    return deal(_rotated(bands, first))


def _rotated(queues: Sequence[T], first: int) -> list[T]:
    first %= len(queues)
    return [*queues[first:], *queues[:first]]


def _notes_on_leaks(leaks: int) -> list[str]:
    if not leaks:
        return []
    return [f"{leaks} training photos are also held out, byte for byte, and were left out of the calibration"]


def _notes_on_number(recipe: Recipe, candidates: Sequence[_Candidate], chosen: Sequence[_Candidate]) -> Iterator[str]:
    if len(chosen) < recipe.photos:
        yield f"recipe {recipe.name} asks for {recipe.photos} photos and there are {len(chosen)}: all of them are used"
    known, shown = _strata(candidates), _strata(chosen)
    for strata, names in known.items():
        if unseen := len(names - shown[strata]):
            yield (
                f"the {len(chosen)} calibration photos show nothing of {unseen} of {len(names)} {strata}: "
                "use a recipe with more photos"
            )


def _strata(candidates: Sequence[_Candidate]) -> dict[str, set[str | int]]:
    return {"products": {each.photo.class_id for each in candidates}, "groups": {each.group for each in candidates}}


def _luma(pixels_u8: NDArray[np.uint8]) -> float:
    return float(pixels_u8.mean(axis=(0, 1)) @ LUMA_WEIGHTS)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UnreadablePhotoError(path, error.strerror or str(error)) from error
