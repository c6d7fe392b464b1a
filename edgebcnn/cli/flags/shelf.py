"""Flags of `edgebcnn run` that say which slots to watch, and how little work that may take."""

from __future__ import annotations

from pathlib import Path

import click

from edgebcnn.cli.flags.grouped import finite, grouped
from edgebcnn.loop.frame_rate import IDLE_AFTER_S, IDLE_FPS

_POSITIVE = click.FloatRange(min=0, min_open=True)

_FLAGS = (
    click.option("--slots", type=click.Path(path_type=Path), help="Watch the slots of this file in place of frames."),
    click.option(
        "--floor",
        type=_POSITIVE,
        callback=finite,
        default=10.0,
        help="Seconds after which a slot that did not change is classified all the same.",
    ),
    click.option("--no-gate", is_flag=True, help="Classify every slot in every frame."),
    click.option(
        "--fps", type=_POSITIVE, callback=finite, show_default="all", help="Frames a second to take of a live source."
    ),
    click.option(
        "--idle-fps",
        type=_POSITIVE,
        callback=finite,
        show_default=f"{IDLE_FPS:g}",
        help="The same while no slot changes.",
    ),
    click.option(
        "--idle-after",
        type=click.FloatRange(min=0),
        callback=finite,
        show_default=f"{IDLE_AFTER_S:g}",
        help="Seconds without a change from which --idle-fps counts.",
    ),
)

SERVES = {flag: ("--slots",) for flag in ("--floor", "--no-gate", "--idle-fps", "--idle-after")}
"""Flags that do nothing without --slots."""

shelf_flags = grouped(_FLAGS, into="shelf", kind="edgebcnn.loop.shelf_choices:ShelfChoices")
