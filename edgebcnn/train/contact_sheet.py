"""Which photos was a model surest of, and wrong?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.report.evaluation import WrongAnswer

COLUMNS = 6
MAX_ROWS = 5

_TILE_IN = 1.9
_CAPTION_IN = 0.46
_TITLE_IN = 0.5
_PAD_IN = 0.07
_LONGEST_NAME = 30  # what fits under a tile at the captions' size
_RED, _GREY = "#b3261e", "#5f6368"


def draw_contact_sheet(
    path: Path, pictures: Sequence[NDArray[np.uint8]], answers: Sequence[WrongAnswer], *, title: str
) -> None:
    """Draws pictures with the product that each shows, the one that the model says, and its score, as a PNG.

    Args:
        path: File to write.
        pictures: `(h, w, 3)` uint8 RGB, as the model saw them; at least one, at most `COLUMNS * MAX_ROWS`.
        answers: What the model said of each.
        title: Stands above them.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(COLUMNS, len(pictures))
    rows = -(-len(pictures) // columns)
    size_in = max(columns, 3) * _TILE_IN, rows * (_TILE_IN + _CAPTION_IN) + _TITLE_IN
    figure = Figure(figsize=size_in, layout=ConstrainedLayoutEngine(w_pad=_PAD_IN, h_pad=_PAD_IN))
    figure.suptitle(title, fontsize=9, x=0.01, ha="left", parse_math=False)
    tiles = figure.subplots(rows, columns, squeeze=False).flat
    for tile, picture, answer in zip_longest(tiles, pictures, answers):
        tile.set_axis_off()
        if answer is not None:
            tile.imshow(picture)
            _caption(tile, answer)
    figure.savefig(path, dpi=130, format="png")


def _caption(tile: Any, answer: WrongAnswer) -> None:
    lines = (
        (f"is {_shortened(answer.truth)}", "black", -0.03),
        (f"named {_shortened(answer.predicted)}", _RED, -0.12),
        (f"{100 * answer.score:.0f} % against {100 * answer.true_score:.0f} %", _GREY, -0.21),
    )
    for text, colour, height in lines:
        # A name may hold dollar signs, which matplotlib would set as mathematics.
        tile.text(
            0,
            height,
            text,
            color=colour,
            fontsize=7,
            va="top",
            transform=tile.transAxes,
            parse_math=False,
            clip_on=False,
        )


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
