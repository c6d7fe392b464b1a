"""Loads labeled photos in train, val and test splits, and checks that each photo can be read.

`layouts` lists the photos of a folder; this module makes missing splits, checks the whole, and opens each photo.

Missing splits are made by cutting each product's photos, in natural order of their names, into runs. Neighboring photos
often show the same shelf; a random split would put it on both sides, and make the model look better than it is.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TypeVar

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError, UnreadablePhotoError
from edgebcnn.images.layouts import Listing, Photo, natural_order, read_layout, some
from edgebcnn.preprocessing import read_photo

__all__ = [
    "MIN_PHOTOS_PER_CLASS",
    "Photo",
    "ProductDataset",
    "check_unreadable",
    "hold_out",
    "load_dataset",
    "open_photos",
    "read_photos",
]

# With fewer, training sees one or two views of a product, and so few photos cannot be held out either.
MIN_PHOTOS_PER_CLASS = 5
MAX_UNREADABLE_SHARE = 0.01
HELD_OUT_SHARE = 0.15  # of each product, for val and again for test: enough to measure by, most left to learn from

Value = TypeVar("Value")


@dataclass(frozen=True)
class ProductDataset:
    """Readable photos of known products.

    Attributes:
        origin: Folder that they were loaded from.
        labels: Products; the index is the class id.
        train: Photos to train on.
        val: Photos for model selection.
        test: Photos to measure on; empty if the data set has none.
        skipped: Photos that cannot be read, and why.
        notes: Notices for the user: the layout, how it was split, what was ignored or looks wrong.
        unlabelled: Photos without a label, class id -1, for distillation from the full model.
    """

    origin: Path
    labels: tuple[Label, ...]
    train: tuple[Photo, ...]
    val: tuple[Photo, ...]
    test: tuple[Photo, ...]
    skipped: tuple[UnreadablePhotoError, ...]
    notes: tuple[str, ...]
    unlabelled: tuple[Photo, ...] = ()

    @property
    def held_out(self) -> tuple[Photo, ...]:
        """Photos that reports are made on: `test`, or `val` where there is no test."""
        return self.test or self.val

    @property
    def held_out_name(self) -> str:
        """Which of the two `held_out` is."""
        return "test" if self.test else "val"


def _no_progress(done: int, total: int) -> None:
    """The default of `on_photo`."""


def load_dataset(
    path: Path,
    *,
    seed: int = 0,
    allow_unreadable: bool = False,
    min_photos: int = MIN_PHOTOS_PER_CLASS,
    on_photo: Callable[[int, int], None] = _no_progress,
) -> ProductDataset:
    """Loads a folder of photos, opening each one to see that it can be read.

    Args:
        path: Folder in one of the layouts of `edgebcnn.images.layouts`.
        seed: Chooses the runs that are held out where the data set does not say. With the same file names and seed the
            split is always the same, whichever photos turn out to be unreadable.
        allow_unreadable: Skip unreadable photos however many there are; otherwise more than 1 % are an error.
        min_photos: Photos that each product needs in train.
        on_photo: Called in this thread after each photo, with the numbers of photos opened and to open.

    Raises:
        DataError: the folder, a list file or the photos cannot be used.
    """
    listing = hold_out(read_layout(path), seed)
    _check_products(path, listing, min_photos)
    photos = [photo for of_split in listing.splits.values() for photo in of_split]
    digests, skipped = open_photos(path, photos, allow_unreadable=allow_unreadable, on_photo=on_photo)
    readable = {
        split: tuple(photo for photo in photos if photo.path in digests) for split, photos in listing.splits.items()
    }
    listing = replace(listing, splits=readable)
    _check_products(path, listing, min_photos)
    return ProductDataset(
        origin=path,
        labels=listing.labels,
        train=readable["train"],
        val=readable["val"],
        test=readable.get("test", ()),
        skipped=tuple(skipped),
        notes=(*listing.notes, *_notes_on_gaps(listing), *_notes_on_copies(listing, digests)),
    )


def open_photos(
    origin: Path,
    photos: Sequence[Photo],
    *,
    allow_unreadable: bool = False,
    on_photo: Callable[[int, int], None] = _no_progress,
) -> tuple[dict[Path, bytes], list[UnreadablePhotoError]]:
    """Opens each photo to see that it can be read.

    Args:
        origin: Folder that an error names.
        photos: The photos.
        allow_unreadable: Skip unreadable photos however many there are; otherwise more than 1 % are an error.
        on_photo: Called in this thread after each photo, with the numbers of photos opened and to open.

    Returns:
        SHA-256 of each photo that can be read, by its path, and an error for each that cannot.

    Raises:
        DataError: too many photos cannot be read.
    """
    paths = [photo.path for photo in photos]
    digests, skipped = read_photos(paths, _digest, on_photo=on_photo)
    if not allow_unreadable:
        check_unreadable(origin, skipped, len(paths))
    return digests, skipped


def read_photos(
    paths: Sequence[Path],
    read: Callable[[Path], Value],
    *,
    on_photo: Callable[[int, int], None] = _no_progress,
) -> tuple[dict[Path, Value], list[UnreadablePhotoError]]:
    """Reads photos on all cores.

    Args:
        paths: The photos.
        read: Extracts a value from a photo; raises `UnreadablePhotoError` or `OSError` where it cannot be read.
        on_photo: Called in this thread after each photo, with the numbers of photos read and to read.

    Returns:
        The value of each photo, by its path, and an error for each that cannot be read.
    """

    def outcome_of(path: Path) -> Value | UnreadablePhotoError:
        try:
            return read(path)
        except UnreadablePhotoError as error:
            return error
        except OSError as error:  # removed, or the network drive lost, between two reads
            return UnreadablePhotoError(path, error.strerror or str(error))

    values: dict[Path, Value] = {}
    skipped: list[UnreadablePhotoError] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # OpenCV and hashlib let go of the GIL
        try:
            for path, outcome in zip(paths, pool.map(outcome_of, paths), strict=True):
                if isinstance(outcome, UnreadablePhotoError):
                    skipped.append(outcome)
                else:
                    values[path] = outcome
                on_photo(len(values) + len(skipped), len(paths))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or Ctrl-C would wait for the photos still in the queue
            raise
    return values, skipped


def check_unreadable(origin: Path, skipped: Sequence[UnreadablePhotoError], total: int) -> None:
    """Checks that at most 1 % of the photos cannot be read.

    Args:
        origin: Folder that an error names.
        skipped: The errors of those that cannot.
        total: How many photos there are.

    Raises:
        DataError: more than that cannot.
    """
    if len(skipped) <= MAX_UNREADABLE_SHARE * total:
        return
    first = some((str(error) for error in skipped), limit=3)
    raise DataError(
        f"{origin}: {len(skipped)} of {total} photos cannot be read, more than {100 * MAX_UNREADABLE_SHARE:.0f} % "
        f"({first}): replace or remove them, or pass --allow-unreadable"
    )


def hold_out(listing: Listing, seed: int) -> Listing:
    """Cuts val from train where the folder has none, and test as well where it has neither.

    Args:
        listing: What the folder says.
        seed: Chooses the runs that are held out.
    """
    if "val" in listing.splits:
        return listing
    missing = ["val"] if "test" in listing.splits else ["val", "test"]
    cut: dict[str, list[Photo]] = {split: [] for split in ("train", *missing)}
    for class_id, label in enumerate(listing.labels):
        photos = [photo for photo in listing.splits["train"] if photo.class_id == class_id]
        # A generator of its own for each product, so that adding one leaves the others' photos where they were.
        runs = _cut_into_runs(photos, missing, random.Random(f"{seed} {label.name}"))
        for split, run in runs.items():
            cut[split] += run
    note = (
        f"split: {' and '.join(missing)} cut from train, each {100 * HELD_OUT_SHARE:.0f} % of every product's photos, "
        f"as runs of neighboring file names, because neighbors often show the same shelf (seed {seed})"
    )
    return replace(listing, splits={**listing.splits, **cut}, notes=(*listing.notes, note))


def _cut_into_runs(photos: Sequence[Photo], held_out: Sequence[str], rng: random.Random) -> dict[str, list[Photo]]:
    """Cuts one product's photos into one run for each split, in random order: the fewest places where splits touch."""
    size = min(max(1, round(HELD_OUT_SHARE * len(photos))), max(0, len(photos) - 1) // len(held_out))
    sizes = {"train": len(photos) - size * len(held_out), **dict.fromkeys(held_out, size)}
    remaining = iter(sorted(photos, key=lambda photo: natural_order(photo.path)))
    return {split: list(islice(remaining, sizes[split])) for split in rng.sample(list(sizes), len(sizes))}


def _check_products(origin: Path, listing: Listing, min_photos: int) -> None:
    if len(listing.labels) < 2:
        raise DataError(f"{origin} has fewer than two products: a classifier needs at least two")
    counts = {split: _photos_per_class(photos) for split, photos in listing.splits.items()}
    for split, of_split in counts.items():
        if not of_split:
            raise DataError(f"{origin}: {split} has no photo that can be used: add some, or remove the split")
        unknown = [listing.labels[class_id].name for class_id in of_split if not counts["train"][class_id]]
        if unknown:
            raise DataError(
                f"{origin}: {split} has photos of {some(unknown)}, of which train has none: add some to train"
            )
    few = [
        f"{label.name} ({counts['train'][class_id]} of {sum(of_split[class_id] for of_split in counts.values())})"
        for class_id, label in enumerate(listing.labels)
        if counts["train"][class_id] < min_photos
    ]
    if few:
        raise DataError(
            f"{origin}: train has fewer than {min_photos} usable photos of {some(few)}: "
            "add photos or leave these products out"
        )


def _digest(path: Path) -> bytes:
    read_photo(path)
    return hashlib.sha256(path.read_bytes()).digest()


def _notes_on_gaps(listing: Listing) -> Iterator[str]:
    if "test" not in listing.splits:
        yield "there is no test split: reports use val, which training also chooses by, and so flatter the model"
    for split, photos in listing.splits.items():
        seen = _photos_per_class(photos)
        lacking = [label.name for class_id, label in enumerate(listing.labels) if not seen[class_id]]
        if lacking:
            yield f"{split} has no photo of {len(lacking)} of {len(listing.labels)} products: {some(lacking)}"


def _notes_on_copies(listing: Listing, digests: Mapping[Path, bytes]) -> Iterator[str]:
    """Photos that are in two splits under different names, byte for byte."""
    for split, other in (("val", "train"), ("test", "train"), ("test", "val")):
        originals = {digests[photo.path]: photo.path for photo in listing.splits.get(other, ())}
        copies = [photo.path for photo in listing.splits.get(split, ()) if digests[photo.path] in originals]
        if copies:
            yield (
                f"photos of {split} that are also in {other}, byte for byte, so figures are too good: {len(copies)}, "
                f"the first is {copies[0]} = {originals[digests[copies[0]]]}"
            )


def _photos_per_class(photos: Sequence[Photo]) -> Counter[int]:
    return Counter(photo.class_id for photo in photos)
