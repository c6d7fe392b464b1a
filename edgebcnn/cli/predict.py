"""`edgebcnn predict`: names the products on photos."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import bundle_option, device_for, device_options, open_from, policy_of
from edgebcnn.cli.flags.sections import SectionedCommand, section

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision
    from edgebcnn.loop.photos import PhotoPrediction, PhotoPredictions

MIN_SHOWN_SCORE = 0.0005  # of a runner-up: what rounds to 0.0 % tells nobody anything


@click.command(cls=SectionedCommand)
@click.argument("given", metavar="PHOTO...", nargs=-1, required=True)
@section(
    "Result",
    click.option("--top", type=click.IntRange(1, 100), default=5, help="Products to list for each photo, best first."),
    click.option(
        "--labeled", is_flag=True, help="Folders are named after the products on their photos: report the accuracy too."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
@section("Model and device", bundle_option, *device_options)
def command(
    *,
    given: tuple[str, ...],
    bundle: Path,
    top: int,
    labeled: bool,
    device: str,
    allow_cpu_fallback: bool,
    require_full_delegation: bool,
    precision: Precision | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Name the products on photos.

    PHOTO is a photo, a folder that is searched to any depth, a pattern such as 'shelf/*.jpg', or - for the bytes of one
    image on standard input. Photos that cannot be read are named, skipped and counted.
    """
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.device.delegate import open_classifier
    from edgebcnn.loop.photos import find_photos, predict

    policy = policy_of(allow_cpu_fallback=allow_cpu_fallback, require_full_delegation=require_full_delegation)
    photos = find_photos(given)
    stdin = _read_stdin() if None in photos else b""
    reporter = TerminalReporter()
    opened = open_from(bundle)
    profile = device_for(opened, device, precision=precision, threads=threads, reporter=reporter)
    classifier = open_classifier(opened, profile, precision=precision, threads=threads, policy=policy)
    if classifier.receipt.fallback:
        reporter.say(f"Running on the CPU: {classifier.receipt.fallback}")
    result = predict(classifier, photos, stdin=stdin, labeled=labeled, reporter=reporter)
    if as_json:
        about = {"bundle": str(opened.given), "digest": opened.digest, "receipt": classifier.receipt.as_json()}
        click.echo(json_bytes(about | result.as_json(top)).decode(), nl=False)
    else:
        _print(result, top)


def _read_stdin() -> bytes:
    from edgebcnn.errors import DataError
    from edgebcnn.preprocessing import MAX_PHOTO_BYTES

    stream = sys.stdin.buffer
    if stream.isatty():
        raise click.UsageError("- reads an image from standard input: pipe one, as in edgebcnn predict - < photo.jpg")
    content: bytes = stream.read(MAX_PHOTO_BYTES + 1)
    if len(content) > MAX_PHOTO_BYTES:
        raise DataError(f"standard input holds more than {MAX_PHOTO_BYTES // 2**20} MiB: pipe one image")
    return content


def _print(result: PhotoPredictions, top: int) -> None:
    from rich.table import Table
    from rich.text import Text

    from edgebcnn.cli.console import stdout

    table = Table()
    for column in ("photo", "product"):
        table.add_column(column, overflow="fold")  # an ellipsis would hide the end of a name, where flavors stand
    table.add_column("score", justify="right")
    if top > 1:
        table.add_column("runners-up", overflow="fold")
    for each in result.photos:
        best, *others = each.prediction.top(top)
        row = [str(each.photo), _marked(each), f"{100 * best.score:.1f} %"]
        shown = [f"{other.label} {100 * other.score:.1f} %" for other in others if other.score >= MIN_SHOWN_SCORE]
        row += [", ".join(shown)] if top > 1 else []
        table.add_row(*map(Text, row))
    stdout.print(table)
    if result.accuracy is not None:
        stdout.print(f"accuracy: {result.accuracy}")
    if result.unreadable:
        stdout.print(f"{len(result.unreadable)} of {len(result.photos) + len(result.unreadable)} photos cannot be read")


def _marked(each: PhotoPrediction) -> str:
    label = each.prediction.label
    return label if each.truth in (None, label) else f"{label} (is {each.truth})"
