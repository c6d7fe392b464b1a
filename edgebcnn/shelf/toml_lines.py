"""On which line of a TOML file does a field stand?

TOML readers say where the syntax breaks, not where a value came from. A file's first lines, read alone, have the field
or have it not, and that is enough to find its line whatever the file looks like: no second, weaker parser.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

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
    lines = text.splitlines(keepends=True)
    while place and not _has(_head(lines, len(lines))[0], place):
        place = place[:-1]
    if not place:
        return 1
    last = bisect_left(range(len(lines) + 1), True, key=lambda count: _has(_head(lines, count)[0], place))
    return _head(lines, last - 1)[1] + 1  # a value of several lines begins after the last head that was whole


def _head(lines: Sequence[str], count: int) -> tuple[dict[str, Any], int]:
    """The document of the first `count` lines, or of as many fewer as are whole, and their number."""
    while count:
        try:
            return tomllib.loads("".join(lines[:count])), count
        except tomllib.TOMLDecodeError:
            count -= 1
    return {}, 0


def _has(document: Any, place: Place) -> bool:
    for key in place:
        if isinstance(document, dict):
            if key not in document:
                return False
        elif not isinstance(document, list) or not isinstance(key, int) or key >= len(document):
            return False
        document = document[key]
    return True
