"""How does a command with dozens of options stay readable? Its help lists them under headings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click


class SectionedCommand(click.Command):
    """A command whose options were declared by `section`."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the options of each section under its heading, in the order of declaration; --help last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                sections.setdefault(getattr(parameter, "section", "Other"), []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


def section(heading: str, *options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A decorator that adds options under one heading.

    Args:
        heading: Of the section.
        options: What `click.option` returns, in the order in which help lists them.
    """

    def declare(function: Any) -> Any:
        before = len(getattr(function, "__click_params__", []))
        for option in reversed(options):
            function = option(function)
        for parameter in function.__click_params__[before:]:
            parameter.section = heading
        return function

    return declare
