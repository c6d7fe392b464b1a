"""Finds what is wrong with a folder of photos before training, the most serious first.

Serious findings are those that `train` refuses, or that falsify its figures: unreadable photos, near-duplicates in two
splits or with two labels, products with too few photos. The rest is worth a look.
"""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Label
from edgebcnn.errors import FindingsError, UnreadablePhotoError
from edgebcnn.images.dataset import MIN_PHOTOS_PER_CLASS, Photo, hold_out
from edgebcnn.images.facts import PhotoFacts, near_duplicates, read_facts
from edgebcnn.images.layouts import read_layout, some
from edgebcnn.images.near_duplicates import BITS, MAX_DISTANCE
from edgebcnn.progress import Reporter

BLURRIEST = 12
"""Number of least sharp photos that are shown, whether or not that is a fault."""

BLURRED_SHARE = 0.1  # of a product's median sharpness: all photos blurred by 2 px at 256 px fall below, 1 in 500 others
SMALL_PX = 224  # what `train` shows the network by default; smaller photos are enlarged
ELONGATED_RATIO = 2.0  # a crop to a square leaves out more than half
IMBALANCED_RATIO = 10.0


@dataclass(frozen=True)
class Case:
    """One example of a finding: a remark, and no photo, one, or two that are alike."""

    remark: str
    photos: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One kind of problem.

    Attributes:
        kind: Identifier for scripts.
        serious: Whether `train` refuses it, or it falsifies the figures.
        sentence: What was found, with its count.
        advice: What to do next.
        cases: Every case, the clearest first.
    """

    kind: str
    serious: bool
    sentence: str
    advice: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Inspection:
    """What is in a folder, and what is wrong with it.

    Attributes:
        folder: The folder.
        labels: Products; the index is the class id.
        counts: Readable photos of each product, by split.
        sizes: Width and height in pixels, and how many photos have them; the most common first.
        blurriest: The least sharp photos of their products.
        findings: The most serious first.
        notes: The layout, and how it was split.
    """

    folder: Path
    labels: tuple[Label, ...]
    counts: Mapping[str, tuple[int, ...]]
    sizes: tuple[tuple[int, int, int], ...]
    blurriest: tuple[Case, ...]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    @property
    def serious(self) -> tuple[Finding, ...]:
        """The findings that are serious."""
        return tuple(finding for finding in self.findings if finding.serious)

    def name_of(self, photo: Path) -> str:
        """Returns a photo's path relative to the folder, with undecodable bytes escaped."""
        inside = photo.relative_to(self.folder) if photo.is_relative_to(self.folder) else photo
        return os.fsencode(inside).decode(errors="backslashreplace")

    def refuse_serious(self) -> None:
        """Ends a strict inspection.

        Raises:
            FindingsError: a finding is serious.
        """
        if self.serious:
            kinds = some((finding.kind for finding in self.serious), limit=10)
            raise FindingsError(f"{self.folder} has serious findings ({kinds}): follow the advice next to each")

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        return {
            "folder": str(self.folder),
            "notes": list(self.notes),
            "photos": {
                split: {label.name: count for label, count in zip(self.labels, counts, strict=True)}
                for split, counts in self.counts.items()
            },
            "sizes": [{"width_px": width, "height_px": height, "photos": n} for width, height, n in self.sizes],
            "findings": [
                {
                    "kind": finding.kind,
                    "serious": finding.serious,
                    "sentence": finding.sentence,
                    "advice": finding.advice,
                    "count": len(finding.cases),
                    "cases": self._cases_json(finding.cases),
                }
                for finding in self.findings
            ],
            "blurriest": self._cases_json(self.blurriest),
        }

    def _cases_json(self, cases: Sequence[Case]) -> list[dict[str, Any]]:
        return [{"remark": case.remark, "photos": list(map(self.name_of, case.photos))} for case in cases]


