"""Draws the wrong predictions with the highest confidence as a contact sheet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.evaluation import WrongAnswer

COLUMNS = 6
MAX_ROWS = 5

_TILE_IN = 2.0
_GAP_IN = 0.12
_LINE_IN = 0.145
_CAPTION_IN = 3 * _LINE_IN + _GAP_IN
_TITLE_IN = 0.4
_LONGEST_NAME = 29  # what fits under a tile at the captions' size
_RED, _GREY = "#b3261e", "#5f6368"


def draw_contact_sheet(
    path: Path, pictures: Sequence[NDArray[np.uint8]], answers: Sequence[WrongAnswer], *, title: str
) -> None:
    """Draws images with the true product, the predicted one and the scores of both, as a PNG.

    Args:
        path: File to write.
        pictures: `(h, w, 3)` uint8 RGB, as the model saw them; at least one, at most `COLUMNS * MAX_ROWS`.
        answers: The wrong prediction for each.
        title: Stands above them.
    """
    from matplotlib.figure import Figure

    columns, rows = COLUMNS, -(-len(pictures) // COLUMNS)
    width_in = _GAP_IN + columns * (_TILE_IN + _GAP_IN)
    height_in = _TITLE_IN + rows * (_TILE_IN + _CAPTION_IN)
    # Placed by hand: a layout engine would shrink the images to make room for a long name.
    figure = Figure(figsize=(width_in, height_in))
    _text(figure, title, _GAP_IN, height_in - _GAP_IN, size=9, color="black")
    for position, (picture, answer) in enumerate(zip(pictures, answers, strict=True)):
        row, column = divmod(position, columns)
        left_in = _GAP_IN + column * (_TILE_IN + _GAP_IN)
        bottom_in = height_in - _TITLE_IN - row * (_TILE_IN + _CAPTION_IN) - _TILE_IN
        tile = figure.add_axes(
            (left_in / width_in, bottom_in / height_in, _TILE_IN / width_in, _TILE_IN / height_in), anchor="SW"
        )
        tile.set_axis_off()
        tile.imshow(picture)
        for line, (text, colour) in enumerate(_caption(answer)):
            _text(figure, text, left_in, bottom_in - 0.05 - line * _LINE_IN, size=6.5, color=colour)
    figure.savefig(path, dpi=130, format="png")


def _text(figure: Any, text: str, left_in: float, top_in: float, *, size: float, color: str) -> None:
    width_in, height_in = figure.get_size_inches()
    # A name may hold dollar signs, which matplotlib would set as mathematics.
    figure.text(left_in / width_in, top_in / height_in, text, va="top", fontsize=size, color=color, parse_math=False)


def _caption(answer: WrongAnswer) -> list[tuple[str, str]]:
    return [
        (f"is {_shortened(answer.truth)}", "black"),
        (f"named {_shortened(answer.predicted)}", _RED),
        (f"{100 * answer.score:.0f} % against {100 * answer.true_score:.0f} %", _GREY),
    ]


def _shortened(name: str) -> str:
    """Cut in the middle: what tells look-alike products apart often stands at the end."""
    if len(name) <= _LONGEST_NAME:
        return name
    half = (_LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"
