"""Finds the store, visit or shelf of each photo, from a pattern of paths or a table."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgebcnn.errors import DataError
from edgebcnn.images.layouts import read_text, some

_PATH, _GROUP = "path", "group"


def groups_by_pattern(names: Sequence[str], pattern: str, *, given: str = "--group-pattern") -> list[str]:
    """The group of each photo, as a regular expression finds it in the photo's path.

    Args:
        names: Paths of the photos, with `/`.
        pattern: Python's `re`; what its group named `group`, or its only group, matches anywhere in the path is the
            name of the photo's group.
        given: Name of the pattern in messages.

    Raises:
        DataError: the pattern cannot be used, or does not match every path.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{given} {pattern!r} is not a regular expression ({error}): correct it") from error
    wanted = compiled.groupindex.get(_GROUP, 1)
    if not compiled.groups:
        raise DataError(f"{given} {pattern!r} has no group: put what names the store or visit in parentheses")
    if compiled.groups > 1 and _GROUP not in compiled.groupindex:
        raise DataError(f"{given} {pattern!r} has {compiled.groups} groups: name the one that counts, (?P<group>…)")
    groups = [(match[wanted] or None) if (match := compiled.search(name)) else None for name in names]
    unmatched = [name for name, group in zip(names, groups, strict=True) if group is None]
    if len(unmatched) == len(names):
        raise DataError(f"{given} {pattern!r} matches no photo; the first is {names[0]}: correct it")
    if unmatched:
        raise DataError(
            f"{given} {pattern!r} does not match {len(unmatched)} of {len(names)} photos ({some(unmatched)}): "
            "widen it, so that each photo has a group"
        )
    return [group for group in groups if group is not None]


def groups_of_table(names: Sequence[str], file: Path) -> list[str]:
    """The group of each photo, from a CSV file with the columns `path` and `group` among others.

    Args:
        names: Paths of the photos from their folder, with `/`.
        file: The table; its paths are from the folder of the photos too.

    Raises:
        DataError: the table cannot be read, lacks a column, or does not name each photo once.
    """
    groups = _read_table(file, frozenset(names))
    if missing := [name for name in names if name not in groups]:
        raise DataError(f"{file} lacks {len(missing)} of {len(names)} photos ({some(missing)}): add a line for each")
    return [groups[name] for name in names]


def _read_table(file: Path, known: frozenset[str]) -> Mapping[str, str]:
    try:
        reader = csv.DictReader(read_text(file).splitlines(), strict=True)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}): give the table of groups") from error
    groups: dict[str, str] = {}
    try:
        header = [column.strip() for column in reader.fieldnames or []]
        for column in (_PATH, _GROUP):
            if column not in header:
                raise DataError(f"{file}, line 1: there is no column {column!r}: the table needs {_PATH} and {_GROUP}")
        reader.fieldnames = header
        for row in reader:
            where = f"{file}, line {reader.line_num}"
            path, group = ((row[column] or "").strip() for column in (_PATH, _GROUP))
            if path not in known:
                raise DataError(f"{where}: there is no photo {path!r} in the folder: correct it or remove the line")
            if not group:
                raise DataError(f"{where}: {path} has no group: name it, or remove the photo from the folder")
            if groups.setdefault(path, group) != group:
                raise DataError(f"{where}: {path} was in group {groups[path]!r} before: a photo has one group")
    except csv.Error as error:
        raise DataError(f"{file}, line {reader.reader.line_num}: not CSV ({error})") from error
    return groups