def inspect_photos(folder: Path, *, seed: int = 0, max_distance: int = MAX_DISTANCE, reporter: Reporter) -> Inspection:
    """Looks at every photo of a folder.

    Args:
        folder: In one of the layouts of `edgebcnn.images.layouts`; splits that it lacks are cut as `train` cuts them.
        seed: Of that cut, as given to `train`.
        max_distance: Bits of 256 that the fingerprints of near-duplicates differ in at most.
        reporter: Receives progress.

    Raises:
        DataError: the folder, a list file or a labels file cannot be used, or there are too many near-duplicates.
    """
    listing = hold_out(read_layout(folder), seed)
    facts, skipped = read_facts([photo.path for of in listing.splits.values() for photo in of], reporter=reporter)
    splits, photos = [], []
    for split, of_split in listing.splits.items():
        readable = [photo for photo in of_split if photo.path in facts]
        photos += readable
        splits += [split] * len(readable)
    photo_facts = [facts[photo.path] for photo in photos]
    pairs = near_duplicates(photo_facts, max_distance, reporter=reporter)
    seen = _Seen(folder, listing.labels, tuple(listing.splits), splits, photos, photo_facts, pairs, skipped)
    return Inspection(
        folder=folder,
        labels=listing.labels,
        counts=seen.counts(),
        sizes=tuple((*size, count) for size, count in seen.sizes().most_common()),
        blurriest=tuple(seen.by_sharpness(BLURRIEST)),
        findings=tuple(sorted(seen.findings(), key=lambda finding: not finding.serious)),
        notes=listing.notes,
    )


