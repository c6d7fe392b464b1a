"""The docs: a command reference that names every command and flag, and pages that name no flag that does not exist."""

from __future__ import annotations

import re
import shlex
from itertools import groupby
from pathlib import Path

import click
import pytest

from docs.cli_reference import cli_reference
from edgebcnn.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("docs/*.md"), ROOT / "README.md", ROOT / "calibration" / "README.md", ROOT / "devices" / "README.md"]
)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_reference_names_every_command_with_all_its_flags(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    reference = cli_reference()
    assert f"## `edgebcnn {name}`" in reference
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else [])]
    flags = [flag for one in commands for option in one.params if _is_shown(option) for flag in option.opts]
    assert not [flag for flag in flags if flag not in reference]


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_command_of_a_page_has_the_flags_and_arguments_that_it_is_given(page: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for is_operator, words in groupby(lexer, key=lambda word: bool(set(word) <= set("&|<>();"))):
            if not is_operator:
                _parse(list(words), line)


def _parse(words: list[str], line: str) -> None:
    """Parses what follows `edgebcnn`; values are not looked at."""
    places = [
        place for place, word in enumerate(words[:-1]) if word.endswith("edgebcnn") and words[place + 1] in COMMANDS
    ]
    if not places:
        return
    command, rest = _command(words[places[0] + 1 :])
    try:
        _, left, _ = command.make_parser(click.Context(command)).parse_args(rest)
    except click.UsageError as error:
        pytest.fail(f"{line.strip()}: {error.format_message()}")
    assert not left, f"{line.strip()}: {command.name} takes no {left}"


def _command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that these words name, and the words after it."""
    command: click.Command = main
    context = click.Context(main)
    while isinstance(command, click.Group) and words and (found := command.get_command(context, words[0])):
        command, words = found, words[1:]
    return command, words


def _is_shown(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.hidden
