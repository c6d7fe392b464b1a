"""Flags of `edgebcnn run` about monitoring: shadow model, golden photos and alarms."""

from __future__ import annotations

import click

from edgebcnn.cli.flags.grouped import finite, grouped
from edgebcnn.cli.flags.sections import setting
from edgebcnn.monitor.scene import FRAME_SCENE_S, SLOT_SCENE_S

_FLAGS = (
    click.option(
        "--shadow",
        is_flag=False,
        flag_value="",
        metavar="[FILE]",
        help="Run the full model in the background and report the agreement: a .tflite file, or the bundle's own.",
    ),
    setting(
        "--shadow-cpu",
        type=click.FloatRange(0, 1, min_open=True),
        callback=finite,
        default=0.25,
        help="Share of one core's time that the shadow model may use.",
    ),
    setting(
        "--shadow-scene",
        type=click.FloatRange(min=0),
        callback=finite,
        show_default=f"{FRAME_SCENE_S:g}, of a slot {SLOT_SCENE_S:g}",
        help="Seconds that count as one scene, of which the shadow model classifies one frame; 0 for no limit.",
    ),
    setting(
        "--alarm-below",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        callback=finite,
        show_default="lower end of the export's interval",
        help="Agreement with the shadow model, 0 to 1, below which an alarm is raised.",
    ),
    setting(
        "--on-alarm",
        type=click.Choice(["report", "stop"]),
        default="report",
        help="What an alarm does, besides being reported: nothing, or stop the run with exit code 15.",
    ),
    setting(
        "--golden-every",
        type=click.FloatRange(min=0),
        callback=finite,
        metavar="HOURS",
        show_default="6 for cameras and streams, else 0",
        help="Replay the bundle's golden photos between frames at the start and every so many hours; 0 is off.",
    ),
)

SERVES = {flag: ("--shadow",) for flag in ("--shadow-cpu", "--shadow-scene", "--alarm-below")}
"""Choices that have no effect without --shadow."""

health_flags = grouped(_FLAGS, into="health", kind="edgebcnn.monitor.health:HealthChoices")
