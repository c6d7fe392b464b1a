"""How a test types a command in a working folder."""

from __future__ import annotations

import os
from pathlib import Path

from click.testing import CliRunner, Result

from edgebcnn.cli import main


def typed(folder: Path, *arguments: object) -> Result:
    """What `edgebcnn ARGUMENTS` prints in that folder."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])
    finally:
        os.chdir(here)
