"""`edgebcnn demo` runs the whole workflow on a generated shelf."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgebcnn.demo.story import DemoResult

_NEXT = """\
Now with your own photos, one folder per product in data/:
  edgebcnn train                     (ImageNet weights; give --weights FILE if they cannot be downloaded)
  edgebcnn export --int8
  edgebcnn run --camera 0"""


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default="demo", help="Folder for all results.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, help="Random seed.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(*, output: Path, seed: int, as_json: bool) -> None:
    """Run the whole workflow on a generated shelf, offline, in minutes.

    Draws photos and a video of 24 products that differ in a flavour, a stripe or a fat percentage; trains a full B-CNN
    and a compact one; exports int8; and runs the camera loop on the video.
    """
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals

    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.demo.story import tell
    with stopped_by_signals() as stop:
        result = tell(output, seed=seed, reporter=reporter, stop=stop)
    _print(result, as_json=as_json)


def _print(result: DemoResult, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout
    from edgebcnn.report.render import comparison_table

    if as_json:
        click.echo(json_bytes(result.as_json()).decode(), nl=False)
        return
    model = result.exported.models["int8"]
    stdout.print(comparison_table(model.comparison))
    stdout.print(f"export    {model.verdict}")
    stdout.print(f"video     {result.on_video.source}")
    stdout.print(str(result.on_video))
    stdout.print(
        f"took      {result.elapsed_s / 60:.1f} minutes, {result.peak_memory_bytes / 1e9:.1f} GB of memory at most"
    )
    stdout.print(f"\n{_NEXT}")
