"""Lists the photos of a folder with their split and product.

The layout follows from the files and folders that exist:

    train.txt, val.txt, test.txt, classes.csv   list files, as the Grocery Store data set is published
    train.txt, val.txt, test.txt, labels.csv    list files, as `edgebcnn data split` writes them
    train/, val/, test/                         one folder per product in each
    anything else                               one folder per product

`labels.csv` (columns `name`, `gtin`, `coarse`; the last two optional) in the top folder gives GTINs, coarse classes and
the order of class ids; folders without it have their products sorted by name. A line of a list file is
`path, class id`, with classes.csv `path, class id, coarse class id`. Folders inside a product's folder belong to that
product, links are followed, hidden files are skipped. No photo is opened here.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebcnn.bundle import Label
from edgebcnn.errors import DataError
from edgebcnn.preprocessing import PHOTO_SUFFIXES
from edgebcnn.untrusted import files

SPLITS = ("train", "val", "test")
LABELS_NAME = "labels.csv"
LABELS_COLUMNS = ("name", "gtin", "coarse")

_CLASSES_NAME = "classes.csv"
_CLASSES_COLUMNS = ["Class Name (str)", "Class ID (int)", "Coarse Class Name (str)", "Coarse Class ID (int)"]
_LIST_LINE = re.compile(r"\s*(?P<photo>\S.*?)\s*,\s*(?P<fine>\d{1,9})\s*")
_LIST_LINE_COARSE = re.compile(_LIST_LINE.pattern + r",\s*(?P<coarse>\d{1,9})\s*")


@dataclass(frozen=True)
class Photo:
    """One photo and the product that it shows."""

    path: Path
    class_id: int


@dataclass(frozen=True)
class Listing:
    """What a folder names.

    Attributes:
        labels: Products; the index is the class id.
        splits: Photos by split; `train` is always there, and holds all where the folder has no splits.
        notes: The layout, and what was ignored.
        has_splits: Whether the folder says which photo is in which split.
    """

    labels: tuple[Label, ...]
    splits: Mapping[str, Sequence[Photo]]
    notes: tuple[str, ...]
    has_splits: bool = True


def read_layout(root: Path) -> Listing:
    """Lists the photos of a folder in one of the layouts above.

    Raises:
        DataError: the folder is missing or empty, or a list file, `classes.csv` or `labels.csv` does not fit.
    """
    try:
        if not root.is_dir():
            raise DataError(f"{root} is not a folder: give the folder that holds your photos")
        if list_files := _present_splits(root, ".txt"):
            return _from_list_files(root, list_files)
        return _from_class_folders(root, _present_splits(root, "") or {"train": root})
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read ({error.strerror}): add it or allow reading it") from error


def natural_order(path: Path) -> list[str | int]:
    """Sort key under which `shelf_9` comes before `shelf_10`."""
    # Text and numbers alternate, text first, so that two keys never compare one with the other.
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def some(names: Iterable[str], *, limit: int = 5) -> str:
    """`a, b, c, d, e and 7 more`."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more


def _present_splits(root: Path, suffix: str) -> dict[str, Path]:
    found = {split: root / f"{split}{suffix}" for split in SPLITS if (root / f"{split}{suffix}").exists()}
    if found and "train" not in found:
        raise DataError(f"{root} has {some(path.name for path in found.values())} but no train{suffix}: add it")
    return found


def _from_list_files(root: Path, list_files: Mapping[str, Path]) -> Listing:
    labels, coarse_ids, names_file = _list_labels(root)
    splits: dict[str, list[Photo]] = {}
    listed_at: dict[Path, str] = {}
    for split, file in list_files.items():
        splits[split] = []
        for where, name, class_id, coarse_id in _list_lines(file, with_coarse=coarse_ids is not None):
            path = root / name
            if class_id >= len(labels):
                raise DataError(
                    f"{where}: class id {class_id} is not in {names_file}, which ends at {len(labels) - 1}: correct it"
                )
            if coarse_ids is not None and coarse_id != coarse_ids[class_id]:
                raise DataError(
                    f"{where}: coarse class id {coarse_id}, but classes.csv says {coarse_ids[class_id]}: correct it"
                )
            if path in listed_at:
                raise DataError(f"{where}: {name} was listed before, in {listed_at[path]}: keep one of the two lines")
            if not path.is_file():
                raise DataError(f"{where}: there is no photo {path}: add it or remove the line")
            listed_at[path] = where
            splits[split].append(Photo(path, class_id))
    names = some(file.name for file in list_files.values())
    return Listing(labels, splits, (f"layout: list files {names} with {names_file}",))


