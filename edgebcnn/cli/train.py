"""`edgebcnn train` turns photos into a run folder with a full and a compact model."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edgebcnn.cli.flags.config import ConfiguredCommand, config_option, refused_value
from edgebcnn.cli.flags.sections import section, setting
from edgebcnn.cli.flags.toml_text import resolved
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


@click.command(cls=ConfiguredCommand, only_flags=("name", "resume", "as_json"))
@section(
    "Data",
    click.option("--data", type=click.Path(path_type=Path), default="data", help="Folder of the photos."),
    click.option(
        "--fit-on",
        type=click.Choice(["train", "train+val"]),
        default="train",
        help="Photos to train on. Use train+val for a final fit with every choice made: all epochs run, and only the "
        "test photos evaluate it.",
    ),
    click.option(
        "--allow-unreadable", is_flag=True, help="Continue even if more than 1 % of the photos are unreadable."
    ),
)
@section(
    "Run",
    click.option("--name", callback=folder_name, help="Name of the run; the current time if omitted."),
    click.option("--runs", type=click.Path(path_type=Path), default="runs", help="Folder that holds the runs."),
    click.option("--resume", is_flag=True, help="Resume an interrupted run: the one that --name gives, or the latest."),
    click.option("--seed", default=0, help="Random seed."),
    config_option,
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
@section(
    "Model",
    click.option(
        "--streams",
        default="mobilenet_v2",
        metavar="A,B",
        help=f"The two convolutional streams, or one for both: {', '.join(BACKBONES)}, mobilenet_v2_ALPHA (a width), "
        "or your own Keras model, FILE.keras:LAYER. NAME:LAYER cuts a built-in one at another layer.",
    ),
    click.option(
        "--shared-weights/--separate-weights",
        default=None,
        show_default="shared if the streams are equal",
        help="Whether equal streams share one network.",
    ),
    click.option(
        "--weights",
        default="imagenet",
        metavar="A,B",
        help="Initial weights of each stream: imagenet, none, or a file.",
    ),
    click.option("--train-px", default=320, help="Side of the training images, in pixels."),
    click.option("--input-px", default=384, help="Side of the model's input images, in pixels."),
    click.option("--pooling", type=click.Choice(POOLINGS), default="quadratic", help="Pooling of the compact model."),
    click.option("--rank", type=int, show_default="the pooling's own", help="Rank of the compact pooling."),
    setting(
        "--tail",
        type=click.Choice(["tanh", "sqrt", "l2"]),
        show_default="the pooling's own",
        help="Normalization after the compact pooling, where it takes one.",
    ),
    setting("--class-rank", default=8, help="Rank of each product's quadratic form in lrbc pooling, an even number."),
    setting(
        "--interpolation",
        type=click.Choice(_INTERPOLATIONS),
        default="halving",
        help="How photos are downscaled: halving is close to area at an eighth of its time; linear causes moire.",
    ),
)
@section(
    "Training",
    click.option("--epochs", default=8, help="Fine-tuning epochs of the full model."),
    click.option(
        "--compact-epochs",
        type=int,
        show_default="as many",
        help="Fine-tuning epochs of the compact model, which starts from the full one.",
    ),
    click.option("--head-epochs", default=0, help="Epochs of each model's classifier on frozen features."),
    click.option("--batch-size", default=32, help="Photos per training step."),
    click.option("--copies", default=8, help="Augmented copies of each photo, drawn once."),
    click.option(
        "--frozen-through",
        default="auto",
        metavar="A,B",
        help="Last layer that stays frozen: auto, none, or its name.",
    ),
    click.option("--mixed-precision", is_flag=True, help="Compute the streams in bfloat16, for a GPU."),
    click.option("--xla", is_flag=True, help="Compile training steps with XLA, for a GPU."),
    setting("--head-rate", default=1e-3, help="Peak learning rate of a head on frozen features."),
    setting("--full-head-rate", default=1e-4, help="Peak learning rate of the full model's head in fine-tuning."),
    setting("--compact-head-rate", default=1e-3, help="Peak learning rate of the compact model's head in fine-tuning."),
    setting("--backbone-rate", default=5e-4, help="Peak learning rate of the backbone in fine-tuning."),
    setting(
        "--patience",
        default=3,
        help="Epochs without a better validation loss that halve the learning rates; twice as many end the stage.",
    ),
)
@section(
    "Distillation",
    setting("--distil-share", default=0.5, help="Share of the compact model's loss that is the distillation loss."),
    setting("--temperature", default=2.0, help="Temperature that softens both models' probabilities in that loss."),
    setting(
        "--pooled-weight",
        type=float,
        help="Weight of the feature-similarity distillation loss in the head epochs; it compares photos by the full "
        "model's pooled features.",
    ),
)
@section(
    "Optimization",
    setting("--optimizer", type=_OPTIMIZER, default="adamw", help="Optimizer of fine-tuning."),
    setting("--head-optimizer", type=_OPTIMIZER, default="adamw", help="Optimizer of heads on frozen features."),
    setting("--momentum", default=0.9, help="Nesterov momentum (SGD only)."),
    setting("--weight-decay", default=0.02, help="Decoupled weight decay (AdamW only)."),
    setting(
        "--schedule",
        type=click.Choice(["cosine", "plateau"]),
        default="cosine",
        help="Learning rate schedule: decay to zero by the end of a stage, or stay constant until validation stalls.",
    ),
    setting("--warmup", default=0.08, help="Share of a stage in which the learning rates rise to their peak."),
    setting("--clip-norm", default=5.0, help="Maximum global norm of a gradient."),
    setting(
        "--batch-statistics",
        is_flag=True,
        help="Normalize by the statistics of each batch in fine-tuning, not by those of the pretrained backbone.",
    ),
    setting(
        "--averaging",
        default=0.0,
        help="Decay of the moving average of the weights, which becomes the model; 1 keeps their mean (SWA), 0 is off.",
    ),
    setting("--averaging-from", default=0.0, help="Share of a stage after which weight averaging begins."),
)
@section(
    "Regularization",
    setting("--label-smoothing", default=0.1, help="Share of a label's probability that is spread over all products."),
    setting("--balance", default=0.0, help="Weight of rare products: 0 counts every photo alike, 1 every product."),
    setting("--mixup", default=0.0, help="Beta parameter of mixup, which blends two photos; 0 is off."),
    setting(
        "--cutmix",
        default=0.0,
        help="Beta parameter of CutMix, which pastes a box of one photo into another; 0 is off.",
    ),
    setting("--dropout", default=0.2, help="Dropout rate of the descriptor."),
)
@section(
    "Augmentation",
    setting("--flip", is_flag=True, help="Mirror half of the copies; not where text tells products apart."),
    setting("--min-area", default=0.35, help="Smallest share of a photo that a random crop keeps."),
    setting("--max-aspect", default=1.25, help="Largest change of the crop's width-to-height ratio, as a factor."),
    setting("--rotation-deg", default=10.0, help="Largest rotation, in degrees."),
    setting("--shear-deg", default=0.0, help="Largest slant of vertical lines, in degrees."),
    setting("--perspective", default=0.05, help="Largest shift of a corner, as a share of the side."),
    setting("--brightness", default=0.3, help="Largest relative change of brightness, and of contrast."),
    setting("--saturation", default=0.3, help="Largest relative change of saturation."),
    setting("--color-cast", default=0.05, help="Largest relative change of one color channel."),
    setting("--blur-px", default=1.2, help="Largest standard deviation of a blur, on a quarter of the copies."),
    setting("--jpeg-quality", default=40, help="Lowest JPEG quality, on a quarter of the copies; 100 is off."),
)
@click.pass_context
def command(context: click.Context, /, **flags: Any) -> None:
    """Train the full B-CNN on labeled photos, then its compact replacement.

    DATA holds one folder per product, or train/, val/ and test/ with one folder per product in each, or list files
    (train.txt, val.txt, test.txt, classes.csv). The run folder keeps weights, curves, metrics and the configuration
    (config.toml). Ctrl-C interrupts the run; --resume continues it.
    """
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.cli.process import stopped_by_signals

    if flags["resume"]:
        _refuse_other_flags(context)
    config = _config(context)
    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.train.claim import LATEST, new_name
        from edgebcnn.train.steps import resume, train

    with stopped_by_signals() as stop:
        if flags["resume"]:
            result = resume(flags["runs"] / (flags["name"] or LATEST), reporter=reporter, stop=stop)
        else:
            run = flags["runs"] / (flags["name"] or new_name())
            exact = {"streams": config.streams, "weights": config.weights}
            result = train(config, run, settings=resolved(context, exact), reporter=reporter, stop=stop)
    _print(result, as_json=flags["as_json"])


def _config(context: click.Context) -> TrainConfig:
    from edgebcnn.train.augment import Augmentation
    from edgebcnn.train.config import AUGMENTATION_OPTIONS, STAGE_OPTIONS, StageConfig, TrainConfig

    values = {**context.params, "data": str(context.params["data"])}
    if values["compact_epochs"] is None:
        values["compact_epochs"] = values["epochs"]
    names = {name: AUGMENTATION_OPTIONS.get(name, name) for name in Augmentation.model_fields}
    values["augmentation"] = checked(Augmentation, values, names, context)
    for stage, name_of in STAGE_OPTIONS.items():
        values[stage] = checked(StageConfig, values, name_of, context)
    return checked(TrainConfig, values, {field: field for field in TrainConfig.model_fields}, context)


def checked(model: type[Choices], values: dict[str, Any], name_of: dict[str, str], context: click.Context) -> Choices:
    """Makes a model from parameters; what it refuses is told by the flag, or by the place in a configuration file.

    Args:
        model: A strict model.
        values: By parameter name.
        name_of: The parameter of each field.
        context: Of the call.
    """
    from pydantic import ValidationError

    try:
        return model(**{field: values[name] for field, name in name_of.items()})
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:  # what two values say together; the sentence names both
            raise click.UsageError(str(first["ctx"]["error"])) from error
        reason = first["msg"].lower().removeprefix("value error, ")
        raise refused_value(context, name_of[str(first["loc"][0])], reason) from error


def _refuse_other_flags(context: click.Context) -> None:
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name not in _WHERE and source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"--resume uses the configuration of the run: omit {parameter.opts[0]}, or train another run"
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
