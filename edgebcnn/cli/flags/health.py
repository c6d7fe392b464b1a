"""Flags of `edgebcnn run` that say how the model is watched over while it runs."""

from __future__ import annotations

import click

from edgebcnn.cli.flags.grouped import finite, grouped
from edgebcnn.monitor.scene import FRAME_SCENE_S, SLOT_SCENE_S

_FLAGS = (
    click.option(
        "--golden-every",
        type=click.FloatRange(min=0),
        callback=finite,
        metavar="HOURS",
        show_default="6 for cameras and streams, else 0",
        help="Replay the bundle's golden photos between frames, at the start and then so often; 0 for never.",
    ),
    click.option(
        "--on-alarm",
        type=click.Choice(["report", "stop"]),
        default="report",
        help="What to do where the golden photos or the agreement fall below the bundle's threshold.",
    ),
    click.option(
        "--shadow",
        is_flag=False,
        flag_value="",
        metavar="[FILE]",
        help="Ask the full model about frames or slots too, beside the loop: a .tflite file, or the bundle's own.",
    ),
    click.option(
        "--shadow-cpu",
        type=click.FloatRange(0, 1, min_open=True),
        callback=finite,
        default=0.25,
        help="Share of one core's time that --shadow may take.",
    ),
    click.option(
        "--shadow-scene",
        type=click.FloatRange(min=0),
        callback=finite,
        show_default=f"{FRAME_SCENE_S:g}, of a slot {SLOT_SCENE_S:g}",
        help="Seconds that count as one scene of the camera or of a slot, asked about once; 0 for as often as can be.",
    ),
    click.option(
        "--alarm-below",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        callback=finite,
        show_default="lower end of the export's interval",
        help="Agreement, 0 to 1, below which --shadow raises an alarm.",
    ),
)

SERVES = {flag: ("--shadow",) for flag in ("--shadow-cpu", "--shadow-scene", "--alarm-below")}
"""Flags that do nothing without --shadow."""

health_flags = grouped(_FLAGS, into="health", kind="edgebcnn.monitor.health:HealthChoices")
