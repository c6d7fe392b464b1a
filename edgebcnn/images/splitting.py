"""Splits photos into train, val and test so that nothing in val or test was seen in training.

Photos of one group (a store, a visit, a shelf) stay together, and so do near-duplicates, whatever their groups. Without
groups, each product's photos are cut into runs of neighboring file names, which often show one shelf.

The photos are not moved. The output are list files in a layout that `train` reads:

    OUTPUT/train.txt, val.txt, test.txt   path from OUTPUT, class id
    OUTPUT/labels.csv                     name,gtin,coarse
    OUTPUT/split.json                     how they were made; a folder that has it was written here
"""

from __future__ import annotations

import csv
import io
import os
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebcnn import __version__
from edgebcnn.atomic import json_bytes, replacing_folder
from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.images.dataset import MIN_PHOTOS_PER_CLASS, Photo, check_unreadable
from edgebcnn.images.facts import near_duplicates, read_facts
from edgebcnn.images.group_split import assign
from edgebcnn.images.groups import groups_by_pattern, groups_of_table
from edgebcnn.images.layouts import LABELS_COLUMNS, LABELS_NAME, SPLITS, natural_order, read_layout, some
from edgebcnn.images.near_duplicates import MAX_DISTANCE, joined
from edgebcnn.progress import Reporter

MARKER_NAME = "split.json"

_RUNS = 10  # of each product where no groups are given: a tenth of its photos is the least that one holds out
_MISSED_BY = 0.05  # of all photos: a split that is further from its share than that is told


@dataclass(frozen=True)
class SplitRequest:
    """A request for a split.

    Attributes:
        val: Share of the photos for val, above 0.
        test: Share of the photos for test; 0 for no test split.
        group_pattern: Regular expression that finds a photo's group in its path.
        groups_file: CSV file with the columns `path` and `group`; not with a pattern.
        max_distance: Bits of 256 that the fingerprints of near-duplicates differ in at most.
        seed: Orders groups of one size.
        allow_unreadable: Leave out unreadable photos however many there are; otherwise more than 1 % are an error.
    """

    val: float = 0.1
    test: float = 0.2
    group_pattern: str | None = None
    groups_file: Path | None = None
    max_distance: int = MAX_DISTANCE
    seed: int = 0
    allow_unreadable: bool = False

    def __post_init__(self) -> None:
        if not (self.val > 0 and self.test >= 0 and self.val + self.test < 1):
            raise DataError(
                f"val {self.val:g} and test {self.test:g} are impossible: val must be above 0, test 0 or more, and "
                "both together below 1, because train takes the rest"
            )
        if self.group_pattern is not None and self.groups_file is not None:
            raise DataError("a group pattern and a table of groups were given: leave out one of them")

    @property
    def fractions(self) -> dict[str, float]:
        """The share of each split, without those that ask for nothing."""
        shares = {"train": 1 - self.val - self.test, "val": self.val, "test": self.test}
        return {split: share for split, share in shares.items() if share > 0}


@dataclass(frozen=True)
class SplitResult:
    """What was written.

    Attributes:
        output: The folder.
        labels: Products; the index is the class id.
        counts: Photos of each product, by split.
        groups: Groups in each split, after near-duplicates joined some.
        pairs: Pairs of near-duplicates.
        leaks: Those of them that lie in two splits; counted in what was written.
        notes: Notices for the user.
    """

    output: Path
    labels: tuple[Label, ...]
    counts: Mapping[str, tuple[int, ...]]
    groups: Mapping[str, int]
    pairs: int
    leaks: int
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        names = [label.name for label in self.labels]
        return {
            "output": str(self.output),
            "photos": {split: dict(zip(names, counts, strict=True)) for split, counts in self.counts.items()},
            "groups": dict(self.groups),
            "near_duplicate_pairs": self.pairs,
            "near_duplicate_pairs_across_splits": self.leaks,
            "notes": list(self.notes),
        }


