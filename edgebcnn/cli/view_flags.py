"""Flags of every command that looks through a camera: in which size and rate does it film, and which way up?"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgebcnn.camera.view import View


def _size(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"[1-9]\d{1,4}x[1-9]\d{1,4}", value):
        raise click.BadParameter(f"{value!r} is not WIDTHxHEIGHT in pixels, such as 1280x720")
    return value


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of frames")
    return value


_FLAGS = (
    click.option("--size", callback=_size, metavar="WxH", help="Size in which a camera shall film."),
    click.option(
        "--rate",
        type=click.FloatRange(min=0, min_open=True),
        callback=_number,
        help="Frames a second that a camera gives.",
    ),
    click.option(
        "--rotate",
        type=click.Choice(["0", "90", "180", "270"]),
        default="0",
        help="Degrees clockwise to turn each frame.",
    ),
)


@dataclass(frozen=True)
class ViewChoices:
    """What the flags say."""

    size: str | None
    rate: float | None
    rotate: str

    def view(self) -> View:
        """What is asked of the source."""
        from edgebcnn.camera.view import View

        width, _, height = (self.size or "").partition("x")
        return View((int(width), int(height)) if self.size else None, self.rate, int(self.rotate))  # type: ignore[arg-type]

    def typed(self) -> list[str]:
        """The flags again, as they were typed."""
        size = ["--size", self.size] if self.size else []
        rate = ["--rate", f"{self.rate:g}"] if self.rate else []
        return [*size, *rate, *(["--rotate", self.rotate] if self.rotate != "0" else [])]


Command = TypeVar("Command", bound=Callable[..., Any])


def view_flags(command: Command) -> Command:
    """Adds the flags to a command, which gets them as one `ViewChoices`, `view`."""

    @wraps(command)
    def with_choices(**arguments: Any) -> None:
        given = {field.name: arguments.pop(field.name) for field in fields(ViewChoices)}
        command(view=ViewChoices(**given), **arguments)

    for flag in reversed(_FLAGS):
        with_choices = flag(with_choices)
    return with_choices  # type: ignore[return-value]
