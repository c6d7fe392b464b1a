"""`edgebcnn compress`: another compact model, or several, from a full model that is trained already."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from edgebcnn.cli.train import POOLINGS, folder_name

if TYPE_CHECKING:
    from edgebcnn.report.ranks import CompressResult
    from edgebcnn.train.compress import CompressChoices


def _ranks(_context: click.Context, _parameter: click.Parameter, text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        ranks = [int(part) for part in text.split(",")]
    except ValueError:
        ranks = [0]
    if min(ranks) < 1:
        raise click.BadParameter(f"{text!r} is not a rank, or several as in 64,128,256")
    return ranks


@click.command()
@click.argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"))
@click.option(
    "--rank", callback=_ranks, metavar="D[,D...]", help="Size of the pooling, or several; its own if left out."
)
@click.option("--pooling", type=click.Choice(POOLINGS), default="hadamard", help="What replaces the outer product.")
@click.option(
    "--tail", type=click.Choice(["l2", "tanh", "sqrt"]), help="What follows it; l2 if left out and it takes one."
)
@click.option("--class-rank", default=8, help="Rank of each product's form in lrbc pooling, an even number.")
@click.option("--name", callback=folder_name, help="Name of the new run beside RUN; RUN-POOLING-RANK if left out.")
@click.option(
    "--unlabelled",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Photos without labels to learn from as well: what the full model says of them.",
)
@click.option("--epochs", default=8, help="Epochs of distillation of the head; 0 leaves the factorization as it is.")
@click.option("--finetune-epochs", default=0, help="Epochs of distillation of head and backbone after that.")
@click.option("--head-rate", default=3e-4, help="Peak learning rate of the head.")
@click.option("--backbone-rate", default=1e-4, help="Peak learning rate of the backbone in fine-tuning.")
@click.option("--patience", default=3, help="Epochs without coming closer that halve the rates; twice as many end.")
@click.option("--distil-share", default=1.0, help="Share of the loss that the full model teaches, not the labels.")
@click.option("--temperature", default=4.0, help="Softens both models' probabilities in that share.")
@click.option(
    "--pooled-weight",
    type=float,
    help="Weight of a second lesson for the head: which photos are alike by the full model's pooled features.",
)
@click.option("--dropout", default=0.0, help="Share of the descriptor dropped while training.")
@click.option("--copies", default=4, help="Augmented copies of every photo, drawn once.")
@click.option("--batch-size", default=32, help="Photos in a step.")
@click.option("--seed", default=0, help="Of everything random.")
@click.option("--allow-unreadable", is_flag=True, help="Go on even if more than 1 % of the photos cannot be read.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def command(
    *, run: Path, rank: list[int] | None, name: str | None, unlabelled: Path | None, as_json: bool, **flags: Any
) -> None:
    """Replace the outer product of a trained full model by a low-rank form.

    RUN is a run that train made, by default the newest. Its classifier is factorized, which needs no photo; then the
    compact head learns what the full model says. The new run stands beside RUN; of several ranks, in one folder, with a
    table and a plot. What was stopped goes on when the same is typed again.
    """
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals

    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.train.compress import compress

    with stopped_by_signals() as stop:
        result = compress(
            run,
            run.resolve().parent / name if name else None,
            ranks=rank,
            choices=_choices(flags),
            unlabelled=unlabelled,
            reporter=reporter,
            stop=stop,
        )
    _print(result, as_json=as_json)


def _choices(flags: dict[str, Any]) -> CompressChoices:
    from pydantic import ValidationError

    from edgebcnn.train.compress import CompressChoices

    try:
        return CompressChoices(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        said = first["msg"].lower().removeprefix("value error, ")
        raise click.UsageError(f"{flag} {first['input']}: {said}") from error


def _print(result: CompressResult, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout
    from edgebcnn.report.ranks import ranks_table

    if as_json:
        click.echo(json_bytes(result.as_json()).decode(), nl=False)
        return
    stdout.print(ranks_table(result))
    if len(result.ranks) > 1:
        stdout.print(f"runs:   {result.path}\nplot:   {result.path / 'ranks.png'}")
    else:
        stdout.print(f"run:    {result.path}\nnext:   edgebcnn export {quote(str(result.path))} --int8")