def split_photos(
    folder: Path, output: Path, *, request: SplitRequest, overwrite: bool = False, reporter: Reporter
) -> SplitResult:
    """Splits the photos of a folder, whatever splits it has, and writes list files.

    The same photos, request and seed give the same files.

    Args:
        folder: In one of the layouts of `edgebcnn.images.layouts`.
        output: Folder to write.
        request: Shares and groups.
        overwrite: Whether a split that was written there before may be replaced.
        reporter: Receives progress.

    Raises:
        DataError: the folder, the groups or `output` cannot be used, or no such split can be made.
        StorageError: the disk is full, or `output` cannot be written.
    """
    _check_output(folder, output, overwrite=overwrite)
    listing = read_layout(folder)
    listed = sorted((photo for of in listing.splits.values() for photo in of), key=lambda photo: str(photo.path))
    groups = dict(zip(listed, _groups(folder, listed, request), strict=True))
    facts, skipped = read_facts([photo.path for photo in listed], reporter=reporter)
    if not request.allow_unreadable:
        check_unreadable(folder, skipped, len(listed))
    photos = [photo for photo in listed if photo.path in facts]
    pairs = near_duplicates([facts[photo.path] for photo in photos], request.max_distance, reporter=reporter).tolist()
    grouped = _Grouped(photos, [groups[photo] for photo in photos], [(first, second) for first, second, _ in pairs])
    splits = grouped.split(request)
    _write(folder, output, listing.labels, photos, splits, request)
    counts = {split: tuple(_counts(photos, splits, split, len(listing.labels))) for split in request.fractions}
    return SplitResult(
        output=output,
        labels=listing.labels,
        counts=counts,
        groups=Counter(split for _, split in set(zip(grouped.members, splits, strict=True))),
        pairs=len(pairs),
        leaks=sum(splits[first] != splits[second] for first, second, _ in pairs),
        notes=(
            *listing.notes,
            *(f"left out {error}" for error in skipped),
            *_notes_on_groups(grouped, request),
            *_notes_on_shares(counts, request, max(Counter(grouped.members).values())),
            *_notes_on_products(listing.labels, counts, grouped),
        ),
    )


class _Grouped:
    """Photos, and the groups that they fall into when near-duplicates join those that they were given."""

    def __init__(self, photos: Sequence[Photo], names: Sequence[str], pairs: Sequence[tuple[int, int]]) -> None:
        first_of: dict[str, int] = {}
        links = [(first_of.setdefault(name, index), index) for index, name in enumerate(names)]
        self.photos = photos
        self.given = len(first_of)
        self.members: list[int] = joined(len(photos), [*links, *pairs]).tolist()
        """For each photo its group."""

    def products(self) -> dict[int, Counter[int]]:
        """The class ids in each group."""
        of_group: dict[int, Counter[int]] = {}
        for photo, group in zip(self.photos, self.members, strict=True):
            of_group.setdefault(group, Counter())[photo.class_id] += 1
        return of_group

    def split(self, request: SplitRequest) -> list[str]:
        """The split of each photo."""
        products = self.products()
        rng = random.Random(request.seed)
        chosen = assign(list(products.values()), request.fractions, min_train=MIN_PHOTOS_PER_CLASS, rng=rng)
        if empty := [split for split in request.fractions if split not in chosen]:
            raise DataError(
                f"nothing is left for {some(empty)}: {len(self.photos)} photos fall into {len(products)} groups, and "
                f"train needs {MIN_PHOTOS_PER_CLASS} photos of each product: give smaller groups, or add photos"
            )
        split_of = dict(zip(products, chosen, strict=True))
        return [split_of[group] for group in self.members]


def _check_output(folder: Path, output: Path, *, overwrite: bool) -> None:
    real, real_folder = output.resolve(), folder.resolve()
    if real == real_folder or real_folder in real.parents or real in real_folder.parents:
        raise DataError(f"{output} and {folder} contain each other: choose a folder outside the photos")
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    ours = {MARKER_NAME, LABELS_NAME, *(f"{split}.txt" for split in SPLITS)}
    found = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    if MARKER_NAME not in found or not found <= ours:
        raise DataError(f"{output} exists and is not a split made by edgebcnn: choose another folder")
    if not overwrite:
        raise DataError(f"{output} holds a split already: choose another folder, or pass --overwrite to replace it")


def _groups(folder: Path, photos: Sequence[Photo], request: SplitRequest) -> list[str]:
    """The name of each photo's group."""
    names = [_name(folder, photo.path) for photo in photos]
    if not names:
        raise DataError(f"{folder} has no photo that can be used: add some")
    if request.group_pattern is not None:
        return groups_by_pattern(names, request.group_pattern)
    if request.groups_file is not None:
        return groups_of_table(names, request.groups_file)
    return _runs(photos)


def _runs(photos: Sequence[Photo]) -> list[str]:
    """Each product's photos cut into runs of neighboring file names."""
    ordered = sorted(photos, key=lambda photo: natural_order(photo.path))
    totals, seen = Counter(photo.class_id for photo in photos), Counter[int]()
    runs: dict[Photo, str] = {}
    for photo in ordered:
        run = seen[photo.class_id] * _RUNS // max(totals[photo.class_id], _RUNS)
        runs[photo] = f"product {photo.class_id}, run {run}"
        seen[photo.class_id] += 1
    return [runs[photo] for photo in photos]


