"""Makes text from outside safe for terminals and spreadsheets: names of products, files, shelves and devices."""

from __future__ import annotations

import unicodedata

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets run as a formula

# Controls move the cursor, color or clear a terminal; directional controls make a name read as another one.
_INVISIBLE = {"Cc", "Cs"}
_DIRECTIONAL = {"RLO", "LRO", "RLE", "LRE", "PDF", "RLI", "LRI", "FSI", "PDI"}


def visible(text: str) -> str:
    r"""Text in which control characters are written out, as `\x1b`; a terminal shows it and does nothing else."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(each) if _acts(each) else each for each in text)


def spreadsheet_cell(text: str) -> str:
    """Text that a spreadsheet shows as it is: what it would run as a formula begins with an apostrophe."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _acts(character: str) -> bool:
    is_invisible = unicodedata.category(character) in _INVISIBLE or character in "\u2028\u2029"
    return is_invisible or unicodedata.bidirectional(character) in _DIRECTIONAL


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", errors="surrogatepass").decode()
