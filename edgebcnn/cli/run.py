"""`edgebcnn run` recognizes the products in a camera, video or folder of photos."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.config import ConfiguredCommand, config_option, given_by_user
from edgebcnn.cli.flags.device import bundle_option, device_for, device_settings, open_from, policy_of
from edgebcnn.cli.flags.grouped import grouped
from edgebcnn.cli.flags.health import SERVES as HEALTH_SERVES
from edgebcnn.cli.flags.health import health_flags
from edgebcnn.cli.flags.sections import section, setting, spelled
from edgebcnn.cli.flags.shelf import SERVES as SHELF_SERVES
from edgebcnn.cli.flags.shelf import shelf_flags
from edgebcnn.cli.flags.sinks import PATH, sink_flags
from edgebcnn.cli.flags.toml_text import resolved
from edgebcnn.cli.flags.types import Address
from edgebcnn.cli.flags.view import view_flags
from edgebcnn.cli.flags.web import SERVES as WEB_SERVES
from edgebcnn.cli.flags.web import web_flags

if TYPE_CHECKING:
    from edgebcnn.run import RunChoices

_FILES = ("--jsonl", "--csv")
_REMOTE = ("--mqtt", "--webhook")
_SERVES = {
    "--rotate-mb": _FILES,
    "--rotate-keep": ("--rotate-mb",),
    "--mqtt-password-file": ("--mqtt",),
    "--mqtt-discovery": ("--mqtt",),
    "--webhook-token-file": ("--webhook",),
    "--ca-file": _REMOTE,
    "--spool": _REMOTE,
    "--spool-mb": _REMOTE,
    "--allow-offline": _REMOTE,
    "--sample-rate": ("--sample",),
    "--sample-mb": ("--sample",),
    "--blur-faces": ("--sample",),
    **HEALTH_SERVES,
    **SHELF_SERVES,
    **WEB_SERVES,
}
"""Choices that have no effect unless one of these others is made."""


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds")
    return value


@click.command(
    cls=ConfiguredCommand,
    only_flags=("as_json",),
    epilog="Ctrl-C or SIGTERM finishes the frame and prints the summary; a second Ctrl-C ends at once.",
)
@section(
    "Source",
    click.option(
        "--camera",
        type=Address(),
        show_default="the device's, which is 0 in most profiles",
        metavar="SOURCE",
        help="Index, device, CSI camera (csi:0), video, folder or pattern of photos, or http(s) MJPEG or RTSP address.",
    ),
    view_flags,
    setting(
        "--max-outage",
        type=click.FloatRange(min=0),
        callback=_number,
        show_default="600",
        help="Reconnect to a lost camera or stream for this many seconds, then exit; 0 exits at once.",
    ),
)
@section("Model and device", bundle_option, *device_settings)
@shelf_flags
@section("Events", sink_flags)
@section(
    "Screen",
    web_flags,
    click.option("--show", is_flag=True, help="Show the run in a window, if OpenCV has one; closing it ends the run."),
    click.option("--quiet", is_flag=True, help="Print no line per frame or event."),
    click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, and no line per frame."),
)
@section(
    "Frames",
    click.option(
        "--max-age",
        type=click.FloatRange(min=0, min_open=True),
        callback=_number,
        show_default="no limit",
        help="Skip frames whose capture was more than this many seconds ago.",
    ),
    click.option("--every-frame", is_flag=True, help="Classify frozen, black, overexposed and blurred frames as well."),
    setting(
        "--frozen-after",
        type=click.FloatRange(min=0, min_open=True),
        callback=_number,
        show_default="10",
        help="Seconds without any change after which the image counts as frozen.",
    ),
    setting(
        "--min-sharpness",
        type=click.FloatRange(0, 1),
        callback=_number,
        show_default="0.2",
        help="Sharpness, 0 to 1, below which a frame counts as blurred.",
    ),
)
@section(
    "Sample",
    click.option(
        "--sample", type=PATH, metavar="DIR", help="Keep a sample of the frames, or slots, for edgebcnn audit."
    ),
    click.option(
        "--blur-faces",
        type=PATH,
        metavar="MODEL",
        help="Blur the faces in the sample that this detector finds: MediaPipe's face_detection_full_range.tflite.",
    ),
    setting(
        "--sample-rate",
        type=click.FloatRange(0, 1, min_open=True),
        callback=_number,
        default=0.02,
        help="Share of frames or classified slots to keep; uncertain readings and rare products up to nine times as"
        " often.",
    ),
    setting(
        "--sample-mb", type=click.FloatRange(min=1), callback=_number, default=512, help="Maximum size of it in MB."
    ),
)
@section("Monitoring", health_flags)
@section(
    "End",
    click.option("--max-frames", type=click.IntRange(min=1), help="Stop after this many classified frames."),
    click.option(
        "--duration",
        type=click.FloatRange(min=0, min_open=True),
        callback=_number,
        help="Stop after this many seconds.",
    ),
    config_option,
)
@grouped((), into="choices", kind="edgebcnn.run:RunChoices")
@click.pass_context
def command(
    context: click.Context,
    /,
    *,
    bundle: Path,
    device: str,
    allow_cpu_fallback: bool,
    require_full_delegation: bool,
    choices: RunChoices,
    quiet: bool,
    as_json: bool,
) -> None:
    """Recognize the products in a camera, video or folder of photos.

    Videos and folders are read frame by frame; cameras and streams give their newest frame, and the run reconnects when
    they are lost. Unusable frames are skipped, with the reason. Folders named like products, and VIDEO.truth.csv next
    to a VIDEO (columns frame,label), hold the correct labels and add the accuracy to the summary.

    The device's profile may set the source and its size, rate and rotation; each flag overrides it.

    With --slots, each slot of a shelf is classified on its own, and reported when its state settles: right, wrong,
    empty, unknown or occluded.
    """
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals
    from edgebcnn.run import open_run

    idle = _without_effect(context)
    reporter = TerminalReporter()
    policy = policy_of(allow_cpu_fallback=allow_cpu_fallback, require_full_delegation=require_full_delegation)
    opened = open_from(bundle)
    profile = device_for(opened, device, precision=choices.precision, threads=choices.threads, reporter=reporter)
    with open_run(
        choices,
        opened,
        profile=profile,
        policy=policy,
        lines=not (quiet or as_json),
        stopping=stopped_by_signals,
        reporter=reporter,
    ) as run:
        try:
            run.begin()
        finally:
            summary = {**run.as_json(), "config": resolved(context, without=idle)} if as_json else {}
            click.echo(json_bytes(summary).decode() if as_json else f"{run}\n", nl=False)


def _without_effect(context: click.Context) -> set[str]:
    """Names of the choices that have no effect in this call; one that the user made is refused."""
    parameters = {parameter.opts[0]: parameter for parameter in context.command.params}
    names = given_by_user(context)
    given = {flag for flag, parameter in parameters.items() if parameter.name in names}
    idle = {flag for flag, served in _SERVES.items() if given.isdisjoint(served)}
    for flag in _SERVES:
        if flag in idle and flag in given:
            choice = spelled(parameters[flag])
            served = " or ".join(spelled(parameters[each]) for each in _SERVES[flag])
            raise click.UsageError(f"{choice} is for {served}: add that, or omit {choice}")
    return {str(parameters[flag].name) for flag in idle}