def _name(folder: Path, photo: Path) -> str:
    return (photo.relative_to(folder) if photo.is_relative_to(folder) else photo).as_posix()


def _write(
    folder: Path,
    output: Path,
    labels: Sequence[Label],
    photos: Sequence[Photo],
    splits: Sequence[str],
    request: SplitRequest,
) -> None:
    lines: dict[str, list[str]] = {split: [] for split in request.fractions}
    for photo, split in zip(photos, splits, strict=True):
        lines[split].append(_line(folder, output, photo))
    with replacing_folder(output) as part:
        for split, of_split in lines.items():
            (part / f"{split}.txt").write_text("".join(of_split), encoding="utf-8")
        (part / LABELS_NAME).write_text(_labels_csv(labels), encoding="utf-8")
        (part / MARKER_NAME).write_bytes(json_bytes(_record(folder, request)))


def _line(folder: Path, output: Path, photo: Photo) -> str:
    # Behind links, `..` leads from where the folder really is.
    place = os.path.join(os.path.realpath(folder), _name(folder, photo.path))
    line = f"{os.path.relpath(place, os.path.realpath(output))}, {photo.class_id}"
    if len(line.splitlines()) != 1 or line != line.encode(errors="replace").decode():
        raise DataError(
            f"{str(photo.path)!r} cannot be written to a list file: rename it, in UTF-8 and without a line break"
        )
    return line + "\n"


def _labels_csv(labels: Iterable[Label]) -> str:
    text = io.StringIO()
    rows = ((label.name, label.gtin, label.coarse) for label in labels)
    csv.writer(text, lineterminator="\n").writerows([LABELS_COLUMNS, *rows])
    return text.getvalue()


def _record(folder: Path, request: SplitRequest) -> dict[str, Any]:
    return {
        "edgebcnn": __version__,
        "photos": str(folder),
        "val": request.val,
        "test": request.test,
        "group_pattern": request.group_pattern,
        "groups": None if request.groups_file is None else str(request.groups_file),
        "max_distance": request.max_distance,
        "seed": request.seed,
    }


def _counts(photos: Sequence[Photo], splits: Sequence[str], split: str, products: int) -> list[int]:
    seen = Counter(photo.class_id for photo, of in zip(photos, splits, strict=True) if of == split)
    return [seen[class_id] for class_id in range(products)]


def _notes_on_groups(grouped: _Grouped, request: SplitRequest) -> Iterator[str]:
    if request.group_pattern is None and request.groups_file is None:
        yield (
            f"no groups were given, so runs of neighboring file names stay together, {_RUNS} per product; "
            "--group-pattern or --groups can say which photos are of one store, visit or shelf"
        )
    if before := grouped.given - len(set(grouped.members)):
        yield f"near-duplicates joined {before} of {grouped.given} groups to others"


def _notes_on_shares(counts: Mapping[str, tuple[int, ...]], request: SplitRequest, largest_group: int) -> Iterator[str]:
    total = sum(map(sum, counts.values()))
    for split, asked in request.fractions.items():
        share = sum(counts[split]) / total
        if abs(share - asked) > _MISSED_BY:
            yield (
                f"{split} has {100 * share:.0f} % of the photos instead of {100 * asked:.0f} %, because groups stay "
                f"whole: the largest has {largest_group} of {total} photos"
            )


def _notes_on_products(
    labels: Sequence[Label], counts: Mapping[str, tuple[int, ...]], grouped: _Grouped
) -> Iterator[str]:
    groups_with = Counter(class_id for products in grouped.products().values() for class_id in products)
    if single := [label.name for class_id, label in enumerate(labels) if groups_with[class_id] == 1]:
        yield (
            f"products with a single group of photos, which cannot be both held out and trained on: {some(single)}; "
            "photograph them on another visit"
        )
    for split, of_split in counts.items():
        lacking = [label.name for label, count in zip(labels, of_split, strict=True) if not count]
        if lacking and split != "train":
            yield f"{split} has no photo of {len(lacking)} of {len(labels)} products: {some(lacking)}"
    few = [f"{label.name} ({n})" for label, n in zip(labels, counts["train"], strict=True) if n < MIN_PHOTOS_PER_CLASS]
    if few:
        yield f"train has fewer than {MIN_PHOTOS_PER_CLASS} photos of {some(few)}, and will refuse them: add photos"
