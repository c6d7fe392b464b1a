"""Turns a trained run into a bundle.

    calibrate ── convert ── audit ── evaluate ── gate ── bundle

The edge model is evaluated by the code that runs on the device, from a draft of the bundle. The bundle itself is
written last and at once, so that an export that fails, is refused or is stopped leaves what was there before.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edgebcnn import __version__
from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import (
    FULL_NAME,
    GOLDEN_NAME,
    PAGE_NAME,
    REPORT_NAME,
    SCHEMA_VERSION,
    Bundle,
    Manifest,
    Precision,
    check_destination,
    write_bundle,
)
from edgebcnn.errors import DataError, QuantizationError
from edgebcnn.images.dataset import Photo
from edgebcnn.model import heads
from edgebcnn.model.keras import keras, tf
from edgebcnn.progress import Reporter
from edgebcnn.quantize.calibrate_run import Int8Calibration
from edgebcnn.quantize.choices import ExportChoices
from edgebcnn.quantize.full_file import full_file
from edgebcnn.quantize.gate import Verdict, check_refused_folder, forget_refusal, gate_json, judge_export, refuse
from edgebcnn.quantize.golden_photos import golden_archive
from edgebcnn.quantize.held_out import HeldOutPredictions, predict_held_out, predict_with_old_runtime
from edgebcnn.quantize.inspect.layers import LayerErrors
from edgebcnn.quantize.inspect.layers_figure import layers_figure
from edgebcnn.quantize.model_files import CALIBRATED, MadeFile, Maker
from edgebcnn.quantize.old_runtime.check import OldRuntimeResult, check_known
from edgebcnn.quantize.score_calibration import ScoreFit, calibrate_scores
from edgebcnn.quantize.tflite.convert import check_pixel_input
from edgebcnn.report.calibration import CalibrationReport
from edgebcnn.report.comparison import ModelComparison, compare
from edgebcnn.report.fidelity import Fidelity, fidelity
from edgebcnn.report.page import page
from edgebcnn.report.render import comparison_json
from edgebcnn.train.claim import check_writable
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun, check_photos, resume_command


@dataclass(frozen=True, kw_only=True)
class EdgeModel(MadeFile):
    """A model file of an export, and how it does.

    Attributes:
        untuned: Full, compact, the int8 model before fine-tuning (`untuned`) and edge model; None where it was not.
        comparison: Full, compact and edge model (this file) on the held-out photos.
        fidelity: Every figure of the three.
        verdict: Whether its accuracy loss is within the limits.
        old_runtime: Predictions of tflite-runtime 2.14 against LiteRT; None where it was not run.
    """

    untuned: ModelComparison | None
    comparison: ModelComparison
    fidelity: Fidelity
    verdict: Verdict
    old_runtime: OldRuntimeResult | None

    def as_json(self, photos: Sequence[str]) -> dict[str, Any]:
        """Everything, ops by name, and photos by the names given."""
        return {
            "size_bytes": len(self.content),
            "ops": [op.name for op in self.audit.ops],
            "float_ops": [op.name for op in self.audit.float_ops],
            "layers": None if self.layers is None else self.layers.model_dump(mode="json"),
            "mixed": None if self.mixed is None else self.mixed.model_dump(mode="json"),
            "tuning": None if self.tuning is None else self.tuning.as_json(),
            "untuned": None if self.untuned is None else comparison_json(self.untuned),
            "old_runtime": None if self.old_runtime is None else self.old_runtime.as_json(),
            **comparison_json(self.comparison),
            "fidelity": self.fidelity.as_json(photos),
            "gate": self.verdict.as_json(),
        }


@dataclass(frozen=True)
class ExportResult:
    """A bundle, and how its models do on held-out photos.

    Attributes:
        bundle: The bundle as it lies on the disk.
        held_out: Which split the photos are from, `test` or `val`.
        models: Its model files.
        calibration: What the int8 model learned its ranges from; None without one.
        report: Content of the bundle's report.
    """

    bundle: Bundle
    held_out: str
    models: Mapping[Precision, EdgeModel]
    calibration: CalibrationReport | None
    report: Mapping[str, Any]

    def __fspath__(self) -> str:
        """The bundle's folder, so that whatever takes a path takes a result."""
        return str(self.bundle.path)

    def as_json(self) -> dict[str, Any]:
        """Content of the bundle's report, with the path and digest of the bundle."""
        return {"bundle": str(self.bundle.path), "digest": self.bundle.digest, **self.report}


