"""Flags of `edgebcnn run` that say how the model is watched over while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number that can be used here")
    return value


_FLAGS = (
    click.option(
        "--golden-every",
        type=click.FloatRange(min=0),
        callback=_number,
        metavar="HOURS",
        show_default="6 for cameras and streams, else 0",
        help="Replay the bundle's golden photos between frames, at the start and then so often; 0 for never.",
    ),
    click.option(
        "--on-alarm",
        type=click.Choice(["report", "stop"]),
        default="report",
        help="What to do where the golden photos or the agreement fall below the bundle's threshold.",
    ),
    click.option(
        "--shadow",
        is_flag=False,
        flag_value="",
        metavar="[FILE]",
        help="Ask the full model about frames too, beside the loop: a .tflite file, or the bundle's own.",
    ),
    click.option(
        "--shadow-cpu",
        type=click.FloatRange(0, 1, min_open=True),
        callback=_number,
        default=0.25,
        help="Share of one core's time that --shadow may take.",
    ),
    click.option(
        "--shadow-scene",
        type=click.FloatRange(min=0),
        callback=_number,
        default=10.0,
        help="Seconds that count as one scene, of which one frame is asked about; 0 for as many as can be.",
    ),
    click.option(
        "--alarm-below",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        callback=_number,
        show_default="lower end of the export's interval",
        help="Agreement, 0 to 1, below which --shadow raises an alarm.",
    ),
)

SERVES = {flag: ("--shadow",) for flag in ("--shadow-cpu", "--shadow-scene", "--alarm-below")}
"""Flags that do nothing without --shadow."""

Command = TypeVar("Command", bound=Callable[..., None])


def health_flags(command: Command) -> Command:
    """Adds the flags to a command, which gets them as one `HealthChoices`, `health`."""

    @wraps(command)
    def with_choices(**arguments: Any) -> None:
        from dataclasses import fields

        from edgebcnn.sinks.health import HealthChoices

        given = {field.name: arguments.pop(field.name) for field in fields(HealthChoices)}
        command(health=HealthChoices(**given), **arguments)

    for flag in reversed(_FLAGS):
        with_choices = flag(with_choices)
    return with_choices  # type: ignore[return-value]
