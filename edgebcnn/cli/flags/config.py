"""Reads `--config`, a TOML file or a single `table.key = value`, strictly: each mistake names file, line and key.

A value from here takes the place of a default: flags win over the environment, that over `--config`, and that over
defaults. Types and ranges are those of the flags.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

import click
from click.core import ParameterSource

from edgebcnn.cli.flags.sections import SectionedCommand, closest, config_key, configurable, defaults, spelled
from edgebcnn.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from pydantic import BaseModel

MAX_BYTES = 64 * 1024  # ten times the longest that `config init` writes
MAX_LINES = 2000  # the line of a mistake is found by parsing the file's first lines again and again

_ORIGINS = "edgebcnn.config"
_LONGEST_SHOWN = 60


@dataclass(frozen=True)
class _Piece:
    """One `--config`: a file, or a single key and its value.

    Attributes:
        label: What a message calls it.
        text: TOML.
        document: The same, parsed.
        is_file: Whether a line number says more.
    """

    label: str
    text: str
    document: dict[str, Any] = field(repr=False)
    is_file: bool

    def at(self, *place: str) -> str:
        """Where a key stands."""
        if not self.is_file:
            return self.label
        from edgebcnn.shelf.toml_lines import line_of

        return f"{self.label}, line {line_of(self.text, place)}"


class ConfiguredCommand(SectionedCommand):
    """A command that takes `--config`, declared by `config_option`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the command line; a value that came from `--config` is refused by its place there."""
        try:
            return super().parse_args(ctx, args)
        except click.BadParameter as error:
            if error.param is None or not _is_from_config(ctx, str(error.param.name)):
                raise
            raise _at_origin(ctx, error.param, error.message) from error

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Says where the choices without a flag are."""
        super().format_epilog(ctx, formatter)
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"All choices, with those that have no flag: edgebcnn config init {ctx.info_name}")


def _load(context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> None:
    values: dict[str, Any] = {}
    origins: dict[str, _Piece] = {}
    for piece in map(_read, given):
        for parameter, value in _checked(piece, context.command):
            values[str(parameter.name)] = value
            origins[str(parameter.name)] = piece
    context.default_map = {**(context.default_map or {}), **values}
    context.meta[_ORIGINS] = origins


config_option = click.option(
    "--config",
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_load,
    metavar="FILE|KEY=VALUE",
    help="Read choices from a TOML file, or set one, such as 'augmentation.flip = true'. May be repeated; the last one "
    "wins, and flags win over it.",
)


def refused_value(context: click.Context, name: str, reason: str) -> Exception:
    """The error for a value that a model behind the command line refuses: by its flag, or by its place in a file.

    Args:
        context: Of the call.
        name: Of the parameter.
        reason: What is wrong with its value.
    """
    parameter = next(parameter for parameter in context.command.params if parameter.name == name)
    if _is_from_config(context, name):
        return _at_origin(context, parameter, reason)
    return click.UsageError(f"{spelled(parameter)} {context.params[name]}: {reason}")


def given_by_user(context: click.Context) -> set[str]:
    """Names of the parameters that the user set, by flag, environment or file, to something but their default."""
    default_of = defaults(context.command)
    names = set()
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        is_default = source is ParameterSource.DEFAULT_MAP and value == default_of[name]
        if source not in (ParameterSource.DEFAULT, None) and not is_default:
            names.add(name)
    return names


def _is_from_config(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.DEFAULT_MAP


def _at_origin(context: click.Context, parameter: click.Parameter, reason: str) -> ConfigError:
    key = config_key(parameter)
    place = context.meta[_ORIGINS][str(parameter.name)].at(*key.split("."))
    return ConfigError(f"{place}: {key}: {reason}")


def _read(given: str) -> _Piece:
    """Reads one `--config`; a name that holds `=` and is no file is a key with its value."""
    from pathlib import Path

    path = Path(given)
    if "=" in given and not _exists(path):
        return _parsed(_Piece(f"--config {_shortened(given)}", given, {}, is_file=False))
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): give --config a TOML file, or a key as in 'run.seed = 1'"
        ) from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES // 1024} KiB, which no configuration is: give another")
    if content.count(b"\n") > MAX_LINES:
        raise ConfigError(f"{path} has more than {MAX_LINES} lines, which no configuration has: give another")
    try:
        text = content.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 at byte {error.start}: save it as UTF-8") from error
    return _parsed(_Piece(str(path), text, {}, is_file=True))


