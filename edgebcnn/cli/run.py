"""`edgebcnn run`: names the products that a camera, video or folder of photos shows."""

from __future__ import annotations

import math
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.shelf_flags import ShelfChoices, shelf_flags

if TYPE_CHECKING:
    from edgebcnn.bundle import Bundle, Precision
    from edgebcnn.camera.shelf import SlotSink
    from edgebcnn.camera.sinks import Sink
    from edgebcnn.camera.source import Source
    from edgebcnn.camera.summary import Summary
    from edgebcnn.progress import Reporter
    from edgebcnn.shelf.watch import ShelfWatch

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
@click.option("--jsonl", type=click.Path(path_type=Path), help="Append one JSON object a frame to this file.")
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after so many classified frames.")
@click.option(
    "--duration",
    type=click.FloatRange(min=0, min_open=True),
    callback=_number,
    help="Stop after so many seconds.",
)
@shelf_flags
@click.option("--quiet", is_flag=True, help="No line per frame or event.")
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
    shelf: ShelfChoices,
    quiet: bool,
    as_json: bool,
) -> None:
    """Name the products that a camera, video or folder of photos shows.

    Videos and folders are read frame by frame; cameras and streams always give their newest frame. Folders named like
    products, and VIDEO.truth.csv beside a VIDEO (columns frame,label), say what is right and bring the accuracy.

    With --slots, each slot of a shelf is read for itself, and told when its state settles: right, wrong, empty, unknown
    or occluded.
    """
    from edgebcnn.camera.loop import CameraLoop
    from edgebcnn.camera.shelf import ShelfReader
    from edgebcnn.camera.source import open_source
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.signals import stopped_by_signals
    from edgebcnn.device.classifier import Classifier

    reporter = TerminalReporter()
    with stopped_by_signals() as stop:
        bundle = _open(bundle_path)
        classifier = Classifier.from_bundle(bundle, precision=precision, threads=threads)
        watch = shelf.watch(bundle, classifier)
        names = {label.name for label in classifier.labels}
        with closing(open_source(spec, labels=names, reporter=reporter)) as source:
            lines = not (quiet or as_json)
            sinks = [] if watch else _sinks(source, jsonl, reporter, lines=lines)
            reader = ShelfReader(watch, source, _slot_sinks(jsonl, lines=lines)) if watch else None
            loop = CameraLoop(source, classifier, sinks, shelf=reader, pace=shelf.pace(source))
            try:
                loop.run(stop=stop, max_frames=max_frames, duration_s=duration)
            finally:
                click.echo(_told(loop.summary(), watch, as_json=as_json), nl=False)


def _told(summary: Summary, watch: ShelfWatch | None, *, as_json: bool) -> str:
    from edgebcnn.atomic import json_bytes

    if as_json:
        return json_bytes({**summary.as_json(), **(watch.as_json() if watch else {})}).decode()
    return "\n".join([str(summary), *([str(watch)] if watch else []), ""])


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


def _slot_sinks(jsonl: Path | None, *, lines: bool) -> list[SlotSink]:
    from edgebcnn.camera.shelf import SlotLines
    from edgebcnn.camera.sinks import JsonLinesSink

    return [*([JsonLinesSink(jsonl)] if jsonl else []), *([SlotLines(sys.stdout)] if lines else [])]
