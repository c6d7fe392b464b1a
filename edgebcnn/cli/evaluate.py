"""`edgebcnn evaluate` measures the accuracy of a model on labeled photos."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebcnn.cli.flags.device import PRECISIONS
from edgebcnn.cli.flags.sections import SectionedCommand, section

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision
    from edgebcnn.evaluation.evaluate import EvaluationResult
    from edgebcnn.evaluation.labelled import Split
    from edgebcnn.evaluation.models import Role

_ROLES = click.Choice(["compact", "full"])


@click.command(cls=SectionedCommand)
@click.argument("model_path", metavar="[MODEL]", type=click.Path(path_type=Path), default=Path("runs/latest"))
@section(
    "Photos",
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        show_default="the photos of the run",
        help="Folder of labeled photos, in any layout that train reads, or of a single split.",
    ),
    click.option(
        "--split",
        type=click.Choice(["train", "val", "test"]),
        show_default="test, or val where there is none",
        help="Split to evaluate on.",
    ),
    click.option(
        "--allow-unreadable", is_flag=True, help="Continue even if more than 1 % of the photos are unreadable."
    ),
)
@section(
    "Models",
    click.option("--role", type=_ROLES, show_default="compact", help="Model of a run."),
    click.option("--precision", type=PRECISIONS, show_default="the first it has", help="Model of the bundle."),
    click.option(
        "--against", type=click.Path(path_type=Path), help="Another run or bundle to compare with, on the same photos."
    ),
    click.option("--against-role", type=_ROLES, show_default="compact", help="Model of that run."),
    click.option("--against-precision", type=PRECISIONS, show_default="the first it has", help="Model of that bundle."),
)
@section(
    "Result",
    click.option(
        "--output",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Write report.json, the misclassified photos as wrong.csv, and the worst of them as wrong.png.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
def command(
    *,
    model_path: Path,
    data: Path | None,
    split: Split | None,
    role: Role | None,
    precision: Precision | None,
    against: Path | None,
    against_role: Role | None,
    against_precision: Precision | None,
    output: Path | None,
    allow_unreadable: bool,
    as_json: bool,
) -> None:
    """Evaluate a full, compact or edge model on labeled photos.

    MODEL is a run that train made, by default the newest, or a bundle, packed or not. Products are matched by name.
    With --against, both models run on the same photos and are compared by McNemar's exact test.
    """
    from edgebcnn.cli.console import TerminalReporter

    if against is None and (against_role or against_precision):
        raise click.UsageError("--against-role and --against-precision select a model of --against: give that as well")
    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.evaluation.evaluate import evaluate
        from edgebcnn.evaluation.models import open_model

    result = evaluate(
        open_model(model_path, role=role, precision=precision),
        data=data,
        split=split,
        against=None if against is None else open_model(against, role=against_role, precision=against_precision),
        output=output,
        allow_unreadable=allow_unreadable,
        reporter=reporter,
    )
    _print(result, output, as_json=as_json)


def _print(result: EvaluationResult, output: Path | None, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout
    from edgebcnn.report.render import comparison_table, evaluation_tables

    if as_json:
        click.echo(json_bytes(result.as_json()).decode(), nl=False)
        return
    title = f"{result.model} on {result.source}"
    for table in evaluation_tables(result.figures, title=title, macro=result.macro, weighted=result.weighted):
        stdout.print(table)
    if result.comparison is not None:
        stdout.print(comparison_table(result.comparison, photos=result.source))
    wrong = len(result.figures.wrong)
    if output is not None:
        stdout.print(f"report: {output / 'report.json'}\nwrong:  {wrong} photos in {output / 'wrong.csv'}")
        stdout.print(f"worst:  {output / 'wrong.png'}" if wrong else "no photo is wrong")
    elif wrong:
        stdout.print(f"wrong:  {wrong} photos; add --output DIR for their list and a contact sheet")
