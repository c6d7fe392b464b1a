"""Measures what each remedy for int8 gives: ranges, bias correction, equalization, quantization-aware training.

    python benchmarks/int8_remedies.py RUN [--recipe NAME|FILE] [--split val] [--qat-epochs 1] [--only WORD]

The recipe chooses the calibration photos; its own range method is left aside. All models answer on the same photos. Two
are fine-tuned, if that is asked for: the plainest one, and the one that `export --int8` makes by default. The same two
are equalized, and float models stand beside them: the equalized one before rounding, and the original one with ReLU in
place of ReLU6, which would let any factor through (Nagel et al. 2019 equalize MobileNetV2 so). The distance
between two models is the mean total variation ½ Σ |p - q| of their probabilities, which sees what the top-1 answers of
a few hundred photos do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgebcnn.atomic import json_bytes
from edgebcnn.cli.console import TerminalReporter
from edgebcnn.model.bcnn import Bcnn, folded
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibrate_run import chosen_photos
from edgebcnn.quantize.calibration.observe import packed
from edgebcnn.quantize.calibration.ranges import Int8Rules, RangeMethod
from edgebcnn.quantize.calibration.recipe import load_recipe
from edgebcnn.quantize.qat.finetune import FineTuning
from edgebcnn.quantize.tflite.convert import int8_source
from edgebcnn.report.agreement import Proportion, accuracy, agreement
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.material import class_ids
from edgebcnn.train.run_folder import TrainedRun, open_run
from edgebcnn.train.steps import predictor

METHODS: tuple[tuple[RangeMethod, float | None], ...] = (
    ("minmax", None),
    ("percentile", 99.9),
    ("percentile", 99.99),
    ("mse", None),
)

TABLE_WIDTH = 150

_RANGES = tuple(
    Int8Rules(range_method=method, percentile=percentile, bias_correction=corrected, outliers_apart=False)
    for method, percentile in METHODS
    for corrected in (False, True)
)

APART = tuple(rules.model_copy(update={"outliers_apart": True}) for rules in (_RANGES[0], _RANGES[-1]))

FINE_TUNED = (_RANGES[0], APART[-1])

EQUALIZED = tuple(rules.model_copy(update={"equalization": True}) for rules in FINE_TUNED)

WAYS = (*_RANGES, *APART, *EQUALIZED)


@dataclass(frozen=True)
class Row:
    """One model on one split: in float, or in int8 with ranges and biases made in one way."""

    name: str
    split: str
    accuracy: Proportion
    agreement: Proportion
    with_full: Proportion
    distance: float


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--recipe", default="quick", help="Chooses the calibration photos.")
@click.option(
    "--split",
    "splits",
    type=click.Choice(["val", "test"]),
    multiple=True,
    default=["val"],
    help="Photos to judge on; may be given twice.",
)
@click.option("--qat-epochs", type=click.IntRange(min=0), default=0, help="How long two of them are fine-tuned.")
@click.option("--only", default="", metavar="WORD", help="Make the int8 models alone whose name has this word.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def main(run_path: Path, recipe: str, splits: tuple[str, ...], qat_epochs: int, only: str, as_json: bool) -> None:
    """Quantizes the compact model of a run in every way and prints accuracy and agreement with the float model."""
    ways = [rules for rules in WAYS if only in name(rules)]
    rows = compared(open_run(run_path), recipe, splits, ways, qat_epochs=qat_epochs, reporter=TerminalReporter())
    if as_json:
        click.echo(json_bytes([asdict(row) for row in rows]).decode(), nl=False)
    else:
        Console(width=TABLE_WIDTH, soft_wrap=True).print(table(rows))


def compared(
    run: TrainedRun,
    recipe: str,
    splits: Sequence[str],
    ways: Sequence[Int8Rules],
    *,
    qat_epochs: int,
    reporter: Reporter,
) -> list[Row]:
    """The float models and every int8 one on the photos of each split."""
    preprocessing = run.preprocessing
    model = folded(run.load("compact"), height_px=preprocessing.height_px, width_px=preprocessing.width_px)
    int8_start = int8_source(model, preprocessing=preprocessing)
    source = int8_start.float_tflite
    chosen = chosen_photos(run, load_recipe(recipe), captured=None, reporter=reporter)
    calibration = PreparedPhotos(chosen.photos, preprocessing)[:]
    full = run.load("full")
    judges = [Judge(run, split, source, full, reporter) for split in splits]
    floats = {"float32": source, "float32, ReLU for ReLU6": _without_end(source)}
    rows = [judge.row(each, content) for each, content in floats.items() for judge in judges]
    for rules in ways:
        with reporter.progress(name(rules), rules.passes * len(calibration)) as advance:
            int8 = int8_start.quantized(calibration, rules=rules, advance=advance)
        rows += [judge.row(name(rules), int8.content) for judge in judges]
        if rules == EQUALIZED[0]:
            rows += [judge.row("float32, equalized", int8.ranged.float_tflite) for judge in judges]
        if qat_epochs and rules in FINE_TUNED:
            fine_tuning = FineTuning(run, full, epochs=qat_epochs)
            tuned, tuning = fine_tuning.tuned(int8, model, io="uint8", reporter=reporter)
            reporter.say(str(tuning))
            rows += [judge.row(f"{name(rules)}, fine-tuned", tuned.content) for judge in judges]
    return rows


def name(rules: Int8Rules) -> str:
    """What a table calls a way."""
    percentile = f" {rules.percentile}" if rules.percentile else ""
    corrected = ", biases corrected" if rules.bias_correction else ""
    apart = ", outliers apart" if rules.outliers_apart else ""
    return f"{rules.range_method}{percentile}{corrected}{apart}{', equalized' if rules.equalization else ''}"


def _without_end(float_tflite: bytes) -> bytes:
    """The file with ReLU in place of ReLU6."""
    model = schema.ModelT.InitFromPackedBuf(float_tflite)
    kinds = schema.ActivationFunctionType
    for operator in model.subgraphs[0].operators:
        if getattr(operator.builtinOptions, "fusedActivationFunction", None) == kinds.RELU6:
            operator.builtinOptions.fusedActivationFunction = kinds.RELU
    return packed(model)


class Judge:
    """The photos of a split, and what the float model and the full one say of them.

    Args:
        run: The run.
        split: `val` or `test`.
        source: The float file.
        full: The full model.
        reporter: Who is told.
    """

    def __init__(self, run: TrainedRun, split: str, source: bytes, full: Bcnn, reporter: Reporter) -> None:
        photos = getattr(run.dataset, split)
        self._split, self._preprocessing = split, run.preprocessing
        self._pixels_u8 = PreparedPhotos(photos, run.preprocessing)[:]
        self._truth = class_ids(photos)
        self._reference = self._probabilities(source)
        with reporter.progress(f"full model on {split} photos", len(photos)) as advance:
            self._of_full = predictor(full)(self._pixels_u8, advance).argmax(axis=1)

    def row(self, model: str, content: bytes) -> Row:
        """The figures of a model file."""
        found = self._probabilities(content)
        top1 = found.argmax(axis=1)
        distance = float(np.abs(found - self._reference).sum(axis=1).mean() / 2)
        alike = agreement(top1, self._reference.argmax(axis=1))
        return Row(model, self._split, accuracy(top1, self._truth), alike, agreement(top1, self._of_full), distance)

    def _probabilities(self, content: bytes) -> NDArray[np.float32]:
        run = Interpreter(model_content=content).get_signature_runner()
        (taken,) = run.get_input_details().values()
        rows = []
        for pixels in self._pixels_u8:
            image = pixels if taken["dtype"] == np.uint8 else self._preprocessing.normalize(pixels)
            rows.append(run(image=image[np.newaxis])["probabilities"])
        found = np.concatenate(rows)
        return np.asarray(found / (256 if found.dtype == np.uint8 else 1), np.float32)


def table(rows: list[Row]) -> Table:
    """Rows of figures."""
    found = Table()
    found.add_column("", no_wrap=True)
    found.add_column("photos")
    for column in ("accuracy", "agreement with float", "with the full model", "distance"):
        found.add_column(column, justify="right")
    for each in rows:
        shares = [
            f"{share.successes}/{share.n} = {100 * share.value:.1f} %"
            for share in (each.accuracy, each.agreement, each.with_full)
        ]
        found.add_row(each.name, each.split, *shares, f"{each.distance:.4f}")
    return found


if __name__ == "__main__":
    main()
