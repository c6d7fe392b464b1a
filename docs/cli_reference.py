"""Writes the command reference from the commands themselves, so that it cannot go stale.

`python docs/cli_reference.py` prints it; the docs site includes it as the page "Commands".
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from edgebcnn.cli import main

_INTRODUCTION = """\
# Commands

Generated from the commands. `edgebcnn COMMAND --help` prints the same in a terminal.
"""


def cli_reference() -> str:
    """The whole reference as Markdown: a section per command, a table per section of its flags."""
    root = click.Context(main, info_name="edgebcnn", show_default=True)
    return "\n".join([_INTRODUCTION, *(_section(context) for context in _commands(root))])


def _commands(parent: click.Context) -> Iterator[click.Context]:
    assert isinstance(parent.command, click.Group)
    for name in parent.command.list_commands(parent):
        command = parent.command.get_command(parent, name)
        if command is None or command.hidden:
            continue
        context = click.Context(command, parent=parent, info_name=name, show_default=True)
        yield context
        if isinstance(command, click.Group):
            yield from _commands(context)


def _section(context: click.Context) -> str:
    command = context.command
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    lines = [f"## `{context.command_path}`", "", "```", usage, "```", "", _as_markdown(command.help or ""), ""]
    for title, rows in _flags(context).items():
        lines += [f"| {title} | |", "|---|---|", *(f"| `{names}` | {_cell(text)} |" for names, text in rows), ""]
    return "\n".join(lines)


def _flags(context: click.Context) -> dict[str, list[tuple[str, str]]]:
    """Names and help of each flag, by section of the help, in the order of the help."""
    sections: dict[str, list[tuple[str, str]]] = {}
    for parameter in context.command.params:
        record = parameter.get_help_record(context)
        if record is not None:
            sections.setdefault(getattr(parameter, "section", None) or "Options", []).append(record)
    return sections


def _as_markdown(help_text: str) -> str:
    """Help as paragraphs; a block that click is told not to wrap becomes a code block."""
    paragraphs = inspect.cleandoc(help_text).partition("\f")[0].split("\n\n")
    return "\n\n".join(
        f"```\n{text.lstrip(chr(8)).strip()}\n```" if text.startswith("\b") else _escaped(text) for text in paragraphs
    )


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Help text in which Markdown finds no HTML, link or emphasis."""
    return re.sub(r"([\[\]*_])", r"\\\1", text).replace("<", "&lt;")


if __name__ == "__main__":
    print(cli_reference())
