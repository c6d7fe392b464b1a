"""How a test types a command in a working folder."""

from __future__ import annotations

import os
from pathlib import Path

from click.testing import CliRunner, Result

from edgebcnn.cli import main
from edgebcnn.cli.flags.toml_text import toml_value


def typed(folder: Path, *arguments: object) -> Result:
    """What `edgebcnn ARGUMENTS` prints in that folder."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])
    finally:
        os.chdir(here)


def keys(**values: object) -> list[str]:
    """Flags that set keys of the configuration: `keys(shelf__idle_fps=2)` is `--config "shelf.idle_fps = 2"`."""
    pairs = [(name.replace("__", "."), toml_value(value)) for name, value in values.items()]
    return [word for key, text in pairs for word in ("--config", f"{key} = {text}")]
