"""`edgebcnn run`: names the products that a camera, video or folder of photos shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgebcnn.cli.flags.device import DEFAULT_BUNDLE, device_for, device_options, open_from, policy_of
from edgebcnn.cli.flags.grouped import grouped
from edgebcnn.cli.flags.health import SERVES as HEALTH_SERVES
from edgebcnn.cli.flags.health import health_flags
from edgebcnn.cli.flags.shelf import SERVES as SHELF_SERVES
from edgebcnn.cli.flags.shelf import shelf_flags
from edgebcnn.cli.flags.sinks import PATH, sink_flags
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
"""Flags that do nothing unless one of these others is given."""


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds")
    return value


@click.command(epilog="Ctrl-C or SIGTERM finishes the frame and prints the summary; a second Ctrl-C ends at once.")
@click.option(
    "--camera",
    show_default="the device's, which is 0 in most profiles",
    metavar="SOURCE",
    help="Index, device, CSI camera (csi:0), video, folder or pattern of photos, or http(s) MJPEG or RTSP address.",
)
@view_flags
@click.option(
    "--bundle", "bundle_path", type=click.Path(path_type=Path), default=DEFAULT_BUNDLE, help="What export wrote."
)
@device_options
@sink_flags
@web_flags
@click.option("--show", is_flag=True, help="Show the run in a window, where OpenCV has one; closing it ends the run.")
@shelf_flags
@click.option("--sample", type=PATH, metavar="DIR", help="Keep a sample of the frames, or slots, for edgebcnn audit.")
@click.option(
    "--sample-rate",
    type=click.FloatRange(0, 1, min_open=True),
    callback=_number,
    default=0.02,
    help="Share of frames or classified slots to keep; uncertain readings and rare products up to nine times as many.",
)
@click.option("--sample-mb", type=click.FloatRange(min=1), callback=_number, default=512, help="Size of --sample.")
@click.option(
    "--blur-faces",
    type=PATH,
    metavar="MODEL",
    help="Blur the faces in --sample that this detector finds: MediaPipe's face_detection_full_range.tflite.",
)
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after so many classified frames.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    callback=_number,
    help="Stop after so many seconds.",
)
@click.option(
    "--max-age",
    type=click.FloatRange(min=0, min_open=True),
    callback=_number,
    show_default="none",
    help="Seconds from a frame's capture after which its product is not said.",
)
@click.option(
    "--frozen-after",
    type=click.FloatRange(min=0, min_open=True),
    callback=_number,
    show_default="10",
    help="Seconds after which a picture that never changes counts as frozen.",
)
@click.option(
    "--min-sharpness",
    type=click.FloatRange(0, 1),
    callback=_number,
    show_default="0.2",
    help="Sharpness, 0 to 1, below which a frame counts as blurred.",
)
@click.option("--every-frame", is_flag=True, help="Classify frozen, black, overexposed and blurred frames too.")
@click.option(
    "--max-outage",
    type=click.FloatRange(min=0),
    callback=_number,
    show_default="600",
    help="Seconds for which a camera or stream that was lost is sought; 0 ends at once.",
)
@health_flags
@click.option("--quiet", is_flag=True, help="No line per frame or event.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON, and no line per frame.")
@grouped((), into="choices", kind="edgebcnn.run:RunChoices")
def command(
    *,
    bundle_path: Path,
    device: str,
    allow_cpu_fallback: bool,
    require_full_delegation: bool,
    choices: RunChoices,
    quiet: bool,
    as_json: bool,
) -> None:
    """Name the products that a camera, video or folder of photos shows.

    Videos and folders are read frame by frame; cameras and streams always give their newest frame, and are sought again
    when they are lost. Frames that show nothing get no product but a reason. Folders named like products, and
    VIDEO.truth.csv beside a VIDEO (columns frame,label), say what is right and bring the accuracy.

    The device's profile may say what to read, and in which size, rate and rotation; each flag wins over it.

    With --slots, each slot of a shelf is read for itself, and told when its state settles: right, wrong, empty, unknown
    or occluded.
    """
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals
    from edgebcnn.run import open_run

    _check_that_flags_do_something()
    reporter = TerminalReporter()
    policy = policy_of(allow_cpu_fallback=allow_cpu_fallback, require_full_delegation=require_full_delegation)
    bundle = open_from(bundle_path)
    profile = device_for(bundle, device, precision=choices.precision, threads=choices.threads, reporter=reporter)
    with open_run(
        choices,
        bundle,
        profile=profile,
        policy=policy,
        lines=not (quiet or as_json),
        stopping=stopped_by_signals,
        reporter=reporter,
    ) as run:
        try:
            run.begin()
        finally:
            click.echo(json_bytes(run.as_json()).decode() if as_json else f"{run}\n", nl=False)


def _check_that_flags_do_something() -> None:
    context = click.get_current_context()
    given = {
        flag.opts[0]
        for flag in context.command.params
        if context.get_parameter_source(str(flag.name)) is not ParameterSource.DEFAULT
    }
    for flag, served in _SERVES.items():
        if flag in given and given.isdisjoint(served):
            raise click.UsageError(f"{flag} is for {' or '.join(served)}: add that, or leave {flag} out")
