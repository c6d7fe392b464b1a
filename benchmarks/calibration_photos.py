"""Measures what the photos that calibrate an int8 model decide.

    python -m benchmarks.calibration_photos RUN [--plot PNG]

The compact model of RUN is made int8 again and again, each time calibrated on other pictures: training photos as the
recipe chooses them, more and fewer; the first files of a folder walk; one product alone; dark frames; noise. Each is
done twice: with the lowest and highest value as range, and as `export --int8` does it by default. All of them answer on
the test photos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from benchmarks.int8_remedies import Judge, Row, name, table
from edgebcnn.atomic import json_bytes, replacing_file
from edgebcnn.cli.console import TerminalReporter
from edgebcnn.model.bcnn import folded
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibration.photos import choose
from edgebcnn.quantize.calibration.ranges import Int8Rules
from edgebcnn.quantize.calibration.recipe import load_recipe
from edgebcnn.quantize.tflite.convert import int8_source
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun, open_run

COUNTS = (320, 64, 24, 8)
FEW = 64
DARKER = 8  # times, as where the lamp is out
WAYS = (Int8Rules(range_method="minmax", bias_correction=False), Int8Rules(range_method="mse", bias_correction=True))


@click.command()
@click.argument("run_path", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path), metavar="PNG", help="A picture of the agreements.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def main(run_path: Path, plot: Path | None, as_json: bool) -> None:
    """Calibrates the compact model of a run on good and bad pictures and prints what becomes of it."""
    rows = compared(open_run(run_path), TerminalReporter())
    if plot:
        with replacing_file(plot) as part:
            figure(rows).savefig(part, dpi=120, format="png")
    if as_json:
        click.echo(json_bytes({way: [asdict(row) for row in made] for way, made in rows.items()}).decode(), nl=False)
        return
    for way, made in rows.items():
        Console().print(way, table(made))


def compared(run: TrainedRun, reporter: Reporter) -> dict[str, list[Row]]:
    """A row for each kind of pictures, by the way in which ranges come of them."""
    preprocessing = run.preprocessing
    model = folded(run.load("compact"), height_px=preprocessing.height_px, width_px=preprocessing.width_px)
    source = int8_source(model, preprocessing=preprocessing)
    judge = Judge(run, "test", source.float_tflite, run.load("full"), reporter)
    kinds = pictures(run)
    rows: dict[str, list[Row]] = {}
    for rules in WAYS:
        for kind, pixels_u8 in kinds.items():
            with reporter.progress(f"{kind}: {name(rules)}", rules.passes * len(pixels_u8)) as advance:
                int8 = source.quantized(pixels_u8, rules=rules, advance=advance)
            rows.setdefault(name(rules), []).append(judge.row(kind, int8.content))
    return rows


def pictures(run: TrainedRun) -> dict[str, NDArray[np.uint8]]:
    """Pictures to calibrate on, `(n, h, w, 3)` uint8 RGB, by what they are."""
    recipe, train = load_recipe("balanced"), run.dataset.train
    most = recipe.model_copy(update={"photos": min(COUNTS[0], len(train))})
    chosen = choose(run.dataset, most, preprocessing=run.preprocessing, advance=lambda _: None).photos
    of_one = [photo for photo in train if photo.class_id == train[0].class_id]
    good = PreparedPhotos(chosen, run.preprocessing)[:]
    few = good[:FEW]
    return {
        **{f"balanced, {count} photos": good[:count] for count in COUNTS if count <= len(good)},
        f"the first {FEW} files": PreparedPhotos(train[:FEW], run.preprocessing)[:],
        f"one product, {len(of_one)} photos": PreparedPhotos(of_one, run.preprocessing)[:],
        f"{len(few)} dark frames": few // np.uint8(DARKER),
        f"{len(few)} pictures of noise": np.random.default_rng(0).integers(0, 256, few.shape, np.uint8),
    }


def figure(rows: Mapping[str, Sequence[Row]]) -> Any:
    """A matplotlib figure: how far int8 lies from float for each kind of pictures, and how often both agree."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8, 4.2), layout="constrained")
    panel = drawn.subplots()
    kinds = [row.name for row in next(iter(rows.values()))]
    for number, (way, made) in enumerate(rows.items()):
        places = np.arange(len(kinds)) + 0.36 * (number - 0.5)
        bars = panel.barh(places, [row.distance for row in made], height=0.34, color=("0.7", "C0")[number], label=way)
        panel.bar_label(bars, [f"{100 * row.agreement.value:.1f} %" for row in made], padding=3, fontsize=7)
    panel.set_yticks(np.arange(len(kinds)), kinds)
    panel.invert_yaxis()
    panel.margins(x=0.08)
    panel.set_xlabel(
        f"distance of int8 from float, ½ Σ |p - q|, and their agreement on {made[0].agreement.n} test photos"
    )
    panel.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    panel.spines[["top", "right"]].set_visible(False)
    return drawn


if __name__ == "__main__":
    main()
