"""Finds the line of a TOML file on which a field stands.

TOML readers say where the syntax breaks, not where a value came from. A file's first lines, read alone, have the field
or have it not, and that is enough to find its line whatever the file looks like: no second, weaker parser.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from edgebcnn.untrusted.files import toml_breaks

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Place = Sequence[str | int]


def line_of(text: str, place: Place) -> int:
    """Line, from 1, where the value at `place` begins; where there is none, that of the nearest table around it.

    Args:
        text: A whole TOML document, correct in its syntax.
        place: Keys and list indices from the top, such as `("shelf", 0, "slot", 2, "box")`.
    """
    breaks = toml_breaks(text)
    while place and not _has(tomllib.loads(text), place):
        place = place[:-1]
    if not place:
        return 1
    last = bisect_left(breaks, True, key=lambda end: _has(tomllib.loads(text[:end]), place))
    return text.count("\n", 0, breaks[last - 1]) + 1


def _has(document: Any, place: Place) -> bool:
    for key in place:
        if isinstance(document, dict):
            if key not in document:
                return False
        elif not isinstance(document, list) or not isinstance(key, int) or key >= len(document):
            return False
        document = document[key]
    return True
