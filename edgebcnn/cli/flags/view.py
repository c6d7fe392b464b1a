"""Flags of every command that looks through a camera: in which size and rate does it film, and which way up?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.grouped import grouped

if TYPE_CHECKING:
    from edgebcnn.camera_view import View


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    from edgebcnn.camera_view import size_from

    try:
        return None if value is None else size_from(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of frames")
    return value


_FLAGS = (
    click.option("--size", "size_px", callback=_size, metavar="WxH", help="Size in which a camera shall film."),
    click.option(
        *("--rate", "rate_fps"),
        type=click.FloatRange(min=0, min_open=True),
        callback=_number,
        help="Frames a second that a camera gives.",
    ),
    click.option(
        "--rotate",
        type=click.Choice([0, 90, 180, 270]),
        show_default="0",
        help="Degrees clockwise to turn each frame.",
    ),
)

view_flags = grouped(_FLAGS, into="view", kind="edgebcnn.camera_view:View")


def typed(view: View) -> list[str]:
    """The flags again, as they were typed."""
    size = ["--size", f"{view.size_px[0]}x{view.size_px[1]}"] if view.size_px else []
    rate = ["--rate", f"{view.rate_fps:g}"] if view.rate_fps else []
    return [*size, *rate, *(["--rotate", str(view.rotate)] if view.rotate else [])]
