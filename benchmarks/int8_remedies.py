"""What does each way to choose the ranges of an int8 model give, with and without corrected biases?

    python benchmarks/int8_remedies.py RUN [--recipe NAME|FILE] [--split val]

The recipe chooses the calibration photos; its own range method is left aside. All models answer on the same photos. The
distance between two models is the mean total variation ½ Σ |p - q| of their probabilities, which sees what the top-1
answers of a few hundred photos do not.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgebcnn.atomic import json_bytes
from edgebcnn.cli.console import TerminalReporter
from edgebcnn.model.bcnn import folded
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibrate import load_recipe
from edgebcnn.quantize.calibrated import chosen_photos
from edgebcnn.quantize.convert import float_file, square_roots
from edgebcnn.quantize.int8 import quantize
from edgebcnn.quantize.ranges import Int8Rules, RangeMethod
from edgebcnn.report.agreement import Proportion, accuracy, agreement
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun, open_run

WAYS: tuple[tuple[RangeMethod, float | None], ...] = (
    ("minmax", None),
    ("percentile", 99.9),
    ("percentile", 99.99),
    ("mse", None),
)


@dataclass(frozen=True)
class Row:
    """One model: in float, or in int8 with ranges and biases made in one way."""

    name: str
    accuracy: Proportion
    agreement: Proportion
    distance: float


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--recipe", default="quick", help="Chooses the calibration photos.")
@click.option("--split", type=click.Choice(["val", "test"]), default="val", help="Photos to judge on.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def main(run_path: Path, recipe: str, split: str, as_json: bool) -> None:
    """Quantizes the compact model of a run in every way and prints accuracy and agreement with the float model."""
    rows = compared(open_run(run_path), recipe, split, TerminalReporter())
    if as_json:
        click.echo(json_bytes([asdict(row) for row in rows]).decode(), nl=False)
    else:
        Console().print(table(rows))


def compared(run: TrainedRun, recipe: str, split: str, reporter: Reporter) -> list[Row]:
    """The float model and every int8 one on the photos of a split."""
    preprocessing = run.preprocessing
    model = folded(run.load("compact"), height_px=preprocessing.height_px, width_px=preprocessing.width_px)
    source = float_file(model, "int8", preprocessing=preprocessing)
    chosen = chosen_photos(run, load_recipe(recipe), captured=None, reporter=reporter)
    calibration, judged = PreparedPhotos(chosen.photos, preprocessing)[:], getattr(run.dataset, split)
    pixels = PreparedPhotos(judged, preprocessing)[:]
    truth = np.array([photo.class_id for photo in judged], np.int64)
    reference = probabilities(source, preprocessing.normalize(pixels))
    rows = [row("float32", reference, reference, truth)]
    for method, percentile in WAYS:
        for corrected in (False, True):
            rules = Int8Rules(range_method=method, percentile=percentile, bias_correction=corrected)
            name = f"{method}{f' {percentile}' if percentile else ''}{', biases corrected' if corrected else ''}"
            with reporter.progress(name, len(calibration)) as advance:
                int8 = quantize(
                    source,
                    calibration,
                    rules=rules,
                    preprocessing=preprocessing,
                    square_roots=square_roots(model),
                    advance=advance,
                )
            rows.append(row(name, probabilities(int8.content, pixels) / np.float32(256), reference, truth))
    return rows


def row(name: str, found: NDArray[np.floating], reference: NDArray[np.floating], truth: NDArray[np.int64]) -> Row:
    """The figures of one model, from `(n, k)` probabilities of it and of the float model."""
    top1 = found.argmax(axis=1)
    distance = float(np.abs(found - reference).sum(axis=1).mean() / 2)
    return Row(name, accuracy(top1, truth), agreement(top1, reference.argmax(axis=1)), distance)


def probabilities(content: bytes, images: NDArray[Any]) -> NDArray[Any]:
    """Raw outputs of a model file, `(n, k)`."""
    run = Interpreter(model_content=content).get_signature_runner()
    return np.concatenate([run(image=image[np.newaxis])["probabilities"] for image in images])


def table(rows: list[Row]) -> Table:
    """Rows of figures."""
    found = Table()
    found.add_column("", no_wrap=True)
    for column in ("accuracy", "agreement with float", "distance"):
        found.add_column(column, justify="right")
    for each in rows:
        shares = [
            f"{share.successes}/{share.n} = {100 * share.value:.1f} %" for share in (each.accuracy, each.agreement)
        ]
        found.add_row(each.name, *shares, f"{each.distance:.4f}")
    return found


if __name__ == "__main__":
    main()
