"""Chooses the labelled photos for an evaluation: a run's held-out photos, or a folder.

A folder's products are matched to the model's by name. It need not be fit to train on: one photo of one product is
enough, and a folder that has no splits is taken whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.images.dataset import Photo, open_photos
from edgebcnn.images.layouts import Listing, read_layout, some
from edgebcnn.progress import Reporter
from edgebcnn.train.run_folder import TrainedRun

Split = Literal["train", "val", "test"]

HELD_OUT: tuple[Split, ...] = ("test", "val")
"""Splits that a model was not fitted on, the better one for an evaluation first."""


@dataclass(frozen=True)
class LabelledPhotos:
    """Photos that can be read, with the class ids of the model that is evaluated on them.

    Attributes:
        source: Where they are from, such as `test photos of data`.
        photos: The photos, at least one.
        notes: Messages for the user.
    """

    source: str
    photos: tuple[Photo, ...]
    notes: tuple[str, ...] = ()


def of_run(run: TrainedRun, split: Split | None) -> LabelledPhotos:
    """Photos of a run.

    Args:
        run: The run.
        split: Which; by default those that it held out.

    Raises:
        DataError: it has none.
    """
    chosen = split or run.dataset.held_out_name
    photos: tuple[Photo, ...] = getattr(run.dataset, chosen)
    if not photos:
        raise DataError(f"{run.path} has no {chosen} photos: choose another --split, or give photos with --data")
    return LabelledPhotos(f"{chosen} photos of run {run.path.name}", photos)


def of_folder(
    folder: Path,
    labels: Sequence[Label],
    *,
    split: Split | None = None,
    allow_unreadable: bool = False,
    reporter: Reporter,
) -> LabelledPhotos:
    """Photos of a folder in one of the layouts of `edgebcnn.images.layouts`.

    Args:
        folder: The folder.
        labels: Products of the model, in the order of its class ids.
        split: Which photos; by default `test`, or `val` where there is no test, or all where there are no splits.
        allow_unreadable: Skip unreadable photos however many there are; otherwise more than 1 % are an error.
        reporter: Receives progress and messages.

    Raises:
        DataError: the folder cannot be used, has no such split or no photo in it, or has products that the model does
            not know.
    """
    listing = read_layout(folder)
    chosen = _chosen(folder, listing, split)
    source = f"{chosen} photos of {folder}" if listing.has_splits else f"photos of {folder}"
    photos = _with_ids_of(labels, folder, listing, listing.splits[chosen])
    with reporter.progress("reading photos", len(photos)) as advance:
        digests, skipped = open_photos(
            folder, photos, allow_unreadable=allow_unreadable, on_photo=lambda done, total: advance(1)
        )
    readable = tuple(photo for photo in photos if photo.path in digests)
    if not readable:
        raise DataError(f"{folder} holds no photo that can be used: add one folder of photos a product")
    return LabelledPhotos(source, readable, (*listing.notes, *(f"skipped {error}" for error in skipped)))


def note_on_training_photos(photos: Sequence[Photo], run: TrainedRun) -> str | None:
    """A sentence on the photos that the run was fitted on or chosen by, None where there are none."""
    used = {photo.path.resolve() for photo in (*run.dataset.train, *run.dataset.val)}
    count = sum(photo.path.resolve() in used for photo in photos)
    if not count:
        return None
    return f"run {run.path.name} was fitted on or chosen by {count} of these {len(photos)} photos: its figures flatter"


def check_that_products_are_known(names: Iterable[str], labels: Sequence[Label], *, where: str, model: str) -> None:
    """Checks that a model knows every product by its name.

    Args:
        names: Products that the photos show.
        labels: Products of the model.
        where: What holds the photos, for the message.
        model: The model, for the message.

    Raises:
        DataError: it does not; lists the products with the closest that it knows.
    """
    shown, known = set(names), [label.name for label in labels]
    if unknown := sorted(shown.difference(known)):
        raise DataError(
            f"{where} has {len(unknown)} of {len(shown)} products that {model} does not know: "
            f"{some((_with_closest(name, known) for name in unknown), limit=20)}; "
            "rename these, leave them out, or train a model that knows them"
        )


def _chosen(folder: Path, listing: Listing, split: Split | None) -> Split:
    if not listing.has_splits:
        if split:
            raise DataError(f"{folder} has no splits, only one folder per product: leave out --split")
        return "train"
    held_out: list[Split] = [name for name in HELD_OUT if listing.splits.get(name)]
    chosen = split or (held_out[0] if held_out else None)
    if chosen is None:
        raise DataError(f"{folder} has no test or val photos: evaluate on the rest with --split train")
    if not listing.splits.get(chosen):
        raise DataError(f"{folder} has no {chosen} photos: add some, or choose another --split")
    return chosen


def _with_ids_of(labels: Sequence[Label], folder: Path, listing: Listing, photos: Sequence[Photo]) -> list[Photo]:
    names = [listing.labels[photo.class_id].name for photo in photos]
    check_that_products_are_known(names, labels, where=str(folder), model="the model")
    class_ids = {label.name: class_id for class_id, label in enumerate(labels)}
    return [replace(photo, class_id=class_ids[name]) for photo, name in zip(photos, names, strict=True)]


def _with_closest(name: str, known: Sequence[str]) -> str:
    closest = get_close_matches(name, known, n=1)
    return f"{name} (closest: {closest[0]})" if closest else name