def _list_labels(root: Path) -> tuple[tuple[Label, ...], list[int] | None, str]:
    """Labels, coarse class ids if the lists give them too, and the file that they are from."""
    ours = root / LABELS_NAME
    if ours.exists() and not (root / _CLASSES_NAME).exists():
        return tuple(label for _, label in _read_labels(ours)), None, LABELS_NAME
    return *_read_classes(root / _CLASSES_NAME), _CLASSES_NAME


def _list_lines(file: Path, *, with_coarse: bool) -> Iterator[tuple[str, str, int, int | None]]:
    """Place, path, class id and coarse class id of each line."""
    pattern = _LIST_LINE_COARSE if with_coarse else _LIST_LINE
    expected = "path, class id, coarse class id" if with_coarse else "path, class id"
    for number, line in enumerate(read_text(file).splitlines(), start=1):
        if not line.strip():
            continue
        match = pattern.fullmatch(line)
        if not match:
            raise DataError(f"{file}, line {number}: expected '{expected}', found {line.strip()!r}: correct it")
        coarse_id = int(match["coarse"]) if with_coarse else None
        yield f"{file}, line {number}", match["photo"], int(match["fine"]), coarse_id


def _read_classes(file: Path) -> tuple[tuple[Label, ...], list[int]]:
    """Labels and coarse class ids, both in the order of class ids."""
    products: dict[int, tuple[Label, int]] = {}
    names: set[str] = set()
    for where, cells in _csv_rows(file, _CLASSES_COLUMNS, at_least=len(_CLASSES_COLUMNS)):
        name, class_id, coarse, coarse_id = cells
        if not (name and class_id.isdecimal() and coarse and coarse_id.isdecimal()):
            raise DataError(f"{where}: expected a name, an id, a coarse name and a coarse id, found {cells}")
        if name in names or int(class_id) in products:
            raise DataError(f"{where}: name {name} or id {class_id} was given before: a product has one line")
        names.add(name)
        products[int(class_id)] = Label(name=name, coarse=coarse), int(coarse_id)
    if sorted(products) != list(range(len(products))):
        raise DataError(f"{file}: {len(products)} class ids must run from 0 to {len(products) - 1} without a gap")
    ordered = [products[class_id] for class_id in range(len(products))]
    return tuple(label for label, _ in ordered), [coarse_id for _, coarse_id in ordered]


def _from_class_folders(root: Path, split_folders: Mapping[str, Path]) -> Listing:
    product_folders = {split: _product_folders(folder) for split, folder in split_folders.items()}
    names = {name for folders in product_folders.values() for name in folders}
    if not names:
        raise DataError(
            f"{root} holds no products: expected train.txt, a train folder, or one folder of photos a product"
        )
    labels = _folder_labels(root / LABELS_NAME, names)
    class_ids = {label.name: class_id for class_id, label in enumerate(labels)}
    files = {
        split: [Photo(path, class_ids[name]) for name, folder in folders.items() for path in _walk(folder)]
        for split, folders in product_folders.items()
    }
    splits = {split: [file for file in found if _is_photo(file.path)] for split, found in files.items()}
    where = "the top folder" if split_folders["train"] == root else some(split_folders)
    other_files = [file.path for found in files.values() for file in found if not _is_photo(file.path)]
    notes = (f"layout: one folder per product in {where}", *_notes_on_ignored(split_folders, other_files))
    return Listing(labels, splits, notes, has_splits=split_folders["train"] != root)


