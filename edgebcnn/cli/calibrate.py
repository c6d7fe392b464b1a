"""`edgebcnn calibrate` shows the photos and ranges of an int8 calibration, without an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from edgebcnn.report.calibration import CalibrationReport


@click.command()
@click.argument("run_path", metavar="[RUN]", type=click.Path(path_type=Path), default=Path("runs/latest"))
@click.option(
    "--recipe",
    default="balanced",
    metavar="NAME|FILE",
    help="Calibration recipe for int8: balanced, quick, or your own TOML file.",
)
@click.option(
    "--calibration-photos",
    type=click.Path(path_type=Path),
    metavar="DIR",
    show_default="training photos of the run",
    help="Photos to calibrate int8 on, such as frames captured on the device; labels are not needed.",
)
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Plot the ranges as a PNG."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(*, run_path: Path, recipe: str, calibration_photos: Path | None, plot: Path | None, as_json: bool) -> None:
    """Show which photos would calibrate an int8 model, and its ranges.

    RUN is a folder that train made, by default the newest. For each tensor: the observed values, the range that the
    recipe derives from them, what it clips and what it loses. A second model, calibrated on other photos, shows whether
    the choice of photos matters. Nothing is exported.
    """
    from edgebcnn.cli.console import TerminalReporter

    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.quantize.calibrate_run import preview
        from edgebcnn.quantize.calibration.recipe import load_recipe
        from edgebcnn.train.run_folder import open_run

    report = preview(open_run(run_path), load_recipe(recipe), captured=calibration_photos, plot=plot, reporter=reporter)
    _print(report, plot, as_json=as_json)


def _print(report: CalibrationReport, plot: Path | None, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout
    from edgebcnn.report.calibration import calibration_tables

    if as_json:
        click.echo(json_bytes(report.as_json()).decode(), nl=False)
        return
    for table in calibration_tables(report):
        stdout.print(table)
    stdout.print(
        str(report.stability or "too few training photos remain to compare with a calibration on other photos")
    )
    if plot is not None:
        stdout.print(f"plot:   {plot}")
