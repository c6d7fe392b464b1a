"""`edgebcnn export`: turns a trained run into a bundle for the device."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, get_args

import click

from edgebcnn.cli.flags.config import ConfiguredCommand, config_option
from edgebcnn.cli.flags.sections import argument, section
from edgebcnn.cli.flags.toml_text import resolved

if TYPE_CHECKING:
    from edgebcnn.bundle import Precision
    from edgebcnn.quantize.choices import ExportChoices
    from edgebcnn.quantize.export import ExportResult

DEFAULT_RUN = Path("runs/latest")

_SERVES = {"int8_io": {"int8", "mixed"}, "equalization": {"int8", "mixed", "int16"}, "qat": {"int8", "mixed"}}
"""Flags that have no effect without one of these precisions."""


def points(_context: click.Context, parameter: click.Parameter, limit: float | None) -> float | None:
    """Checks a limit of the accuracy gate."""
    if limit is None or 0 <= limit <= 100:
        return limit
    raise click.BadParameter(f"{limit:g} is not a number of percentage points: give 0 to 100", param=parameter)


def _limit(flag: str, what: str, default: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    shown = f"the recipe's, else {default}"
    return click.option(flag, type=float, callback=points, metavar="POINTS", show_default=shown, help=what)


@click.command(cls=ConfiguredCommand, only_flags=("as_json",))
@section(
    "Run",
    argument(
        "run_path", metavar="[RUN]", type=click.Path(path_type=Path), default=DEFAULT_RUN, help="The run to export."
    ),
    click.option(
        "--output", type=click.Path(path_type=Path), metavar="DIR", show_default="RUN/bundle", help="Bundle to write."
    ),
    config_option,
    click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
)
@section(
    "Precisions",
    click.option("--int8", is_flag=True, help="Integer model, smallest and fastest; the default if none is given."),
    click.option("--mixed", is_flag=True, help="int8 model that keeps the few layers with the largest loss in float."),
    click.option("--int16", is_flag=True, help="int16 activations (16x8), for accelerators; slow on every CPU."),
    click.option("--dynamic", is_flag=True, help="int8 weights and float32 activations."),
    click.option("--fp16", is_flag=True, help="float16 weights and float32 arithmetic."),
    click.option("--float32", is_flag=True, help="The model as it was trained."),
)
@section(
    "Quantization",
    click.option(
        "--recipe",
        default="balanced",
        metavar="NAME|FILE",
        help="Calibration recipe for int8: balanced, quick, or your own TOML file.",
    ),
    click.option(
        "--calibration-photos",
        type=click.Path(path_type=Path),
        metavar="DIR",
        show_default="training photos of the run",
        help="Photos to calibrate int8 on, such as frames captured on the device; labels are not needed.",
    ),
    click.option(
        "--equalization/--no-equalization",
        default=None,
        show_default="the recipe's, else off",
        help="Equalize the channel ranges of int8, mixed and int16 models before quantization.",
    ),
    click.option(
        "--qat",
        is_flag=True,
        help="Fine-tune int8 and mixed models quantization-aware, by distillation from the full model.",
    ),
    click.option("--qat-epochs", type=click.IntRange(min=1), metavar="N", show_default="1", help="Epochs of --qat."),
)
@section(
    "Model file",
    click.option(
        "--int8-io",
        is_flag=True,
        help="Give int8 and mixed models int8 input and output in place of uint8; MediaPipe refuses those.",
    ),
    click.option(
        "--runtime-compat",
        is_flag=True,
        help="Make models that tflite-runtime 2.14 runs (the runtime of 32-bit ARM), or fail.",
    ),
    click.option(
        "--old-python",
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Python of an environment with tflite-runtime 2.14: run inference there too, and report the agreement.",
    ),
    click.option("--with-full", is_flag=True, help="Add the full model to the bundle, in float, for run --shadow."),
    click.option("--allow-float", is_flag=True, help="Accept an int8 model that keeps ops in float."),
)
@section(
    "Accuracy gate",
    _limit(
        "--max-drop", "Refuse an export whose top-1 accuracy drops by more, against the float compact model.", "0.5"
    ),
    _limit("--max-product-drop", "Refuse an export in which the accuracy of one product drops by more.", "10"),
    _limit(
        "--max-new-confusion", "Refuse an export that newly confuses more of one product's photos with another.", "5"
    ),
    click.option("--accept-drop", is_flag=True, help="Export what these limits refuse; the bundle's report says so."),
)
@click.pass_context
def command(context: click.Context, /, *, run_path: Path, output: Path | None, as_json: bool, **flags: Any) -> None:
    """Turn a trained run into a bundle for the device.

    RUN is a folder that train made, by default the newest. The bundle holds one model for each precision, evaluated on
    the run's held-out photos next to the full and the compact model; BUNDLE.toml keeps the configuration. A model that
    loses too much accuracy is refused: its report goes to DIR.refused, and the bundle in DIR is kept.
    """
    from edgebcnn.atomic import write_bytes
    from edgebcnn.cli.console import TerminalReporter
    from edgebcnn.errors import GateError

    precisions = _precisions(flags)
    reporter = TerminalReporter()
    with reporter.progress("starting TensorFlow", 0):
        from edgebcnn.quantize.export import export
        from edgebcnn.train.run_folder import open_run

    run = open_run(run_path)
    choices = _choices(precisions, flags)
    place = output or run.path / "bundle"
    try:
        result = export(run, place, choices=choices, reporter=reporter)
    except GateError as refused:
        if as_json:
            click.echo(refused.report.read_bytes(), nl=False)
        raise
    # Next to the bundle, not in it: where photos lie on this machine is no device's business.
    write_bytes(place.absolute().with_name(f"{place.absolute().name}.toml"), resolved(context, _exact(flags)).encode())
    _print(result, as_json=as_json)


def _exact(flags: dict[str, Any]) -> dict[str, Any]:
    """Values that must not depend on the folder in which they are given again."""
    recipe = Path(flags["recipe"])
    return {"recipe": recipe.absolute()} if recipe.is_file() else {}


def _precisions(flags: dict[str, Any]) -> list[Precision]:
    """The precisions to make, when every other flag applies to one of them."""
    from edgebcnn.bundle import Precision

    precisions: list[Precision] = [name for name in get_args(Precision) if flags[name]] or ["int8"]
    for flag, served in _SERVES.items():
        if flags[flag] and served.isdisjoint(precisions):
            raise click.UsageError(f"--{flag.replace('_', '-')} is for the int8 model: add --int8")
    if flags["qat_epochs"] is not None and not flags["qat"]:
        raise click.UsageError("--qat-epochs is for --qat: add it")
    return precisions


def _choices(precisions: list[Precision], flags: dict[str, Any]) -> ExportChoices:
    from edgebcnn.quantize.calibration.recipe import GateLimits, load_recipe
    from edgebcnn.quantize.choices import ExportChoices
    from edgebcnn.quantize.qat.finetune import DEFAULT_EPOCHS

    recipe = load_recipe(flags["recipe"])
    changes: dict[str, Any] = {
        "gates": recipe.gates.overridden(**{limit: flags[limit] for limit in GateLimits.model_fields})
    }
    if flags["equalization"] is not None:
        changes["equalization"] = flags["equalization"]
    return ExportChoices(
        precisions=precisions,
        recipe=recipe.model_copy(update=changes),
        captured=flags["calibration_photos"],
        io="int8" if flags["int8_io"] else "uint8",
        qat_epochs=(flags["qat_epochs"] or DEFAULT_EPOCHS) if flags["qat"] else 0,
        runtime_compat=flags["runtime_compat"] or flags["old_python"] is not None,
        old_python=flags["old_python"],
        with_full=flags["with_full"],
        allow_float=flags["allow_float"],
        accept_drop=flags["accept_drop"],
    )


def _print(result: ExportResult, *, as_json: bool) -> None:
    from edgebcnn.atomic import json_bytes
    from edgebcnn.bundle import PAGE_NAME
    from edgebcnn.cli.console import stdout
    from edgebcnn.report.render import comparison_table

    if as_json:
        click.echo(json_bytes(result.as_json()).decode(), nl=False)
        return
    for precision, model in result.models.items():
        stdout.print(f"{precision}: {model.audit.summary()}, {len(model.content) / 1e6:.2f} MB")
        stdout.print(comparison_table(model.comparison))
        for sentence in filter(None, (model.tuning, model.mixed, model.layers, model.old_runtime)):
            stdout.print(str(sentence))
        stdout.print(str(model.verdict))
    if result.report["gate"]["accepted"]:
        stdout.print("written all the same (--accept-drop); the report records it")
    stdout.print(f"evaluated on the {result.held_out} photos")
    stdout.print(f"scores: {result.bundle.manifest.scores}")
    if result.calibration is not None:
        for said in filter(None, (result.calibration.stability, result.calibration.equalization())):
            stdout.print(str(said))
    stdout.print(f"bundle: {result.bundle.path}")
    stdout.print(f"report: {result.bundle.path / PAGE_NAME}")
    stdout.print(f"next:   {_next_command(result.bundle.path)}")


def _next_command(bundle: Path) -> str:
    is_default = (DEFAULT_RUN / "bundle").resolve() == bundle.resolve()
    return "edgebcnn run --camera 0" if is_default else f"edgebcnn run --camera 0 --bundle {quote(str(bundle))}"
