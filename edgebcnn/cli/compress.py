"""`edgebcnn compress` makes compact models, of one rank or several, from a trained full model."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from edgebcnn.cli.flags.config import ConfiguredCommand, config_option
from edgebcnn.cli.flags.sections import argument, section, setting
from edgebcnn.cli.flags.types import Ranks
from edgebcnn.cli.train import POOLINGS, checked, folder_name

if TYPE_CHECKING:
    from edgebcnn.report.ranks import CompressResult
    from edgebcnn.train.compress import CompressChoices


# Where a field comes from a parameter of another name.
_NAMES = {"pooling": "to", "epochs": "distil_epochs"}


@click.command(cls=ConfiguredCommand, only_flags=("name", "as_json"))
@section(
    "Run",
    argument("run", type=click.Path(path_type=Path), default=Path("runs/latest"), help="The run with the full model."),
    click.option("--name", callback=folder_name, help="Name of the new run next to RUN; RUN-POOLING-RANK if omitted."),
    click.option("--seed", default=0, help="Random seed."),
    config_option,
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
@section(
    "Compact model",
    click.option(
        "--to", type=click.Choice(POOLINGS), default="hadamard", help="Pooling that replaces the outer product."
    ),
    click.option(
        "--rank", type=Ranks(), show_default="the pooling's own", help="Rank of the pooling; several make one run each."
    ),
    setting(
        "--tail",
        type=click.Choice(["l2", "tanh", "sqrt"]),
        show_default="l2 where the pooling takes it",
        help="Normalization after the pooling.",
    ),
    setting("--class-rank", default=8, help="Rank of each product's quadratic form in lrbc pooling, an even number."),
)
@section(
    "Photos",
    click.option(
        "--unlabelled",
        type=click.Path(path_type=Path),
        metavar="DIR",
        help="Photos without labels to distill on as well, from the full model's predictions.",
    ),
    click.option(
        "--allow-unreadable", is_flag=True, help="Continue even if more than 1 % of the photos are unreadable."
    ),
    setting("--copies", default=4, help="Augmented copies of each photo, drawn once."),
)
@section(
    "Distillation",
    click.option(
        "--distil-epochs", default=8, help="Distillation epochs of the head; 0 keeps the factorization unchanged."
    ),
    click.option("--finetune-epochs", default=0, help="Distillation epochs of head and backbone after that."),
    click.option("--batch-size", default=32, help="Photos per training step."),
    setting("--head-rate", default=3e-4, help="Peak learning rate of the head."),
    setting("--backbone-rate", default=1e-4, help="Peak learning rate of the backbone in fine-tuning."),
    setting(
        "--patience",
        default=3,
        help="Epochs without progress on val that halve the learning rates; twice as many end the stage.",
    ),
    setting(
        "--distil-share", default=1.0, help="Share of the loss that is the distillation loss; labels are the rest."
    ),
    setting("--temperature", default=4.0, help="Temperature that softens both models' probabilities in that loss."),
    setting(
        "--pooled-weight",
        type=float,
        help="Weight of the feature-similarity distillation loss of the head; it compares photos by the full model's "
        "pooled features.",
    ),
    setting("--dropout", default=0.0, help="Dropout rate of the descriptor."),
)
@click.pass_context
def command(context: click.Context, /, **flags: Any) -> None:
    """Replace the outer product of a trained full model by a low-rank form.

    RUN is a run that train made, by default the newest. Its classifier is factorized, which needs no photos; then the
    compact head is distilled from the full model. The new run stands next to RUN; several ranks share one folder, with
    a table and a plot. To resume after an interruption, repeat the same command.
    """
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals

    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.train.compress import compress

    choices = _choices(context)
    run, name = flags["run"], flags["name"]
    with stopped_by_signals() as stop:
        result = compress(
            run,
            run.resolve().parent / name if name else None,
            ranks=flags["rank"],
            choices=choices,
            unlabelled=flags["unlabelled"],
            reporter=reporter,
            stop=stop,
        )
    _print(result, as_json=flags["as_json"])


def _choices(context: click.Context) -> CompressChoices:
    from edgebcnn.train.compress import CompressChoices

    name_of = {field: _NAMES.get(field, field) for field in CompressChoices.model_fields}
    return checked(CompressChoices, context.params, name_of, context)


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