def _exists(path: Any) -> bool:
    try:
        return bool(path.exists())
    except (OSError, ValueError):  # a long value is no name that a file could have
        return False


def _parsed(piece: _Piece) -> _Piece:
    try:
        document = tomllib.loads(piece.text)
    except tomllib.TOMLDecodeError as error:
        hint = "" if piece.is_file else "; a text stands in quotes, as in 'model.tail = \"tanh\"'"
        raise ConfigError(f"{piece.label} is not TOML: {error}{hint}") from error
    except RecursionError as error:
        raise ConfigError(f"{piece.label} nests brackets too deep for a configuration: remove some") from error
    return _Piece(piece.label, piece.text, document, piece.is_file)


def _checked(piece: _Piece, command: click.Command) -> Iterator[tuple[click.Parameter, Any]]:
    """Each parameter that the piece sets, with its value."""
    from pydantic import ValidationError

    tables = configurable(command)
    try:
        _model(tables).model_validate(piece.document)
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(str(part) for part in first["loc"][:2])
        if first["type"] == "extra_forbidden":
            raise ConfigError(f"{piece.at(*place)}: {_unknown(place, tables)}") from error
        reason = first["msg"].lower().removeprefix("value error, ")
        shown = "" if len(place) == 1 else f" = {_shortened(repr(first['input']))}"
        raise ConfigError(f"{piece.at(*place)}: {'.'.join(place)}{shown}: {reason}") from error
    for table, values in piece.document.items():
        for key, value in values.items():
            yield tables[table][key], value


def _unknown(place: tuple[str, ...], tables: dict[str, dict[str, click.Parameter]]) -> str:
    if len(place) == 1:
        if holders := [table for table, keys in tables.items() if place[0] in keys]:
            return f"{place[0]} belongs into the table [{holders[0]}]"
        return f"there is no table [{_shortened(place[0])}], {closest(place[0], tables)}"
    table, key = place
    if holders := [other for other, keys in tables.items() if key in keys]:
        return f"{key} belongs into the table [{holders[0]}], not into [{table}]"
    return f"[{table}] has no key {_shortened(key)}, {closest(key, tables[table])}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."


def _model(tables: dict[str, dict[str, click.Parameter]]) -> type[BaseModel]:
    """A strict model of the tables, from the types of the parameters."""
    from pydantic import ConfigDict, create_model

    strict = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    fields: dict[str, Any] = {}
    for table, parameters in tables.items():
        keys: dict[str, Any] = {key: (_type(parameter.type), None) for key, parameter in parameters.items()}
        fields[table] = (create_model(table, __config__=strict, **keys), None)
    return create_model("Configuration", __config__=strict, **fields)


def _type(kind: click.ParamType[Any]) -> Any:
    from pydantic import Field

    if isinstance(kind, click.Choice):
        literal: Any = Literal
        return literal[tuple(kind.choices)]
    if isinstance(kind, click.types.BoolParamType):
        return bool
    if isinstance(kind, click.IntRange | click.FloatRange):
        number = int if isinstance(kind, click.IntRange) else float
        low, high = ("gt" if kind.min_open else "ge"), ("lt" if kind.max_open else "le")
        limits: dict[str, Any] = {low: kind.min, high: kind.max}
        return Annotated[number, Field(**{name: limit for name, limit in limits.items() if limit is not None})]
    if isinstance(kind, click.types.IntParamType):
        return int
    return float if isinstance(kind, click.types.FloatParamType) else str
