"""Which training photos does an int8 model learn its ranges from?

A range is the lowest and highest value that a tensor takes on the chosen photos. What they do not show is clipped on
the device, so every product is there, in its dark, middling and bright photos. The choice follows from the photos'
content and the recipe's seed alone: neither file names nor their order change it.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from edgebcnn import catalog
from edgebcnn.bundle import Calibration
from edgebcnn.errors import DataError, UnreadablePhotoError
from edgebcnn.preprocessing import Preprocessing, read_photo
from edgebcnn.progress import Advance
from edgebcnn.quantize.gate import Gates

if TYPE_CHECKING:
    from edgebcnn.train.dataset import Photo, ProductDataset

T = TypeVar("T")
_NOTHING: Any = object()

BRIGHTNESS_BANDS = 3
"""Dark, middling and bright photos of a product are drawn in equal numbers."""

LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114])
"""Share of red, green and blue in perceived brightness (ITU-R BT.601)."""


class Recipe(BaseModel):
    """How calibration photos are chosen and what becomes of them.

    Attributes:
        name: What the bundle records.
        description: What it is for, in one sentence.
        photos: How many training photos to choose.
        seed: Chooses among photos that are equally good.
        range_method: `minmax` takes the lowest and highest value seen.
        gates: What the model may lose.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1)
    description: str
    photos: int = Field(ge=1)
    seed: int = Field(ge=0)
    range_method: Literal["minmax"] = "minmax"
    gates: Gates = Gates()


@dataclass(frozen=True)
class CalibrationSet:
    """The photos that a recipe chose.

    Attributes:
        recipe: The recipe.
        photos: The choice, in the order in which it was made.
        sha256: Digest of each photo's file.
        notes: What a user should know about the choice, a sentence each.
    """

    recipe: Recipe
    photos: tuple[Photo, ...]
    sha256: tuple[str, ...]
    notes: tuple[str, ...]

    def record(self) -> Calibration:
        """What the bundle's manifest says about it."""
        return Calibration(recipe=self.recipe.name, seed=self.recipe.seed, photo_sha256=self.sha256)


@dataclass(frozen=True)
class _Candidate:
    photo: Photo
    sha256: str
    luma: float


def load_recipe(name_or_path: str) -> Recipe:
    """Loads a recipe that comes with edgebcnn by its name, or a user's own by the path of its `.toml` file.

    Raises:
        DataError: no such recipe, or a key or value that does not fit.
    """
    return catalog.load(
        name_or_path, Recipe, package="edgebcnn._calibration", kind="calibration recipe", error=DataError
    )


def choose(
    dataset: ProductDataset,
    recipe: Recipe,
    *,
    preprocessing: Preprocessing,
    advance: Advance = lambda photos: None,
) -> CalibrationSet:
    """Chooses training photos: in turn one of each product, and of each product in turn a dark, middling, bright one.

    Brightness is the mean luma of the prepared photo; its bands are the terciles of each product. A photo whose file is
    byte for byte that of a held-out photo is never chosen, whatever its name.

    Args:
        dataset: Photos; `train` is chosen from, `val` and `test` are kept out.
        recipe: How many, and the seed.
        preprocessing: The model's.
        advance: Called with 1 after each training photo that was looked at.

    Raises:
        DataError: no training photo is left to choose from, or one cannot be read.
    """
    held_out = {_sha256(photo.path) for photo in (*dataset.val, *dataset.test)}
    candidates: dict[str, _Candidate] = {}
    leaks = 0
    for photo in dataset.train:
        digest = _sha256(photo.path)
        leaks += digest in held_out
        if digest not in held_out:
            luma = _luma(preprocessing.apply(read_photo(photo.path)))
            candidates.setdefault(digest, _Candidate(photo, digest, luma))
        advance(1)
    if not candidates:
        raise DataError(f"{dataset.origin} has no training photo that is not also held out: add some and train again")
    chosen = _stratified(tuple(candidates.values()), recipe)
    return CalibrationSet(
        recipe=recipe,
        photos=tuple(candidate.photo for candidate in chosen),
        sha256=tuple(candidate.sha256 for candidate in chosen),
        notes=tuple(_notes(recipe, tuple(candidates.values()), chosen=chosen, leaks=leaks)),
    )


def deal(queues: Sequence[Sequence[T]]) -> list[T]:
    """Takes one from each queue in turn, passing over those that are empty, until all are."""
    return [item for turn in zip_longest(*queues, fillvalue=_NOTHING) for item in turn if item is not _NOTHING]


def lot(seed: int, ticket: str | int) -> str:
    """A key that shuffles what is sorted by it, alike on every machine and with every version of every library."""
    return hashlib.sha256(f"{seed}:{ticket}".encode()).hexdigest()


def _stratified(candidates: Sequence[_Candidate], recipe: Recipe) -> list[_Candidate]:
    by_product: defaultdict[int, list[_Candidate]] = defaultdict(list)
    for candidate in candidates:
        by_product[candidate.photo.class_id].append(candidate)
    products = sorted(by_product, key=lambda class_id: lot(recipe.seed, class_id))
    # Each product begins with another band, so that a recipe of one photo a product is not all dark.
    queues = [_by_brightness(by_product[product], recipe.seed, first=turn) for turn, product in enumerate(products)]
    return deal(queues)[: recipe.photos]


def _by_brightness(candidates: Sequence[_Candidate], seed: int, *, first: int) -> list[_Candidate]:
    ordered = sorted(candidates, key=lambda candidate: (candidate.luma, candidate.sha256))
    cuts = [len(ordered) * band // BRIGHTNESS_BANDS for band in range(BRIGHTNESS_BANDS + 1)]
    bands = [
        sorted(ordered[low:high], key=lambda candidate: lot(seed, candidate.sha256)) for low, high in pairwise(cuts)
    ]
    first %= BRIGHTNESS_BANDS
    return deal(bands[first:] + bands[:first])


def _notes(
    recipe: Recipe, candidates: Sequence[_Candidate], *, chosen: Sequence[_Candidate], leaks: int
) -> Iterator[str]:
    if leaks:
        yield f"{leaks} training photos are also held out, byte for byte, and were left out of the calibration"
    if len(chosen) < recipe.photos:
        yield f"recipe {recipe.name} asks for {recipe.photos} photos and there are {len(chosen)}: all of them are used"
    unseen = len(_products(candidates)) - len(_products(chosen))
    if unseen:
        yield f"the {len(chosen)} calibration photos show nothing of {unseen} products: use a recipe with more photos"


def _products(candidates: Sequence[_Candidate]) -> set[int]:
    return {candidate.photo.class_id for candidate in candidates}


def _luma(pixels_u8: NDArray[np.uint8]) -> float:
    return float(pixels_u8.mean(axis=(0, 1)) @ LUMA_WEIGHTS)


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise UnreadablePhotoError(path, error.strerror or str(error)) from error