def _notes_on_ignored(split_folders: Mapping[str, Path], other_files: Sequence[Path]) -> Iterator[str]:
    strays = [path for folder in split_folders.values() for path in _entries(folder) if _is_photo(path)]
    if strays:
        yield f"ignored photos that lie outside any product's folder: {len(strays)}, the first is {strays[0]}"
    if other_files:
        suffixes = Counter(path.suffix.lower() or path.name for path in other_files).most_common()
        kinds = some(f"{count} {suffix}" for suffix, count in suffixes)
        yield f"ignored files that are not photos we read: {len(other_files)} ({kinds}); convert photos to JPEG or PNG"


def _product_folders(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    spelled: dict[str, Path] = {}
    for entry in filter(Path.is_dir, _entries(folder)):
        # macOS writes the same accented name in other code points than Linux and Windows do.
        name = unicodedata.normalize("NFC", entry.name)
        if name != name.encode(errors="replace").decode():
            raise DataError(f"{entry}: the name of a product must be UTF-8 text: rename the folder")
        if (other := spelled.setdefault(name.casefold(), entry)) != entry:
            raise DataError(f"{other} and {entry.name} are one product in two spellings: merge or rename them")
        found[name] = entry
    return found


def _folder_labels(file: Path, names: set[str]) -> tuple[Label, ...]:
    if not file.exists():
        return tuple(Label(name=name) for name in sorted(names))
    labels: list[Label] = []
    for where, label in _read_labels(file):
        if label.name not in names:
            raise DataError(f"{where}: there is no folder named {label.name!r}: add it or remove the line")
        labels.append(label)
    if missing := sorted(names.difference(label.name for label in labels)):
        raise DataError(f"{file} lacks {some(missing)}: add a line for each product's folder")
    return tuple(labels)


def _read_labels(file: Path) -> Iterator[tuple[str, Label]]:
    """Place and label of each line of `labels.csv`."""
    given: set[str] = set()
    for where, (name, gtin, coarse) in _csv_rows(file, LABELS_COLUMNS, at_least=1):
        name = unicodedata.normalize("NFC", name)
        if not name:
            raise DataError(f"{where}: the product has no name: give it one or remove the line")
        if name in given:
            raise DataError(f"{where}: {name} was given before: a product has one line")
        given.add(name)
        yield where, Label(name=name, gtin=gtin or None, coarse=coarse or None)


def _walk(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """Files at any depth; a link to a folder that holds it is not entered again."""
    real = folder.resolve()
    if real in above:
        return
    for entry in _entries(folder):
        if entry.is_dir():
            yield from _walk(entry, above | {real})
        else:
            yield entry


def _entries(folder: Path) -> list[Path]:
    return sorted((entry for entry in folder.iterdir() if not entry.name.startswith(".")), key=natural_order)


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES


def _csv_rows(file: Path, columns: Sequence[str], *, at_least: int) -> Iterator[tuple[str, list[str]]]:
    """Place and cells of each row; `at_least` of the columns must be there, the missing ones come as empty cells."""
    reader = csv.reader(read_text(file).splitlines(), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        known = header[: len(columns)]
        if len(header) < at_least or known != list(columns[: len(known)]):
            raise DataError(f"{file}, line 1: the columns must be {', '.join(columns)}, in this order")
        for cells in filter(None, reader):
            where = f"{file}, line {reader.line_num}"
            if len(cells) != len(header):
                raise DataError(f"{where}: expected {len(header)} cells, found {len(cells)}: quote cells with commas")
            yield where, [cell.strip() for cell in cells[: len(columns)]] + [""] * (len(columns) - len(known))
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.line_num}: not CSV ({error})") from error


def read_text(file: Path) -> str:
    """The text of a list or table.

    Raises:
        DataError: it is not UTF-8.
        OSError: it cannot be read.
    """
    try:
        return files.read_text(file)
    except ValueError as error:
        raise DataError(f"{file}, {error}") from error