def export(run: TrainedRun, output: Path, *, choices: ExportChoices, reporter: Reporter) -> ExportResult:
    """Turns a run's compact model into a bundle, and measures what that cost.

    Args:
        run: A run with a full and a compact model.
        output: Folder of the bundle; a bundle that is there is replaced.
        choices: What to make, and what to accept.
        reporter: Receives progress and messages.

    Raises:
        QuantizationError: an op cannot be converted, stays in float or is unknown to tflite-runtime 2.14, and that is
            not accepted.
        DeviceError: the old runtime cannot run a model file.
        GateError: a model file lost too much accuracy; its report lies next to `output`.
        RunError: the run lacks a model.
        TrainingError: fine-tuning ends in weights that are no numbers.
        DataError: the run has no held-out photo, none to learn from, or a photo is gone or cannot be read any more.
        BundleError: `output` holds something that is not a bundle, or the report's place something else.
        StorageError: the disk is full, or `output` cannot be written.
    """
    output = output.absolute()  # `.` has no name to put a draft or a report next to
    _check_start(run, output, choices, reporter)
    full, compact = run.load("full"), run.load("compact")
    scores = calibrate_scores(run, full, compact, reporter)
    maker = Maker(run, full, compact, choices=choices, reporter=reporter)
    made = maker.make()
    _check_made(made, run, choices)
    shadow = None
    if choices.with_full:
        shadow = full_file(run, full, runtime_compat=choices.runtime_compat, reporter=reporter)
    manifest = _manifest(run, made, maker.calibration, shadow, tuned=choices.qat_epochs > 0)
    files = _files(manifest, made, shadow)
    predictions = predict_held_out(
        run, scores.references, manifest, files, untuned=maker.untuned, output=output, reporter=reporter
    )
    models = _judged(run, made, predictions, scores, choices, reporter)
    manifest = manifest.model_copy(update={"scores": scores.record(predictions.edges)})
    calibration = None if maker.calibration is None else maker.calibration.report(run.dataset.labels)
    report = _report(run, models, choices, calibration)
    files |= {REPORT_NAME: json_bytes(report), PAGE_NAME: _page(run, report, reporter)}
    if not choices.accept_drop:
        verdicts = {precision: model.verdict for precision, model in models.items()}
        refuse(verdicts, output, files=files, photos=run.dataset.held_out_name)
    files[GOLDEN_NAME] = golden_archive(run, manifest.models, predictions.references, predictions.edges)
    bundle = write_bundle(output, manifest, run.dataset.labels, files)
    forget_refusal(output)
    return ExportResult(bundle, run.dataset.held_out_name, models, calibration, report)


def _check_start(run: TrainedRun, output: Path, choices: ExportChoices, reporter: Reporter) -> None:
    """Checks everything that needs no long work."""
    check_destination(output)
    check_refused_folder(output)
    check_writable(output.parent)
    if not run.dataset.held_out:
        raise DataError(f"{run.path} has no test or val photos to evaluate the export on: train with some held out")
    check_photos(run.path, run.dataset)
    if run.state != "finished":
        reporter.say(f"{run.path} is not finished and is exported as it is; resume it with {resume_command(run.path)}")
    no_int8 = heads.find(run.config.pooling).no_int8
    if no_int8 and not (choices.allow_float or CALIBRATED.isdisjoint(choices.precisions)):
        raise QuantizationError(f"{run.config.pooling} pooling has no int8 form, because {no_int8}")


def _check_made(made: Mapping[Precision, MadeFile], run: TrainedRun, choices: ExportChoices) -> None:
    for precision, file in made.items():
        if precision in ("int8", "mixed"):
            check_pixel_input(file.audit.input, run.preprocessing)
        if precision == "int8" and not file.audit.integer_only and not choices.allow_float:
            raise QuantizationError(
                f"the int8 model would not be integer: {file.audit.summary()}; "
                "train with --config \"model.tail = 'tanh'\", or accept it as it is with --allow-float"
            )
        if choices.runtime_compat:
            check_known(file.content, precision)


