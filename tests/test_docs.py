"""The docs: a command reference that names every command and flag."""

from __future__ import annotations

import click
import pytest

from docs.cli_reference import cli_reference
from edgebcnn.cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_reference_names_every_command_with_all_its_flags(name: str) -> None:
    command = main.get_command(click.Context(main), name)
    assert command is not None
    reference = cli_reference()
    assert f"## `edgebcnn {name}`" in reference
    commands = [command, *(command.commands.values() if isinstance(command, click.Group) else [])]
    flags = [flag for one in commands for option in one.params if _is_shown(option) for flag in option.opts]
    assert not [flag for flag in flags if flag not in reference]


def _is_shown(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option) and not parameter.hidden
