"""`edgebcnn train`: photos in, a run folder out."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgebcnn.cli.flags.sections import SectionedCommand, section
from edgebcnn.model import heads
from edgebcnn.model.backbones import BACKBONES

if TYPE_CHECKING:
    from pydantic import BaseModel

    from edgebcnn.train.config import TrainConfig
    from edgebcnn.train.steps import TrainResult

POOLINGS = heads.compact_names()
_INTERPOLATIONS = ("halving", "area", "linear")
_WHERE = {"name", "runs", "resume", "as_json"}
_MAX_NAME_BYTES = 255  # of a folder's name, on every file system of Linux

_OPTIMIZER = click.Choice(["adamw", "adam", "sgd"])

Choices = TypeVar("Choices", bound="BaseModel")


def folder_name(_context: click.Context, _parameter: click.Parameter, name: str | None) -> str | None:
    """Checks the name of a run."""
    if name is None or (name and name[0] != "." and "/" not in name and len(os.fsencode(name)) <= _MAX_NAME_BYTES):
        return name
    raise click.BadParameter(f"{name!r} cannot name a folder: leave out '/' and a leading '.'; --runs says where")


@click.command(cls=SectionedCommand)
@section(
    "Photos and run",
    click.option("--data", type=click.Path(path_type=Path), default="data", help="Folder of the photos."),
    click.option("--name", callback=folder_name, help="Name of the run; the time if left out."),
    click.option("--runs", type=click.Path(path_type=Path), default="runs", help="Folder that holds the runs."),
    click.option("--resume", is_flag=True, help="Go on with a run that was stopped (--name, or the latest)."),
    click.option(
        "--fit-on",
        type=click.Choice(["train", "train+val"]),
        default="train",
        help="train+val is for a last fit, all choices made: all epochs run, and test alone judges.",
    ),
    click.option("--allow-unreadable", is_flag=True, help="Go on even if more than 1 % of the photos cannot be read."),
    click.option("--seed", default=0, help="Of everything random."),
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
@section(
    "Model",
    click.option(
        "--streams",
        default="mobilenet_v2",
        metavar="A,B",
        help=f"The two convolutional streams, or one for both: {', '.join(BACKBONES)}, mobilenet_v2_ALPHA (a width), "
        "or a Keras model of yours, FILE.keras:LAYER. NAME:LAYER ends one of ours at another layer.",
    ),
    click.option(
        "--shared-weights/--separate-weights",
        default=None,
        show_default="shared where equal",
        help="Whether equal streams are one network.",
    ),
    click.option(
        "--weights", default="imagenet", metavar="A,B", help="Where each stream starts: imagenet, none, or a file."
    ),
    click.option("--train-px", default=320, help="Side of the pictures that training sees."),
    click.option("--input-px", default=384, help="Side of the pictures that the models are used at."),
    click.option(
        "--interpolation",
        type=click.Choice(_INTERPOLATIONS),
        default="halving",
        help="How photos are made smaller: halving is nearly area for an eighth of its time, linear makes moiré.",
    ),
    click.option("--pooling", type=click.Choice(POOLINGS), default="quadratic", help="How the compact model pools."),
    click.option("--rank", type=int, help="Size of the compact pooling; its own if left out."),
    click.option(
        "--tail", type=click.Choice(["tanh", "sqrt", "l2"]), help="What follows the compact pooling, if it takes one."
    ),
    click.option("--class-rank", default=8, help="Rank of each product's form in lrbc pooling, an even number."),
)
@section(
    "Stages",
    click.option(
        "--frozen-through",
        default="auto",
        metavar="A,B",
        help="Last layer that is never trained: auto, none, or its name.",
    ),
    click.option("--copies", default=8, help="Augmented copies of every photo, drawn once."),
    click.option("--head-epochs", default=0, help="Epochs of each model's classifier on frozen features."),
    click.option("--epochs", default=8, help="Epochs of fine-tuning of the full model."),
    click.option(
        "--compact-epochs",
        type=int,
        show_default="as many",
        help="Epochs of fine-tuning of the compact model, which starts from the full one.",
    ),
    click.option("--head-rate", default=1e-3, help="Peak learning rate of a head on frozen features."),
    click.option("--full-head-rate", default=1e-4, help="That of the full model's head in fine-tuning."),
    click.option("--compact-head-rate", default=1e-3, help="That of the compact model's head in fine-tuning."),
    click.option("--backbone-rate", default=5e-4, help="Peak learning rate of the backbone."),
    click.option(
        "--patience", default=3, help="Epochs without a better validation loss that halve the rates; twice end."
    ),
    click.option("--distil-share", default=0.5, help="Share of the compact model's loss that the full model teaches."),
    click.option("--temperature", default=2.0, help="Softens both models' probabilities in that share."),
    click.option(
        "--pooled-weight",
        type=float,
        help="Weight of a second lesson in --head-epochs: which photos are alike by the full model's pooled features.",
    ),
)
@section(
    "Optimization",
    click.option("--head-optimizer", type=_OPTIMIZER, default="adamw", help="Of heads on frozen features."),
    click.option("--optimizer", type=_OPTIMIZER, default="adamw", help="Of fine-tuning."),
    click.option("--momentum", default=0.9, help="Nesterov's, of sgd."),
    click.option(
        "--schedule",
        type=click.Choice(["cosine", "plateau"]),
        default="cosine",
        help="Whether rates fall to zero by a stage's end, or stay until validation stalls.",
    ),
    click.option("--warmup", default=0.08, help="Share of a stage in which the rates rise to their peak."),
    click.option(
        "--batch-statistics/--stored-statistics",
        default=False,
        help="Whether fine-tuning normalises by each batch, or as the pretrained backbone came.",
    ),
    click.option(
        "--averaging",
        default=0.0,
        help="Decay of the moving average of the weights that is kept; 1 for their mean (SWA), 0 for none.",
    ),
    click.option("--averaging-from", default=0.0, help="Share of a stage after which --averaging begins."),
    click.option("--batch-size", default=32, help="Photos in a step."),
    click.option("--weight-decay", default=0.02, help="Decoupled weight decay, of adamw."),
    click.option("--clip-norm", default=5.0, help="Largest global norm of a gradient."),
    click.option("--mixed-precision", is_flag=True, help="Let the streams compute in bfloat16, for a GPU."),
    click.option("--xla", is_flag=True, help="Compile training steps by XLA, for a GPU."),
)
@section(
    "Regularization",
    click.option("--label-smoothing", default=0.1, help="Share of a label's probability spread over all products."),
    click.option("--balance", default=0.0, help="0 counts every photo alike, 1 every product."),
    click.option("--mixup", default=0.0, help="Beta parameter by which two photos are blended; 0 for none."),
    click.option("--cutmix", default=0.0, help="Beta parameter by which one takes a box of another; 0 for none."),
    click.option("--dropout", default=0.2, help="Share of the descriptor dropped while training."),
)
@section(
    "Augmentation (the largest value drawn; 0 for none)",
    click.option("--min-area", default=0.35, help="Smallest share of a photo that a random crop keeps."),
    click.option("--max-aspect", default=1.25, help="Change of the crop's width-to-height ratio, as a factor."),
    click.option("--rotation-deg", default=10.0, help="Rotation."),
    click.option("--shear-deg", default=0.0, help="Slant of vertical lines."),
    click.option("--perspective", default=0.05, help="Shift of a corner, as a share of the side."),
    click.option("--brightness", default=0.3, help="Relative change of brightness, and of contrast."),
    click.option("--saturation", default=0.3, help="Relative change of saturation."),
    click.option("--cast", default=0.05, help="Relative change of one colour channel."),
    click.option("--blur-px", default=1.2, help="Standard deviation of a blur, of a quarter of the copies."),
    click.option("--jpeg-quality", default=40, help="Lowest JPEG quality, of a quarter of the copies; 100 for none."),
    click.option("--flip", is_flag=True, help="Mirror half of the copies; not where text tells products apart."),
)
@click.pass_context
def command(context: click.Context, /, **flags: Any) -> None:
    """Train the full B-CNN on labelled photos, then its compact replacement.

    DATA holds one folder a product, or train/, val/ and test/ with one folder a product in each, or list files
    (train.txt, val.txt, test.txt, classes.csv). The run folder keeps weights, curves and metrics; Ctrl-C ends with what
    was reached.
    """
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals

    if flags["resume"]:
        _refuse_other_flags(context)
    config = _config(flags)
    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.train.claim import LATEST, new_name
        from edgebcnn.train.steps import resume, train

    with stopped_by_signals() as stop:
        if flags["resume"]:
            result = resume(flags["runs"] / (flags["name"] or LATEST), reporter=reporter, stop=stop)
        else:
            run = flags["runs"] / (flags["name"] or new_name())
            result = train(config, run, reporter=reporter, stop=stop)
    _print(result, as_json=flags["as_json"])


def _config(flags: dict[str, Any]) -> TrainConfig:
    from edgebcnn.train.augment import Augmentation
    from edgebcnn.train.config import STAGE_OPTIONS, StageConfig, TrainConfig

    values = {**flags, "data": str(flags["data"])}
    if values["compact_epochs"] is None:
        values["compact_epochs"] = values["epochs"]
    values["augmentation"] = _checked(Augmentation, values, {name: name for name in Augmentation.model_fields})
    for stage, flag_of in STAGE_OPTIONS.items():
        values[stage] = _checked(StageConfig, values, flag_of)
    return _checked(TrainConfig, values, {field: field for field in TrainConfig.model_fields})


def _checked(model: type[Choices], values: dict[str, Any], flag_of: dict[str, str]) -> Choices:
    from pydantic import ValidationError

    try:
        return model(**{field: values[flag] for field, flag in flag_of.items()})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # what two flags say together; the sentence names both
            raise click.UsageError(str(first["ctx"]["error"])) from error
        flag = "--" + flag_of[str(first["loc"][0])].replace("_", "-")
        raise click.UsageError(
            f"{flag} {first['input']}: {first['msg'].lower().removeprefix('value error, ')}"
        ) from error


def _refuse_other_flags(context: click.Context) -> None:
    given = click.core.ParameterSource.COMMANDLINE
    for name in context.params:
        if name not in _WHERE and context.get_parameter_source(name) is given:
            flag = "--" + name.replace("_", "-")
            raise click.UsageError(
                f"--resume goes on with the choices of the run: leave out {flag}, or train another run"
            )


def _print(result: TrainResult, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.cli.console import stdout
    from edgebcnn.report.render import comparison_json, comparison_table

    run = result.run.path
    if as_json:
        click.echo(json_bytes({"run": str(run), **comparison_json(result.comparison)}).decode(), nl=False)
        return
    stdout.print(comparison_table(result.comparison))
    stdout.print(f"run:    {run}\ncurves: {run / 'curves.png'}\nnext:   {_next_command(run)}")


def _next_command(run: Path) -> str:
    is_default = Path("runs/latest").resolve() == run.resolve()
    return "edgebcnn export --int8" if is_default else f"edgebcnn export {quote(str(run))} --int8"
