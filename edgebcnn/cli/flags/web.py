"""Flags of `edgebcnn run` about its web page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from edgebcnn.cli.flags.grouped import grouped
from edgebcnn.cli.flags.sections import setting
from edgebcnn.cli.flags.types import Secret

_TOKEN: dict[str, Any] = {
    "type": Secret(),
    "metavar": "TOKEN",
    "envvar": "EDGEBCNN_WEB_TOKEN",
    "show_envvar": True,
    "help": "Access token for the page; generated when none is given and the page is not local.",
}

_ORIGIN: dict[str, Any] = {
    "metavar": "ORIGIN",
    "help": "Where a proxy with TLS shows the page, such as https://shelf.example; the page then needs its token.",
}

page_flags = (click.option("--web-token", **_TOKEN), click.option("--web-origin", **_ORIGIN))
"""Of every page that may listen beyond this machine."""

_FLAGS = (
    click.option("--web", metavar="[HOST:]PORT", help="Serve a web page of the run, by default to this machine only."),
    setting("--web-token", **_TOKEN),
    setting("--web-origin", **_ORIGIN),
    click.option(
        "--web-history",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Keep the page's list of changes and their images in this folder, so that they outlive the run.",
    ),
)

SERVES = {"--web-token": ("--web",), "--web-origin": ("--web",), "--web-history": ("--web",)}
"""Choices that have no effect without --web."""

web_flags = grouped(_FLAGS, into="web", kind="edgebcnn.web.choices:WebChoices")
