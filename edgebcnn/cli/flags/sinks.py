"""Flags of `edgebcnn run` about the sinks of its events."""

from __future__ import annotations

from pathlib import Path

import click

from edgebcnn.cli.flags.grouped import grouped
from edgebcnn.cli.flags.sections import setting
from edgebcnn.cli.flags.types import Address, Secret

PATH = click.Path(path_type=Path)
_POSITIVE = click.FloatRange(min=0, min_open=True)

_FLAGS = (
    click.option("--jsonl", type=PATH, help="Append one JSON object per event to this file."),
    click.option("--csv", type=PATH, help="Append one row per event to this file."),
    click.option(
        "--mqtt",
        type=Address(),
        metavar="ADDRESS",
        envvar="EDGEBCNN_MQTT",
        show_envvar=True,
        help="Publish events to a broker: mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX].",
    ),
    click.option(
        "--webhook",
        type=Secret(),
        metavar="ADDRESS",
        envvar="EDGEBCNN_WEBHOOK",
        show_envvar=True,
        help="Post events as JSON arrays to an http(s) address.",
    ),
    click.option("--metrics", metavar="[HOST:]PORT", help="Serve /metrics for Prometheus, by default locally only."),
    setting("--device-id", show_default="the machine's name", help="Name of this device in events and topics."),
    setting(
        "--rotate-mb",
        type=_POSITIVE,
        show_default="never",
        help="Rotate the jsonl and csv files at this size in MB, to FILE.1, FILE.2, ...",
    ),
    setting("--rotate-keep", type=click.IntRange(1, 9999), default=5, help="Rotated files to keep."),
    setting("--mqtt-password-file", type=PATH, help="File with the broker's password in its first line."),
    setting(
        "--mqtt-discovery",
        default="homeassistant",
        help="Discovery prefix of Home Assistant; an empty text turns discovery off.",
    ),
    setting("--webhook-token-file", type=PATH, help="File with a bearer token in its first line."),
    setting("--ca-file", type=PATH, help="CA certificates (PEM) to trust in place of the system's."),
    setting(
        "--spool",
        type=PATH,
        default=Path("spool"),
        help="Folder where events wait until broker and webhook accept them.",
    ),
    setting("--spool-mb", type=_POSITIVE, default=64, help="Maximum size in MB of the events that wait for each."),
    setting("--allow-offline", is_flag=True, help="Start even if broker or webhook cannot be reached."),
)

sink_flags = grouped(_FLAGS, into="sinks", kind="edgebcnn.sinks.choices:SinkChoices")
