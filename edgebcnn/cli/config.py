"""`edgebcnn config` writes configuration files."""

from __future__ import annotations

from pathlib import Path

import click

CONFIGURED = ("train", "compress", "export", "run")
"""Commands that take --config."""


@click.group()
def command() -> None:
    """Write a configuration file for train, compress, export or run."""


@command.command()
@click.argument("name", metavar="COMMAND", type=click.Choice(CONFIGURED))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    show_default="stdout",
    help="File to write; an existing one is never replaced.",
)
def init(*, name: str, output: Path | None) -> None:
    """Write a commented file with every key of COMMAND, its default and its meaning.

    COMMAND is train, compress, export or run. Edit the file, delete what you do not change, and give it as --config
    FILE. The file has the choices that are too rare for a flag as well.
    """
    from importlib import import_module

    from edgebcnn.atomic import write_bytes
    from edgebcnn.cli.flags.toml_text import commented
    from edgebcnn.errors import StorageError

    text = commented(import_module(f"edgebcnn.cli.{name}").command, name)
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists():
        raise StorageError(f"{output} exists already: choose another --output, or remove it")
    write_bytes(output, text.encode())
    click.echo(f"config: {output}\nnext:   edit it, then edgebcnn {name} --config {output}")
