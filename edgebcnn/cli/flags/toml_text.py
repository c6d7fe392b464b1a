"""Writes the choices of a command as a configuration file: all defaults with their meaning, or what one call resolved.

What is written here is what `edgebcnn.cli.flags.config` reads.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import click

from edgebcnn.cli.flags.sections import configurable, defaults

_WIDTH = 100


def toml_value(value: Any) -> str:
    """One string, path, boolean or number as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")  # TOML allows no bare DEL


def commented(command: click.Command, name: str) -> str:
    """A configuration file with every key of a command, its default and its meaning."""
    default_of = defaults(command)
    lines = [
        f"# Configuration of edgebcnn {name}: use it with --config FILE. A flag on the command line wins over it.",
        "# A key that is commented out has no fixed default; paths are relative to the folder in which you type.",
    ]
    for table, parameters in configurable(command).items():
        lines += ["", f"[{table}]"]
        for key, parameter in parameters.items():
            lines += [f"# {line}" for line in textwrap.wrap(_meaning(parameter), _WIDTH)]
            default = default_of[str(parameter.name)]
            lines.append(f"# {key} =" if default is None else f"{key} = {toml_value(default)}")
    return "\n".join(lines) + "\n"


def _meaning(parameter: click.Parameter) -> str:
    sentences = [str(getattr(parameter, "help", "") or "")]
    if isinstance(parameter.type, click.Choice):
        sentences.append(f"One of: {', '.join(map(str, parameter.type.choices))}.")
    if isinstance(shown := getattr(parameter, "show_default", None), str):
        sentences.append(f"Default: {shown}.")
    return " ".join(sentences)


def resolved(
    context: click.Context, overrides: Mapping[str, Any] | None = None, *, without: Collection[str] = ()
) -> str:
    """What one call resolved from flags, environment, file and defaults, as a file that `--config` takes again.

    A value that may hold a password or token is left out, with a comment.

    Args:
        context: Of the call.
        overrides: Values by parameter name that the command made more exact, such as absolute paths.
        without: Names of parameters that have no effect in this call.
    """
    lines = [f"# What edgebcnn {context.info_name} ran with: give it again with --config FILE."]
    for table, parameters in configurable(context.command).items():
        lines += ["", f"[{table}]"]
        for key, parameter in parameters.items():
            value = (overrides or {}).get(str(parameter.name), context.params.get(str(parameter.name)))
            if value is None or parameter.name in without:
                continue
            text = _text(parameter, value)
            lines.append(
                f"{key} = {text}" if text else f"# {key} is left out here: it may hold credentials, or is not UTF-8"
            )
    return "\n".join(lines) + "\n"


def _text(parameter: click.Parameter, value: Any) -> str | None:
    """The value as TOML; None where it must not be written."""
    spell = getattr(parameter.type, "spelled", None)
    if spell is not None:
        value = spell(value)
    if isinstance(value, Path):
        value = value.absolute()
    is_secret = getattr(parameter.type, "is_secret", None)
    if is_secret is not None and is_secret(str(value)):
        return None
    return toml_value(value) if _is_unicode(value) else None


def _is_unicode(value: Any) -> bool:
    """Whether TOML can hold the value: a path may have bytes that are no text."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True
