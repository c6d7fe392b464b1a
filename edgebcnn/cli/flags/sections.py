"""Keeps a command with dozens of choices readable: its flags stand under headings, its rare ones in a file.

A command declares all its choices in one place. `section` puts them under a heading, which is also their table in a
configuration file. `setting` declares one that has no flag: it is set by `--config` alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import click

OTHER = "Other"


class Setting(click.Option):
    """A choice that only a configuration file makes."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **{"hidden": True, **attributes})

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Adds no flag to the command line."""

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """Names the key."""
        return config_key(self)


class Argument(click.Argument):
    """An argument that a configuration file may give as well, with the sentence that stands there."""

    def __init__(self, declarations: Any, help: str, **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.help = help


setting = partial(click.option, cls=Setting)
argument = partial(click.argument, cls=Argument)


class SectionedCommand(click.Command):
    """A command whose options were declared by `section`.

    Attributes:
        only_flags: Names of the parameters that belong to a single call, and so to no configuration file.
    """

    def __init__(self, *arguments: Any, only_flags: Iterable[str] = (), **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.only_flags = frozenset(only_flags)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options of each section under its heading, in the order of declaration; --help last."""
        _write_sections(self, ctx, formatter)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the command line; a choice without a flag is told where it belongs."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            flags = [opt for param in self.params if not isinstance(param, Setting) for opt in param.opts]
            settings = {opt: param for param in self.params if isinstance(param, Setting) for opt in param.opts}
            matches = difflib.get_close_matches(error.option_name, [*settings, *flags], n=1)
            if not matches or matches[0] not in settings:
                raise
            key = config_key(settings[matches[0]])
            raise click.UsageError(
                f"{error.option_name} is not a flag: set it with --config '{key} = VALUE', or in a file that edgebcnn "
                f"config init {ctx.info_name} writes",
                ctx,
            ) from error


class SectionedGroup(click.Group):
    """The same for a command with subcommands."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options under their headings, then the subcommands."""
        _write_sections(self, ctx, formatter)
        self.format_commands(ctx, formatter)


def _write_sections(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(ctx):
        if record := parameter.get_help_record(ctx):
            sections.setdefault(heading_of(parameter), []).append(record)
    for heading, records in sections.items():
        with formatter.section(heading):
            formatter.write_dl(records)


def section(heading: str, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Returns a decorator that adds options under one heading.

    Args:
        heading: Of the section; in lower case, the name of its table in a configuration file.
        options: What `click.option`, `setting` and `argument` return, in the order in which help lists them.
    """

    def declare(function: Any) -> Any:
        before = len(getattr(function, "__click_params__", []))
        for option in reversed(options):
            function = option(function)
        for parameter in function.__click_params__[before:]:
            parameter.section = heading
        return function

    return declare


def heading_of(parameter: click.Parameter) -> str:
    """Heading of a parameter in the help."""
    return str(getattr(parameter, "section", OTHER))


def configurable(command: click.Command) -> dict[str, dict[str, click.Parameter]]:
    """Parameters that a configuration file may set, by table and key."""
    only_flags: frozenset[str] = getattr(command, "only_flags", frozenset()) | {"config"}
    tables: dict[str, dict[str, click.Parameter]] = {}
    for parameter in command.params:
        if hasattr(parameter, "section") and parameter.name not in only_flags:
            table, _, key = config_key(parameter).partition(".")
            tables.setdefault(table, {})[key] = parameter
    return tables


def defaults(command: click.Command) -> dict[str, Any]:
    """Value of each parameter, by name, where neither command line, environment nor file sets it."""
    context = command.make_context("", [], resilient_parsing=True)
    return {str(each.name): None if each.envvar else context.params.get(str(each.name)) for each in command.params}


def config_key(parameter: click.Parameter) -> str:
    """Table and key of a parameter, such as `augmentation.flip`."""
    is_option = isinstance(parameter, click.Option)
    key = parameter.opts[0].lstrip("-") if is_option else str(parameter.name).removesuffix("_path")
    return f"{heading_of(parameter).lower()}.{key}".replace("-", "_").replace(" ", "_")


def spelled(parameter: click.Parameter) -> str:
    """The parameter as a user gives it: its flag, or its key."""
    return config_key(parameter) if isinstance(parameter, Setting) else parameter.opts[0]


def closest(word: str, known: Iterable[str]) -> str:
    """The end of a sentence that suggests what `word` was meant to be, or lists what there is."""
    known = list(known)
    if matches := difflib.get_close_matches(word, known, n=1):
        return f"did you mean {matches[0]}?"
    return f"known are {', '.join(known)}"
