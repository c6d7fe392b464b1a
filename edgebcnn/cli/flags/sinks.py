"""Flags of `edgebcnn run` that say where events go."""

from __future__ import annotations

from pathlib import Path

import click

from edgebcnn.cli.flags.grouped import grouped

PATH = click.Path(path_type=Path)

_FLAGS = (
    click.option("--jsonl", type=PATH, help="Append one JSON object an event to this file."),
    click.option("--csv", type=PATH, help="Append one row an event to this file."),
    click.option(
        *("--rotate-mb", "rotate_mb"),
        type=click.FloatRange(min=0, min_open=True),
        show_default="never",
        help="Put --jsonl and --csv files aside at this size, as FILE.1, FILE.2, ...",
    ),
    click.option("--rotate-keep", type=click.IntRange(1, 9999), default=5, help="Files put aside to keep."),
    click.option(
        "--mqtt",
        metavar="ADDRESS",
        envvar="EDGEBCNN_MQTT",
        show_envvar=True,
        help="Publish events to a broker: mqtt[s]://[USER:PASSWORD@]HOST[:PORT][/PREFIX].",
    ),
    click.option("--mqtt-password-file", type=PATH, help="File with the broker's password in its first line."),
    click.option("--mqtt-discovery", default="homeassistant", help="Where Home Assistant looks; '' for nowhere."),
    click.option(
        "--webhook",
        metavar="ADDRESS",
        envvar="EDGEBCNN_WEBHOOK",
        show_envvar=True,
        help="Post events as JSON arrays to an http(s) address.",
    ),
    click.option("--webhook-token-file", type=PATH, help="File with a bearer token in its first line."),
    click.option("--ca-file", type=PATH, help="Certificates (PEM) to trust in place of the system's."),
    click.option("--metrics", metavar="[HOST:]PORT", help="Serve /metrics for Prometheus, to this machine alone."),
    click.option("--spool", type=PATH, default=Path("spool"), help="Folder where events wait for broker and webhook."),
    click.option(
        "--spool-mb", type=click.FloatRange(min=0, min_open=True), default=64, help="Size of what may wait for each."
    ),
    click.option("--allow-offline", is_flag=True, help="Begin although broker or webhook cannot be reached."),
    click.option("--device-id", show_default="the machine's name", help="Name of this device in events and topics."),
)

sink_flags = grouped(_FLAGS, into="sinks", kind="edgebcnn.sinks.choices:SinkChoices")
