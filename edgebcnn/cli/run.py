"""`edgebcnn run`: names the products that a camera, video or folder of photos shows."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from edgebcnn.cli.device_options import DEFAULT_BUNDLE, device_for, device_options, open_from, policy_of
from edgebcnn.cli.health_flags import SERVES as HEALTH_SERVES
from edgebcnn.cli.health_flags import health_flags
from edgebcnn.cli.shelf_flags import SERVES as SHELF_SERVES
from edgebcnn.cli.shelf_flags import ShelfChoices, shelf_flags
from edgebcnn.cli.sink_flags import PATH, sink_flags
from edgebcnn.cli.view_flags import ViewChoices, view_flags
from edgebcnn.cli.web_flags import SERVES as WEB_SERVES
from edgebcnn.cli.web_flags import WebChoices, web_flags

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision
    from edgebcnn.camera.quality import Limits
    from edgebcnn.camera.summary import Summary
    from edgebcnn.field.sampler import SampleCounts
    from edgebcnn.shelf.watch import ShelfWatch
    from edgebcnn.sinks.choices import SinkChoices
    from edgebcnn.sinks.fan_out import EventSinks
    from edgebcnn.sinks.health import Health, HealthChoices
    from edgebcnn.sinks.outlet import Counts


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
    "spec",
    show_default="the device's, which is 0 in most profiles",
    metavar="SOURCE",
    help="Index, device, video file, folder or pattern of photos, or an http(s) MJPEG or RTSP address.",
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
@click.option(
    "--sample", "sample_path", type=PATH, metavar="DIR", help="Keep a sample of the frames for edgebcnn audit."
)
@click.option(
    "--sample-rate",
    type=click.FloatRange(0, 1, min_open=True),
    callback=_number,
    default=0.02,
    help="Share of frames to keep; uncertain readings and rare products up to nine times as many.",
)
@click.option("--sample-mb", type=click.FloatRange(min=1), callback=_number, default=512, help="Size of --sample.")
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
def command(
    *,
    spec: str | None,
    view: ViewChoices,
    bundle_path: Path,
    device: str,
    allow_cpu_fallback: bool,
    require_full_delegation: bool,
    precision: Precision | None,
    threads: int | None,
    choices: SinkChoices,
    shelf: ShelfChoices,
    web: WebChoices,
    show: bool,
    sample_path: Path | None,
    sample_rate: float,
    sample_mb: float,
    max_frames: int | None,
    duration: float | None,
    max_age: float | None,
    frozen_after: float | None,
    min_sharpness: float | None,
    every_frame: bool,
    max_outage: float | None,
    health: HealthChoices,
    quiet: bool,
    as_json: bool,
) -> None:
    """Name the products that a camera, video or folder of photos shows.

    Videos and folders are read frame by frame; cameras and streams always give their newest frame, and are sought again
    when they are lost. Frames that show nothing get no product but a reason. Folders named like products, and
    VIDEO.truth.csv beside a VIDEO (columns frame,label), say what is right and bring the accuracy.

    With --slots, each slot of a shelf is read for itself, and told when its state settles: right, wrong, empty, unknown
    or occluded.
    """
    from edgebcnn.camera.loop import CameraLoop
    from edgebcnn.camera.recovery import MAX_OUTAGE_S, Patience
    from edgebcnn.camera.service import watched
    from edgebcnn.camera.shelf import ShelfReader
    from edgebcnn.camera.source import open_source
    from edgebcnn.camera.window import Window
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.signals import stopped_by_signals
    from edgebcnn.device.delegate import open_classifier
    from edgebcnn.field.sample import SampleFolder
    from edgebcnn.field.sampler import Sampler
    from edgebcnn.sinks.choices import MB, open_sinks
    from edgebcnn.sinks.health import open_health
    from edgebcnn.sinks.terminal import ProgressSink
    from edgebcnn.web.board import LiveRun

    _check_that_flags_do_something()
    reporter = TerminalReporter()
    lines = not (quiet or as_json)
    limits = _limits(max_age, frozen_after, min_sharpness, every_frame=every_frame)
    patience = Patience(max_outage_s=MAX_OUTAGE_S if max_outage is None else max_outage)
    policy = policy_of(allow_cpu_fallback=allow_cpu_fallback, require_full_delegation=require_full_delegation)
    bundle = open_from(bundle_path)
    profile = device_for(bundle, device, precision=precision, threads=threads, reporter=reporter)
    classifier = open_classifier(bundle, profile, precision=precision, threads=threads, policy=policy)
    if classifier.receipt.fallback:
        reporter.say(f"Going on with the CPU: {classifier.receipt.fallback}")
    watch = shelf.watch(bundle, classifier)
    folder = sample_path and SampleFolder(sample_path, bundle_digest=bundle.digest, max_bytes=round(sample_mb * MB))
    names = {label.name for label in classifier.labels}
    camera = spec or profile.camera.source
    opened = open_source(camera, labels=names, reporter=reporter, patience=patience, view=view.view())
    with closing(opened) as source, stopped_by_signals() as stop, watched(source) as watchdog:
        pace, reader = shelf.pace(source), ShelfReader(watch, source) if watch else None
        page = web.open(reporter=reporter, in_a_hurry=stop.is_set)
        window = Window(source.name, watch=watch, stop=stop, reporter=reporter) if show else None
        events = open_sinks(
            choices,
            bundle_digest=bundle.digest,
            terminal=sys.stdout if lines else None,
            keep_every_line=source.total is not None,
            reporter=reporter,
            in_a_hurry=stop.is_set,
            slots=watch.names if watch else (),
            others=[page.news] if page else (),
        )
        checks = open_health(
            health,
            bundle,
            classifier=classifier,
            profile=profile,
            source=source,
            sinks=events,
            watchdog=watchdog,
            reporter=reporter,
        )
        bar = [] if lines or source.total is None else [ProgressSink(reporter, source.total)]
        sampler = folder and Sampler(
            folder,
            rate=sample_rate,
            run=events.stamp.run,
            precision=classifier.receipt.precision,
            classes=len(classifier.labels),
            preprocessing=bundle.manifest.preprocessing,
            reporter=reporter,
            may_wait=source.total is not None,
            in_a_hurry=stop.is_set,
        )
        told: list[EventSinks | ProgressSink] = [events, *bar]
        seen_by = [each for each in (sampler, page, window, checks.shadow, checks.replay) if each]
        loop = CameraLoop(
            source,
            classifier,
            [] if reader else told,
            frame_sinks=[] if reader else seen_by,
            shelf=reader,
            shelf_sinks=[*told, *(each for each in (page, window, checks.replay) if each)] if reader else [],
            pace=pace,
            limits=limits,
            watchdog=watchdog,
        )
        if page:
            page.start(
                LiveRun(
                    stamp=events.stamp,
                    summary=loop.summary,
                    status=source.status,
                    counts=events.counts,
                    watch=watch,
                    agreements=checks.agreements,
                )
            )
        try:
            loop.run(stop=stop, max_frames=max_frames, duration_s=duration)
        finally:
            sample = sampler.counts() if sampler else None
            click.echo(_told(loop.summary(), events.counts(), sample, watch, checks, as_json=as_json), nl=False)


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
    if {"--slots", "--shadow"} <= given:
        raise click.UsageError("--shadow asks about frames that show one product, --slots reads a shelf: leave one out")
    if {"--slots", "--sample"} <= given:
        raise click.UsageError("--sample keeps frames that show one product, --slots reads a shelf: leave one out")


def _told(
    summary: Summary,
    counts: Sequence[Counts],
    sample: SampleCounts | None,
    watch: ShelfWatch | None,
    checks: Health,
    *,
    as_json: bool,
) -> str:
    """The summary, and what became of events and frames; of lines on the terminal only that some were left out."""
    from edgebcnn.atomic import json_bytes

    if as_json:
        document = {**summary.as_json(), **(watch.as_json() if watch else {})}
        document |= checks.as_json()
        document["sinks"] = [each.as_json() for each in counts]
        return json_bytes(document | ({"sample": sample.as_json()} if sample else {})).decode()
    told = [str(watch)] if watch else []
    told += [str(checks)] if str(checks) else []
    told += [f"{'events':<10}{each}" for each in counts if each.sink != "terminal" or each.dropped]
    told += [f"{'sample':<10}{sample}"] if sample else []
    return "\n".join([str(summary), *told, ""])


def _limits(
    max_age_s: float | None, frozen_after_s: float | None, min_sharpness: float | None, *, every_frame: bool
) -> Limits:
    from edgebcnn.camera.quality import EVERY_FRAME, Limits

    usual = EVERY_FRAME if every_frame else Limits()
    return replace(
        usual,
        max_age_s=usual.max_age_s if max_age_s is None else max_age_s,
        frozen_after_s=usual.frozen_after_s if frozen_after_s is None else frozen_after_s,
        min_sharpness=usual.min_sharpness if min_sharpness is None else min_sharpness,
    )
