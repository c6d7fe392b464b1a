"""Passes flags that belong together to a command as one value."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import wraps
from pkgutil import resolve_name
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])


def grouped(flags: Iterable[Callable[[Any], Any]], *, into: str, kind: str) -> Callable[[Command], Command]:
    """Adds flags to a command, which gets one dataclass in place of them.

    Args:
        flags: Options of click, in the order of the help.
        into: The command's parameter.
        kind: The dataclass as `module:name`, loaded where the command runs, so that `--help` is instant. Its fields are
            the parameters of the flags, and of groups that stand above this one.
    """

    def added(command: Command) -> Command:
        @wraps(command)
        def with_group(**arguments: Any) -> Any:
            group = resolve_name(kind)
            given = {field.name: arguments.pop(field.name) for field in fields(group)}
            return command(**{into: group(**given)}, **arguments)

        for flag in reversed([*flags]):
            with_group = flag(with_group)
        return with_group  # type: ignore[return-value]

    return added


def finite(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    """Refuses infinity and NaN, which a `FloatRange` accepts; a callback."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter(f"{value} is not a number that can be used here")
    return value
