"""Calibrates the int8 model of a run, and previews its calibration before an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgebcnn.atomic import replacing_file
from edgebcnn.bundle import Label
from edgebcnn.images.dataset import Photo
from edgebcnn.model.bcnn import folded
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibration.photos import CalibrationSet, choose, choose_captured, photos_in
from edgebcnn.quantize.calibration.ranges_figure import ranges_figure
from edgebcnn.quantize.calibration.recipe import Recipe
from edgebcnn.quantize.stability import compared, split_others
from edgebcnn.quantize.tflite.convert import int8_source
from edgebcnn.quantize.tflite.int8 import Int8Model, QuantizedIo
from edgebcnn.report.calibration import CalibrationReport, Stability
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun, check_photos


@dataclass(frozen=True)
class Int8Calibration:
    """An int8 model file and how its ranges came about.

    Attributes:
        int8: The file and what it was made of.
        chosen: The photos.
        stability: None where too few training photos were left to measure it.
        others: Training photos that no calibration has seen; empty where too few were left.
    """

    int8: Int8Model
    chosen: CalibrationSet
    stability: Stability | None
    others: tuple[Photo, ...]

    def report(self, labels: tuple[Label, ...]) -> CalibrationReport:
        """The calibration report.

        Args:
            labels: Products, by class id.
        """
        products = [
            labels[photo.class_id].name if photo.class_id >= 0 else "(captured)" for photo in self.chosen.photos
        ]
        return CalibrationReport(
            recipe=self.chosen.recipe.name,
            source=self.chosen.source,
            photos=tuple(zip(products, self.chosen.brightness, strict=True)),
            groups=self.chosen.groups,
            notes=self.chosen.notes,
            tensors=self.int8.tensors,
            equalized=self.int8.equalized,
            stability=self.stability,
        )


def preview(
    run: TrainedRun, recipe: Recipe, *, captured: Path | None = None, plot: Path | None = None, reporter: Reporter
) -> CalibrationReport:
    """Previews the photos and ranges that `export` would calibrate with; nothing is written but the plot.

    Args:
        run: A run with a compact model.
        recipe: How photos and ranges are chosen.
        captured: Folder of photos to calibrate on in place of training photos.
        plot: PNG file for a plot of the ranges.
        reporter: Receives progress and messages.

    Raises:
        EdgebcnnError: a photo, the recipe or the model cannot be used, or the plot cannot be written.
    """
    check_photos(run.path, run.dataset)
    compact = run.load("compact")
    preprocessing = run.preprocessing
    model = folded(compact, height_px=preprocessing.height_px, width_px=preprocessing.width_px)
    chosen = chosen_photos(run, recipe, captured=captured, reporter=reporter)
    report = calibrate_int8(model, chosen, preprocessing=preprocessing, reporter=reporter).report(run.dataset.labels)
    if plot is not None:
        with replacing_file(plot) as part:
            ranges_figure(report).savefig(part, dpi=120, format="png")
    return report


def chosen_photos(run: TrainedRun, recipe: Recipe, *, captured: Path | None, reporter: Reporter) -> CalibrationSet:
    """The photos that a recipe chooses for a run.

    Args:
        run: The run.
        recipe: The recipe.
        captured: Folder of photos to choose from in place of training photos.
        reporter: Receives progress and messages.

    Raises:
        DataError: a photo cannot be used, or there are too few.
    """
    total = len(run.dataset.train) + (0 if captured is None else len(photos_in(captured)))
    with reporter.progress("choosing calibration photos", total) as advance:
        if captured is None:
            chosen = choose(run.dataset, recipe, preprocessing=run.preprocessing, advance=advance)
        else:
            chosen = choose_captured(captured, run.dataset, recipe, preprocessing=run.preprocessing, advance=advance)
    for note in chosen.notes:
        reporter.say(note)
    return chosen


def calibrate_int8(
    model: Any,
    chosen: CalibrationSet,
    *,
    preprocessing: Preprocessing,
    reporter: Reporter,
    io: QuantizedIo = "uint8",
) -> Int8Calibration:
    """Converts a model of logits to int8 with ranges from the chosen photos, and checks how much they decide.

    Args:
        model: `(n, h, w, 3)` float32 image, normalized, to `(n, k)` logits.
        chosen: The photos.
        preprocessing: The model's.
        reporter: Receives progress and messages.
        io: What the file takes and gives.

    Raises:
        DataError: the recipe names a layer that the model lacks.
        QuantizationError: TFLite has no op for a part of the model.
    """
    source = int8_source(model, preprocessing=preprocessing)

    def calibrated_on(photos: Sequence[Photo], description: str) -> Int8Model:
        pixels = PreparedPhotos(photos, preprocessing)[:]
        with reporter.progress(description, chosen.recipe.passes * len(photos)) as advance:
            return source.quantized(pixels, rules=chosen.recipe, io=io, advance=advance)

    int8 = calibrated_on(chosen.photos, "converting to int8")
    second, probes = split_others(chosen.others, len(chosen.photos))
    if not probes:
        return Int8Calibration(int8, chosen, None, ())
    other = calibrated_on(second, "converting to int8 on other photos")
    pixels = PreparedPhotos(probes, preprocessing)[:]
    with reporter.progress("comparing both int8 models", len(probes)) as advance:
        stability = compared(int8.content, other.content, pixels, photos=len(second), advance=advance)
    if not stability.is_stable:
        reporter.say(str(stability))
    return Int8Calibration(int8, chosen, stability, tuple(probes))
