"""`edgebcnn run`: names the products that a camera, video or folder of photos shows."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgebcnn.bundle import Bundle, Precision
    from edgebcnn.camera.sinks import Sink
    from edgebcnn.camera.source import Source
    from edgebcnn.progress import Reporter

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
    type=click.Choice(["int8", "mixed", "int16", "dynamic", "fp16", "float32"]),
    show_default="the first of these that the bundle has",
    help="Which of the bundle's models to run.",
)
@click.option("--threads", type=click.IntRange(1, 64), show_default="the cores, at most 4", help="CPU threads.")
@click.option("--jsonl", type=click.Path(path_type=Path), help="Append one JSON object a frame to this file.")
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
    jsonl: Path | None,
    max_frames: int | None,
    duration: float | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Name the products that a camera, video or folder of photos shows.

    Videos and folders are read frame by frame; cameras and streams always give their newest frame. Folders named like
    products, and VIDEO.truth.csv beside a VIDEO (columns frame,label), say what is right and bring the accuracy.
    """
    from edgebcnn.atomic import json_bytes
    from edgebcnn.camera.loop import CameraLoop
    from edgebcnn.camera.source import open_source
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.signals import stopped_by_signals
    from edgebcnn.device.classifier import Classifier

    reporter = TerminalReporter()
    with stopped_by_signals() as stop:
        classifier = Classifier.from_bundle(_open(bundle_path), precision=precision, threads=threads)
        names = {label.name for label in classifier.labels}
        with closing(open_source(spec, labels=names, reporter=reporter)) as source:
            loop = CameraLoop(source, classifier, _sinks(source, jsonl, reporter, lines=not (quiet or as_json)))
            try:
                loop.run(stop=stop, max_frames=max_frames, duration_s=duration)
            finally:
                summary = loop.summary()
                click.echo(json_bytes(summary.as_json()).decode() if as_json else f"{summary}\n", nl=False)


def _open(path: Path) -> Bundle:
    from edgebcnn.bundle import open_bundle
    from edgebcnn.errors import BundleError

    if path == DEFAULT_BUNDLE and not path.exists():
        raise BundleError(f"there is no {path}: run edgebcnn train and edgebcnn export --int8 first, or give --bundle")
    return open_bundle(path)


def _sinks(source: Source, jsonl: Path | None, reporter: Reporter, *, lines: bool) -> list[Sink]:
    """The file, and lines on stdout; where none are wanted and the end is known, a progress bar on stderr."""
    from edgebcnn.camera.sinks import JsonLinesSink, ProgressSink, TerminalSink

    sinks: list[Sink] = [JsonLinesSink(jsonl)] if jsonl else []
    if lines:
        sinks.append(TerminalSink(sys.stdout))
    elif source.total is not None:
        sinks.append(ProgressSink(reporter, source.total))
    return sinks
