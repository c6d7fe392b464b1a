"""Flags of `edgebcnn run` about the slots that it watches, and how often it classifies them."""

from __future__ import annotations

from pathlib import Path

import click

from edgebcnn.cli.flags.grouped import finite, grouped
from edgebcnn.cli.flags.sections import section, setting
from edgebcnn.loop.frame_rate import IDLE_AFTER_S, IDLE_FPS

_POSITIVE = click.FloatRange(min=0, min_open=True)

_FLAGS = (
    section(
        "Source",
        click.option(
            "--max-fps",
            type=_POSITIVE,
            callback=finite,
            show_default="no limit",
            help="Frames per second to process of a camera or stream, at most.",
        ),
    ),
    section(
        "Shelf",
        click.option(
            "--slots", type=click.Path(path_type=Path), help="Watch the slots of this file, not whole frames."
        ),
        setting(
            "--skip-unchanged",
            type=bool,
            default=True,
            help="Classify a slot only when its pixels change, and again every recheck_after seconds.",
        ),
        setting(
            "--recheck-after",
            type=_POSITIVE,
            callback=finite,
            default=10.0,
            help="Seconds after which an unchanged slot is classified again.",
        ),
        setting(
            "--idle-fps",
            type=_POSITIVE,
            callback=finite,
            show_default=f"{IDLE_FPS:g}",
            help="Frames per second to process while no slot changes.",
        ),
        setting(
            "--idle-after",
            type=click.FloatRange(min=0),
            callback=finite,
            show_default=f"{IDLE_AFTER_S:g}",
            help="Seconds without a change after which idle_fps applies.",
        ),
    ),
)

SERVES = {flag: ("--slots",) for flag in ("--recheck-after", "--skip-unchanged", "--idle-fps", "--idle-after")}
"""Choices that have no effect without --slots."""

shelf_flags = grouped(_FLAGS, into="shelf", kind="edgebcnn.loop.shelf_choices:ShelfChoices")