@dataclass(frozen=True)
class _Seen:
    """The photos read; `splits`, `photos` and `facts` have an entry per readable photo, which `pairs` refers to."""

    folder: Path
    labels: tuple[Label, ...]
    all_splits: tuple[str, ...]
    splits: Sequence[str]
    photos: Sequence[Photo]
    facts: Sequence[PhotoFacts]
    pairs: NDArray[np.int32]
    skipped: Sequence[UnreadablePhotoError]

    def counts(self) -> dict[str, tuple[int, ...]]:
        seen = Counter((split, photo.class_id) for split, photo in zip(self.splits, self.photos, strict=True))
        return {split: tuple(seen[split, id_] for id_ in range(len(self.labels))) for split in self.all_splits}

    def sizes(self) -> Counter[tuple[int, int]]:
        return Counter((photo.width_px, photo.height_px) for photo in self.facts)

    def findings(self) -> Iterator[Finding]:
        yield from self._unreadable()
        yield from self._near_duplicates()
        yield from self._counted()
        yield from self._blurred()
        yield from self._badly_exposed()
        yield from self._badly_sized()

    def _unreadable(self) -> Iterator[Finding]:
        if self.skipped:
            yield Finding(
                "unreadable",
                True,
                f"{_photos(len(self.skipped))} of {len(self.photos) + len(self.skipped)} cannot be read",
                "replace or remove them; train skips them, and refuses more than 1 %",
                tuple(Case(error.reason, (error.path,)) for error in self.skipped),
            )

    def _near_duplicates(self) -> Iterator[Finding]:
        leaks, clashes, repeats = [], [], []
        crossings: Counter[str] = Counter()
        for first, second, distance in sorted(self.pairs.tolist(), key=lambda pair: pair[2]):
            case = Case(f"{distance} of {BITS} bits differ", (self.photos[first].path, self.photos[second].path))
            if across := self.splits[first] != self.splits[second]:
                crossing = f"{self.splits[first]}-{self.splits[second]}"
                crossings[crossing] += 1
                leaks.append(Case(f"{crossing}, {case.remark}", case.photos))
            names = [self.labels[self.photos[index].class_id].name for index in (first, second)]
            if names[0] != names[1]:
                clashes.append(Case(f"{names[0]} | {names[1]}, {case.remark}", case.photos))
            elif not across:
                repeats.append(Case(f"{names[0]}, {case.remark}", case.photos))
        if leaks:
            between = some(f"{count} {crossing}" for crossing, count in crossings.items())
            command = f"edgebcnn data split {quote(str(self.folder))} --output DIR"
            yield Finding(
                "leak",
                True,
                f"{_pairs(len(leaks))} of near-duplicates in two splits ({between}): training sees them",
                f"make new splits, which keep near-duplicates together: {command}",
                tuple(leaks),
            )
        if clashes:
            yield Finding(
                "two-labels",
                True,
                f"{_pairs(len(clashes))} of near-duplicates with two labels: one may be mislabeled",
                "look at both; correct a wrong label, or remove the photo if it shows both products",
                tuple(clashes),
            )
        if repeats:
            yield Finding(
                "repeats",
                False,
                f"{_pairs(len(repeats))} of near-duplicates of one product in one split",
                "they add little: photograph the product from other sides, on other days, on other shelves",
                tuple(repeats),
            )

    def _counted(self) -> Iterator[Finding]:
        counts = {split: list(zip(self.labels, of_split, strict=True)) for split, of_split in self.counts().items()}
        few = [(count, label.name) for label, count in counts["train"] if count < MIN_PHOTOS_PER_CLASS]
        if few:
            yield Finding(
                "too-few",
                True,
                f"{_products(len(few))} with fewer than {MIN_PHOTOS_PER_CLASS} readable photos in train",
                "take more photos of them, or leave them out: train refuses so few",
                tuple(Case(f"{name}: {count}") for count, name in sorted(few)),
            )
        missing = [
            (split, label.name) for split in counts for label, count in counts[split] if split != "train" and not count
        ]
        if missing:
            by_split = Counter(split for split, _ in missing)
            yield Finding(
                "missing",
                False,
                some(f"{_products(count)} without a photo in {split}" for split, count in by_split.items()),
                "no figure can be given for them: photograph them again, or split again",
                tuple(Case(f"{split}: {name}") for split, name in missing),
            )
        ranked = sorted((count, label.name) for label, count in counts["train"] if count)
        if ranked and (ratio := ranked[-1][0] / ranked[0][0]) > IMBALANCED_RATIO:
            yield Finding(
                "imbalance",
                False,
                f"the most frequent product has {ratio:.0f} times the train photos of the rarest",
                "take more photos of the rare ones: a model learns to guess the frequent ones",
                tuple(Case(f"{name}: {count}") for count, name in ranked if count * IMBALANCED_RATIO < ranked[-1][0]),
            )

    def _blurred(self) -> Iterator[Finding]:
        blurred = list(self.by_sharpness(None, below=BLURRED_SHARE))
        if blurred:
            yield Finding(
                "blurred",
                False,
                f"{_photos(len(blurred))} with less than a tenth of the usual sharpness of their product",
                "look at them, and take them again where a person could not tell the product",
                tuple(blurred),
            )

    def by_sharpness(self, limit: int | None, below: float = np.inf) -> Iterator[Case]:
        """The least sharp photos, relative to their product, first."""
        of_product: defaultdict[int, list[float]] = defaultdict(list)
        for photo, facts in zip(self.photos, self.facts, strict=True):
            of_product[photo.class_id].append(facts.sharpness)
        usual = {class_id: max(median(values), 1e-6) for class_id, values in of_product.items()}
        shares = [
            (facts.sharpness / usual[photo.class_id], index)
            for index, (photo, facts) in enumerate(zip(self.photos, self.facts, strict=True))
        ]
        for share, index in sorted(shares)[:limit]:
            if share < below:
                name = self.labels[self.photos[index].class_id].name
                remark = f"{name}, {100 * share:.0f} % of its usual sharpness ({self.facts[index].sharpness:.0f})"
                yield Case(remark, (self.photos[index].path,))

    def _badly_exposed(self) -> Iterator[Finding]:
        cases = [
            Case(facts.fault, (photo.path,))
            for photo, facts in zip(self.photos, self.facts, strict=True)
            if facts.fault
        ]
        if cases:
            kinds = some(f"{count} {fault}" for fault, count in Counter(case.remark for case in cases).items())
            yield Finding(
                "exposure",
                False,
                f"{_photos(len(cases))} with bad exposure ({kinds})",
                "look at them, and take them again in better light",
                tuple(cases),
            )

    def _badly_sized(self) -> Iterator[Finding]:
        small, elongated = [], []
        for photo, facts in zip(self.photos, self.facts, strict=True):
            shorter, longer = sorted((facts.width_px, facts.height_px))
            case = Case(f"{facts.width_px} × {facts.height_px} px", (photo.path,))
            if shorter < SMALL_PX:
                small.append((shorter, case))
            if longer > ELONGATED_RATIO * shorter:
                elongated.append((shorter / longer, case))
        if small:
            yield Finding(
                "small",
                False,
                f"{_photos(len(small))} with a side below {SMALL_PX} px, which train enlarges",
                "take larger photos, or train on smaller ones with --train-px and --input-px",
                tuple(case for _, case in sorted(small, key=lambda each: each[0])),
            )
        if elongated:
            yield Finding(
                "elongated",
                False,
                f"{_photos(len(elongated))} more than {ELONGATED_RATIO:.0f} times as long as wide",
                "cut them around the product: models see a square from their middle, less than half of them",
                tuple(case for _, case in sorted(elongated, key=lambda each: each[0])),
            )


def _photos(count: int) -> str:
    return f"{count} photo{'s' * (count != 1)}"


def _pairs(count: int) -> str:
    return f"{count} pair{'s' * (count != 1)}"


def _products(count: int) -> str:
    return f"{count} product{'s' * (count != 1)}"