def _manifest(
    run: TrainedRun,
    made: Mapping[Precision, MadeFile],
    calibration: Int8Calibration | None,
    full: MadeFile | None,
    *,
    tuned: bool,
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=run.name,
        edgebcnn_version=__version__,
        architecture=run.architecture("compact").model_dump(mode="json"),
        preprocessing=run.preprocessing,
        models={precision: file.audit.model_file(f"model.{precision}.tflite") for precision, file in made.items()},
        full=None if full is None else full.audit.model_file(FULL_NAME),
        calibration=None if calibration is None else calibration.chosen.record(),
        tools={
            "ai-edge-litert": version("ai-edge-litert"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "tensorflow": tf.__version__,
            **({"tensorflow-model-optimization": version("tensorflow-model-optimization")} if tuned else {}),
            "tf-keras": keras.__version__,
        },
    )


def _files(manifest: Manifest, made: Mapping[Precision, MadeFile], full: MadeFile | None) -> dict[str, bytes]:
    """The bundle's content, without what depends on the held-out photos."""
    files = {manifest.models[precision].file: file.content for precision, file in made.items()}
    files |= {f"report/layers.{name}.png": _picture(file.layers, name) for name, file in made.items() if file.layers}
    return files if full is None else {**files, FULL_NAME: full.content}


def _picture(layers: LayerErrors, precision: Precision) -> bytes:
    title = f"Layer errors of the {precision} model against the float model, {layers.photos} photos"
    png = io.BytesIO()
    # Matplotlib would write its version and the date.
    layers_figure(layers, title=title).savefig(png, dpi=120, format="png", metadata={"Software": None})
    return png.getvalue()


def _judged(
    run: TrainedRun,
    made: Mapping[Precision, MadeFile],
    predictions: HeldOutPredictions,
    scores: ScoreFit,
    choices: ExportChoices,
    reporter: Reporter,
) -> dict[Precision, EdgeModel]:
    """Evaluates each file, from its predictions and those of the full and the compact model on held-out photos."""
    python, labels = choices.old_python, run.dataset.labels
    in_old_runtime = {} if python is None else predict_with_old_runtime(run, made, python=python, reporter=reporter)
    truth = np.array([photo.class_id for photo in run.dataset.held_out], np.int64)
    models = {}
    for precision, file in made.items():
        probabilities = {**predictions.references, "edge": predictions.edges[precision]}
        compact, edge = (probabilities[name].argmax(axis=1) for name in ("compact", "edge"))
        untuned = None
        if file.tuning is not None and predictions.untuned is not None:
            untuned = compare(
                truth, {**predictions.references, "untuned": predictions.untuned, "edge": probabilities["edge"]}, labels
            )
        models[precision] = EdgeModel(
            **vars(file),
            untuned=untuned,
            comparison=compare(truth, probabilities, labels),
            fidelity=fidelity(truth, probabilities, labels, scores=scores.unseen(probabilities)),
            verdict=judge_export(truth, compact, edge, labels=labels, gates=choices.recipe.gates),
            old_runtime=in_old_runtime.get(precision),
        )
    return models


def _report(
    run: TrainedRun,
    models: Mapping[Precision, EdgeModel],
    choices: ExportChoices,
    calibration: CalibrationReport | None,
) -> dict[str, Any]:
    photos = [_name(photo, run) for photo in run.dataset.held_out]
    verdicts = [model.verdict for model in models.values()]
    return {
        "held_out": run.dataset.held_out_name,
        "gate": gate_json(verdicts, choices.recipe.gates, accepted=choices.accept_drop),
        "models": {precision: model.as_json(photos) for precision, model in models.items()},
        "calibration": None if calibration is None else calibration.as_json(),
    }


def _name(photo: Photo, run: TrainedRun) -> str:
    """Its path below the data set: where that lies is no device's business."""
    is_below = photo.path.is_relative_to(run.dataset.origin)
    return str(photo.path.relative_to(run.dataset.origin)) if is_below else photo.path.name


def _page(run: TrainedRun, report: Mapping[str, Any], reporter: Reporter) -> bytes:
    photos = PreparedPhotos(run.dataset.held_out, run.preprocessing)
    with reporter.progress("writing the report", 0):
        return page(report, name=run.name, pictures=lambda position: photos[position : position + 1][0])
