"""`edgebcnn audit` compares the edge model with the full model on frames from the field."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.monitor.scene import FRAME_SCENE_S, SLOT_SCENE_S

if TYPE_CHECKING:
    from edgebcnn.evaluation.field_audit import FieldAudit


@click.command()
@click.argument("sample", type=click.Path(path_type=Path))
@click.option(
    "--full",
    "full_path",
    type=click.Path(path_type=Path),
    default=Path("runs/latest"),
    help="Run that has the full model.",
)
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    show_default="the one in the run",
    help="Bundle that the device ran.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="SAMPLE-audit",
    help="Folder for index.html, report.json and the predictions, from which an interrupted audit resumes.",
)
@click.option(
    "--scene",
    "scene_s",
    type=click.FloatRange(min=0),
    show_default=f"{FRAME_SCENE_S:g}, of a slot {SLOT_SCENE_S:g}",
    help="Seconds within which frames of a camera, video or slot count as one scene; 0 counts each frame.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    *,
    sample: Path,
    full_path: Path,
    bundle_path: Path | None,
    output: Path | None,
    scene_s: float | None,
    as_json: bool,
) -> None:
    """Compare the edge model with the full model on frames that a device kept.

    SAMPLE is a folder that run --sample wrote. The report estimates how often edge and full model agree on all frames,
    overall and by product, compares that with the export, and lists what has drifted. An interrupted audit resumes.
    """
    from edgebcnn.cli.console import TerminalReporter

    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.evaluation.field_audit import audit

    place = output or sample.absolute().with_name(f"{sample.absolute().name}-audit")
    result = audit(sample, full_path, bundle_path=bundle_path, output=place, scene_s=scene_s, reporter=reporter)
    _print(result, place, as_json=as_json)


def _print(result: FieldAudit, output: Path, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout
    from edgebcnn.field.render import tables

    if as_json:
        click.echo(json_bytes(result.as_json()).decode(), nl=False)
        return
    for table in tables(result.findings, reference=result.reference):
        stdout.print(table)
    if result.sample.faces.searched:
        stdout.print(str(result.sample.faces))
    stdout.print(f"report: {output / 'index.html'}")
