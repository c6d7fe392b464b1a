"""Flags of `edgebcnn run` that say where its web page is."""

from __future__ import annotations

import click

from edgebcnn.cli.flags.grouped import grouped

TOKEN = click.option(
    "--web-token",
    metavar="TOKEN",
    envvar="EDGEBCNN_WEB_TOKEN",
    show_envvar=True,
    help="What whoever looks must know; beyond this machine one is drawn where none is given.",
)
"""Of every page that may listen beyond this machine."""

_FLAGS = (
    click.option("--web", metavar="[HOST:]PORT", help="Serve a web page of the run, to this machine alone."),
    TOKEN,
)

SERVES = {"--web-token": ("--web",)}
"""Flags that do nothing without --web."""

web_flags = grouped(_FLAGS, into="web", kind="edgebcnn.web.choices:WebChoices")
