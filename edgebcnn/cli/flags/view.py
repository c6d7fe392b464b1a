"""Flags of every command that reads a camera: frame size, frame rate and rotation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.grouped import grouped
from edgebcnn.cli.flags.types import Size

if TYPE_CHECKING:
    from edgebcnn.camera_view import View


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of frames")
    return value


_FLAGS = (
    click.option("--size", "size_px", type=Size(), help="Frame size to request from the camera."),
    click.option(
        *("--camera-fps", "rate_fps"),
        type=click.FloatRange(min=0, min_open=True),
        callback=_number,
        help="Frames per second to request from the camera.",
    ),
    click.option(
        "--rotate",
        type=click.Choice([0, 90, 180, 270]),
        show_default="0",
        help="Rotate each frame clockwise by this many degrees.",
    ),
)

view_flags = grouped(_FLAGS, into="view", kind="edgebcnn.camera_view:View")


def typed(view: View) -> list[str]:
    """Spells the flags of a view on a command line."""
    size = ["--size", f"{view.size_px[0]}x{view.size_px[1]}"] if view.size_px else []
    rate = ["--camera-fps", f"{view.rate_fps:g}"] if view.rate_fps else []
    return [*size, *rate, *(["--rotate", str(view.rotate)] if view.rotate else [])]
