"""Flags of `edgebcnn run` that say where its web page is."""

from __future__ import annotations

from pathlib import Path

import click

from edgebcnn.cli.flags.grouped import grouped

TOKEN = click.option(
    "--web-token",
    metavar="TOKEN",
    envvar="EDGEBCNN_WEB_TOKEN",
    show_envvar=True,
    help="Access token for the page; generated when none is given and the page is not local.",
)
ORIGIN = click.option(
    "--web-origin",
    metavar="ORIGIN",
    help="Where a proxy with TLS shows the page, such as https://shelf.example; the page then needs its token.",
)
"""Both are flags of every page that may listen beyond this machine."""

_FLAGS = (
    click.option("--web", metavar="[HOST:]PORT", help="Serve a web page of the run, to this machine alone."),
    TOKEN,
    ORIGIN,
    click.option(
        "--web-history",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Keep the page's list of changes and their pictures here, so that they outlive the run.",
    ),
)

SERVES = {"--web-token": ("--web",), "--web-origin": ("--web",), "--web-history": ("--web",)}
"""Flags that do nothing without --web."""

web_flags = grouped(_FLAGS, into="web", kind="edgebcnn.web.choices:WebChoices")
