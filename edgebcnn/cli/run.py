"""`edgebcnn run`: names the products that a camera, video or folder of photos shows."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.sink_flags import sink_flags

if TYPE_CHECKING:
    from edgebcnn.bundle import Bundle, Precision
    from edgebcnn.camera.summary import Summary
    from edgebcnn.sinks.choices import SinkChoices
    from edgebcnn.sinks.outlet import Counts

DEFAULT_BUNDLE = Path("runs/latest/bundle")


def _number(_context: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is not a number of seconds")
    return value


@click.command(epilog="Ctrl-C or SIGTERM finishes the frame and prints the summary; a second Ctrl-C ends at once.")
@click.option(
    "--camera",
    "spec",
    default="0",
    metavar="SOURCE",
    help="Index, device, video file, folder of photos, or an http(s) MJPEG or RTSP address.",
)
@click.option(
    "--bundle", "bundle_path", type=click.Path(path_type=Path), default=DEFAULT_BUNDLE, help="What export wrote."
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp16", "float32"]),
    show_default="the first of these that the bundle has",
    help="Which of the bundle's models to run.",
)
@click.option("--threads", type=click.IntRange(1, 64), show_default="the cores, at most 4", help="CPU threads.")
@sink_flags
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after so many classified frames.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    callback=_number,
    help="Stop after so many seconds.",
)
@click.option("--quiet", is_flag=True, help="No line per frame.")
@click.option("--json", "as_json", is_flag=True, help="The summary as JSON, and no line per frame.")
def command(
    *,
    spec: str,
    bundle_path: Path,
    precision: Precision | None,
    threads: int | None,
    choices: SinkChoices,
    max_frames: int | None,
    duration: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Name the products that a camera, video or folder of photos shows.

    Videos and folders are read frame by frame; cameras and streams always give their newest frame. Folders named like
    products, and VIDEO.truth.csv beside a VIDEO (columns frame,label), say what is right and bring the accuracy.
    """
    from edgebcnn.camera.loop import CameraLoop
    from edgebcnn.camera.source import open_source
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.signals import stopped_by_signals
    from edgebcnn.device.classifier import Classifier
    from edgebcnn.sinks.choices import open_sinks
    from edgebcnn.sinks.terminal import ProgressSink

    reporter = TerminalReporter()
    lines = not (quiet or as_json)
    with stopped_by_signals() as stop:
        bundle = _open(bundle_path)
        classifier = Classifier.from_bundle(bundle, precision=precision, threads=threads)
        names = {label.name for label in classifier.labels}
        with closing(open_source(spec, labels=names, reporter=reporter)) as source:
            events = open_sinks(
                choices,
                bundle_digest=bundle.digest,
                terminal=sys.stdout if lines else None,
                keep_every_line=source.total is not None,
                reporter=reporter,
                in_a_hurry=stop.is_set,
            )
            bar = [] if lines or source.total is None else [ProgressSink(reporter, source.total)]
            loop = CameraLoop(source, classifier, [events, *bar])
            try:
                loop.run(stop=stop, max_frames=max_frames, duration_s=duration)
            finally:
                click.echo(_told(loop.summary(), events.counts(), as_json=as_json), nl=False)


def _told(summary: Summary, counts: Sequence[Counts], *, as_json: bool) -> str:
    """The summary, and what became of the events; of lines on the terminal only that some were left out."""
    from edgebcnn.atomic import json_bytes

    if as_json:
        return json_bytes({**summary.as_json(), "sinks": [each.as_json() for each in counts]}).decode()
    told = [f"{'events':<10}{each}" for each in counts if each.sink != "terminal" or each.dropped]
    return "\n".join([str(summary), *told, ""])


def _open(path: Path) -> Bundle:
    from edgebcnn.bundle import open_bundle
    from edgebcnn.errors import BundleError

    if path == DEFAULT_BUNDLE and not path.exists():
        raise BundleError(f"there is no {path}: run edgebcnn train and edgebcnn export --int8 first, or give --bundle")
    return open_bundle(path)
