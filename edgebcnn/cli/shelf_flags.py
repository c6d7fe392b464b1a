"""Flags of `edgebcnn run` that say which slots to watch, and how little work that may take."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from edgebcnn.bundle import Bundle
    from edgebcnn.camera.pace import Pace
    from edgebcnn.camera.source import Source
    from edgebcnn.device.classifier import Classifier
    from edgebcnn.shelf.watch import ShelfWatch


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number that can be used here")
    return value


IDLE_FPS, IDLE_AFTER_S = 1.0, 30.0

_POSITIVE = click.FloatRange(min=0, min_open=True)

_FLAGS = (
    click.option("--slots", type=click.Path(path_type=Path), help="Watch the slots of this file in place of frames."),
    click.option(
        "--floor",
        type=_POSITIVE,
        callback=_number,
        default=10.0,
        help="Seconds after which a slot that did not change is classified all the same.",
    ),
    click.option("--no-gate", is_flag=True, help="Classify every slot in every frame."),
    click.option(
        "--fps", type=_POSITIVE, callback=_number, show_default="all", help="Frames a second to take of a live source."
    ),
    click.option(
        "--idle-fps",
        type=_POSITIVE,
        callback=_number,
        show_default=f"{IDLE_FPS:g}",
        help="The same while no slot changes.",
    ),
    click.option(
        "--idle-after",
        type=click.FloatRange(min=0),
        callback=_number,
        show_default=f"{IDLE_AFTER_S:g}",
        help="Seconds without a change from which --idle-fps counts.",
    ),
)

SERVES = {flag: ("--slots",) for flag in ("--floor", "--no-gate", "--idle-fps", "--idle-after")}
"""Flags that do nothing without --slots."""


@dataclass(frozen=True)
class ShelfChoices:
    """What the flags say."""

    slots: Path | None
    floor: float
    no_gate: bool
    fps: float | None
    idle_fps: float | None
    idle_after: float | None

    def watch(self, bundle: Bundle, classifier: Classifier) -> ShelfWatch | None:
        """The watch of the slots file, where there is one."""
        from edgebcnn.shelf.slots import load_slots
        from edgebcnn.shelf.tracker import Gate
        from edgebcnn.shelf.watch import ShelfWatch

        if self.slots is None:
            return None
        return ShelfWatch(
            load_slots(self.slots),
            bundle.labels,
            classifier.classify_many,
            width_over_height=bundle.manifest.preprocessing.width_over_height,
            gate=Gate(enabled=not self.no_gate, floor_s=self.floor),
        )

    def pace(self, source: Source) -> Pace:
        """How fast a live source is read; a file is read frame by frame, as fast as it can be."""
        from edgebcnn.camera.pace import Pace
        from edgebcnn.errors import CameraError

        if source.is_live:
            idle_fps = IDLE_FPS if self.idle_fps is None else self.idle_fps
            idle_after_s = IDLE_AFTER_S if self.idle_after is None else self.idle_after
            return Pace(self.fps, idle_fps if self.slots else None, idle_after_s)
        given = {"--fps": self.fps, "--idle-fps": self.idle_fps, "--idle-after": self.idle_after}
        for flag, value in given.items():
            if value is not None:
                raise CameraError(f"{source.name} is read frame by frame: leave out {flag}, which is for live sources")
        return Pace()


Command = TypeVar("Command", bound=Callable[..., None])


def shelf_flags(command: Command) -> Command:
    """Adds the flags to a command, which gets them as one `ShelfChoices`, `shelf`."""

    @wraps(command)
    def with_choices(**arguments: Any) -> None:
        given = {field.name: arguments.pop(field.name) for field in fields(ShelfChoices)}
        command(shelf=ShelfChoices(**given), **arguments)

    for flag in reversed(_FLAGS):
        with_choices = flag(with_choices)
    return with_choices  # type: ignore[return-value]
