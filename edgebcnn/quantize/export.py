"""How does a trained run become a bundle?

    calibrate ── convert ── audit ── evaluate ── gate ── bundle

The edge model is judged by the code that runs on the device, from a draft of the bundle. The bundle itself is written
last and at once, so that an export that fails, is refused or is stopped leaves what was there before.
"""

from __future__ import annotations

import io as io_module
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

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
    ModelFile,
    Precision,
    check_destination,
    write_bundle,
)
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import DataError, QuantizationError
from edgebcnn.model.bcnn import Bcnn
from edgebcnn.model.keras import keras, tf
from edgebcnn.progress import Reporter
from edgebcnn.quantize.audit import Audit, audit
from edgebcnn.quantize.calibrate import Recipe
from edgebcnn.quantize.calibrated import CalibratedModel
from edgebcnn.quantize.convert import check_pixel_input
from edgebcnn.quantize.full_file import check_full_file, full_file
from edgebcnn.quantize.gate import Gates, Verdict, check_refused_folder, forget_refusal, gate_json, judge, refuse
from edgebcnn.quantize.golden import golden_archive
from edgebcnn.quantize.int8 import QuantizedIo
from edgebcnn.quantize.layers import LayerErrors
from edgebcnn.quantize.layers_figure import layers_figure
from edgebcnn.quantize.metadata import with_metadata
from edgebcnn.quantize.mixed import Mixed
from edgebcnn.quantize.model_files import CALIBRATED, MadeFile, Maker
from edgebcnn.quantize.old_runtime import OLD_RUNTIME, OldRuntimeResult, check_known, compared
from edgebcnn.quantize.qat import FineTuning, Tuning
from edgebcnn.report.calibration import CalibrationReport
from edgebcnn.report.comparison import ModelComparison, compare
from edgebcnn.report.fidelity import Fidelity, fidelity
from edgebcnn.report.page import page
from edgebcnn.report.render import comparison_json
from edgebcnn.train.claim import check_writable
from edgebcnn.train.dataset import Photo
from edgebcnn.train.features import PreparedPhotos, chunks, read_ahead
from edgebcnn.train.run_folder import TrainedRun, check_photos, resume_command
from edgebcnn.train.steps import predict

MAX_COMPARED = 256
"""Held-out photos that the old runtime is asked about: its int8 is twenty times as slow."""


@dataclass(frozen=True)
class EdgeModel:
    """One model file of an export.

    Attributes:
        size_bytes: Size of the file.
        audit: What it computes in.
        layers: What its layers lose; None for files in float.
        mixed: Which layers of a `mixed` file are in float.
        tuning: How it was fine-tuned; None where it was not.
        untuned: Full, compact, the int8 model before fine-tuning (`untuned`) and edge model; None where it was not.
        comparison: Full, compact and edge model (this file) on the held-out photos.
        fidelity: Every figure of the three.
        verdict: What the gate says of what it lost.
        old_runtime: What tflite-runtime 2.14 says of the photos; None where it was not asked.
    """

    size_bytes: int
    audit: Audit
    layers: LayerErrors | None
    mixed: Mixed | None
    tuning: Tuning | None
    untuned: ModelComparison | None
    comparison: ModelComparison
    fidelity: Fidelity
    verdict: Verdict
    old_runtime: OldRuntimeResult | None

    def as_json(self, photos: Sequence[str]) -> dict[str, Any]:
        """Everything, ops by name, and photos by the names given."""
        return {
            "size_bytes": self.size_bytes,
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
        report: What the bundle's report says.
    """

    bundle: Bundle
    held_out: str
    models: Mapping[Precision, EdgeModel]
    calibration: CalibrationReport | None
    report: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        """What the bundle's report says, and which bundle that is."""
        return {"bundle": str(self.bundle.path), "digest": self.bundle.digest, **self.report}


def export(
    run: TrainedRun,
    output: Path,
    *,
    precisions: Sequence[Precision],
    recipe: Recipe,
    allow_float: bool,
    accept_drop: bool = False,
    captured: Path | None = None,
    reporter: Reporter,
    io: QuantizedIo = "uint8",
    qat_epochs: int = 0,
    runtime_compat: bool = False,
    old_python: Path | None = None,
    with_full: bool = False,
) -> ExportResult:
    """Turns a run's compact model into a bundle, and measures what that cost.

    Args:
        run: A run with a full and a compact model.
        output: Folder of the bundle; a bundle that is there is replaced.
        precisions: Model files to make.
        recipe: How calibration photos and ranges for int8 are chosen, and what a model file may lose.
        allow_float: Accept an int8 file that keeps ops in float.
        accept_drop: Write the bundle even if the gate refuses; its report says that it did.
        captured: Folder of photos to calibrate on in place of training photos.
        reporter: Who is told.
        io: What int8 and mixed files take and give.
        qat_epochs: How long int8 and mixed files are fine-tuned after calibration; 0 leaves them as calibrated.
        runtime_compat: Make files that tflite-runtime 2.14 runs, or none.
        old_python: The Python of an environment with tflite-runtime 2.14, to be asked about held-out photos.
        with_full: Put the full model into the bundle as well, in float, for `run --shadow`.

    Raises:
        QuantizationError: an op cannot be converted, stays in float and `allow_float` is false, or is unknown to
            tflite-runtime 2.14 and `runtime_compat` is true.
        DeviceError: `old_python` cannot run a model file.
        GateError: a model file lost too much accuracy; its report lies beside `output`.
        RunError: the run lacks a model.
        TrainingError: fine-tuning ends in weights that are no numbers.
        DataError: the run has no held-out photo, none to learn from, or a photo is gone or cannot be read any more.
        BundleError: `output` holds something that is not a bundle, or the report's place something else.
        StorageError: the disk is full, or `output` cannot be written.
    """
    output = output.absolute()  # `.` has no name to put a draft or a report beside
    check_destination(output)
    check_refused_folder(output)
    check_writable(output.parent)
    _check_run(run, reporter)
    if not CALIBRATED.isdisjoint(precisions) and not allow_float:
        _check_pooling(run)
    full, compact = run.load("full"), run.load("compact")
    maker = Maker(
        run,
        compact,
        precisions,
        recipe=recipe,
        captured=captured,
        io=io,
        runtime_compat=runtime_compat,
        fine_tuning=FineTuning(run, full, epochs=qat_epochs) if qat_epochs else None,
        reporter=reporter,
    )
    made = maker.make()
    contents = {precision: _described(run, each.content) for precision, each in made.items()}
    audits = {precision: audit(content) for precision, content in contents.items()}
    _check(contents, audits, run, allow_float=allow_float, runtime_compat=runtime_compat)
    int8 = maker.calibrated
    beside = full_file(run, full, runtime_compat=runtime_compat, reporter=reporter) if with_full else None
    full_model = audit(beside).model_file(FULL_NAME) if beside else None
    manifest = _manifest(run, audits, int8, full_model, tuned=bool(qat_epochs))
    files = {manifest.models[precision].file: content for precision, content in contents.items()}
    files |= {f"report/layers.{name}.png": _picture(each.layers, name) for name, each in made.items() if each.layers}
    files |= {FULL_NAME: beside} if beside else {}
    references = _references(run, {"full": full, "compact": compact}, reporter)
    with _draft(output, manifest, run, files) as draft:
        edges = _edges(run, draft, reporter)
        if beside:
            check_full_file(run, draft, references["full"], reporter)
    untuned = None if maker.untuned is None else _untuned(run, maker.untuned, manifest, output, reporter)
    models = _edge_models(run, made, contents, audits, references, edges, untuned=untuned, gates=recipe.gates)
    if old_python is not None:
        models = _asked_in_old_runtime(run, models, contents, old_python, reporter)
    held_out = run.dataset.held_out_name
    verdicts = {precision: model.verdict for precision, model in models.items()}
    calibration = None if int8 is None else int8.report(run.dataset.labels)
    gate = gate_json(verdicts.values(), recipe.gates, accepted=accept_drop)
    report = _report(run, models, gate, calibration)
    files[REPORT_NAME] = json_bytes(report)
    files[PAGE_NAME] = _page(run, report, reporter)
    if not accept_drop:
        refuse(verdicts, output, files=files, photos=held_out)
    files[GOLDEN_NAME] = golden_archive(run, manifest.models, references, edges)
    bundle = write_bundle(output, manifest, run.dataset.labels, files)
    forget_refusal(output)
    return ExportResult(bundle, held_out, models, calibration, report)


def _edge_models(
    run: TrainedRun,
    made: Mapping[Precision, MadeFile],
    contents: Mapping[Precision, bytes],
    audits: Mapping[Precision, Audit],
    references: Mapping[str, NDArray[np.float32]],
    edges: Mapping[Precision, NDArray[np.float32]],
    *,
    untuned: NDArray[np.float32] | None,
    gates: Gates,
) -> dict[Precision, EdgeModel]:
    """All that is known of each file, from the probabilities of the full, compact and edge model.

    Where a file was fine-tuned, the int8 model before that stands beside them.
    """
    truth, labels, compact = _truth(run), run.dataset.labels, references["compact"].argmax(axis=1)
    models = {}
    for precision, each in made.items():
        edge = {"edge": edges[precision]}
        answers = {**references, **edge}
        before = None if each.tuning is None or untuned is None else {**references, "untuned": untuned, **edge}
        models[precision] = EdgeModel(
            size_bytes=len(contents[precision]),
            audit=audits[precision],
            layers=each.layers,
            mixed=each.mixed,
            tuning=each.tuning,
            untuned=None if before is None else compare(truth, before, labels),
            comparison=compare(truth, answers, labels),
            fidelity=fidelity(truth, answers, labels),
            verdict=judge(truth, compact, edges[precision].argmax(axis=1), labels=labels, gates=gates),
            old_runtime=None,
        )
    return models


def _check_run(run: TrainedRun, reporter: Reporter) -> None:
    if not run.dataset.held_out:
        raise DataError(f"{run.path} has neither test nor val photos to judge the export by: train with some held out")
    check_photos(run.path, run.dataset)
    if run.state != "finished":
        reporter.say(f"{run.path} is not finished, this is what it has reached; go on with {resume_command(run.path)}")


def _check_pooling(run: TrainedRun) -> None:
    if run.config.pooling == "tensor_sketch":
        raise QuantizationError(
            "tensor_sketch pooling has no int8 form, because no TFLite runtime computes its FFT in integers: export it "
            "with --fp16, or train with --pooling maclaurin, which sketches the same and is all integer"
        )


def _described(run: TrainedRun, content: bytes) -> bytes:
    return with_metadata(content, name=run.name, labels=run.dataset.labels, preprocessing=run.preprocessing)


def _check(
    contents: Mapping[Precision, bytes],
    audits: Mapping[Precision, Audit],
    run: TrainedRun,
    *,
    allow_float: bool,
    runtime_compat: bool,
) -> None:
    for precision, found in audits.items():
        if precision in ("int8", "mixed"):
            check_pixel_input(found.input, run.preprocessing)
        if precision == "int8" and not found.integer_only and not allow_float:
            raise QuantizationError(
                f"the int8 model would not be integer: {found.summary()}; "
                "train with --tail tanh, or accept it as it is with --allow-float"
            )
        if runtime_compat:
            check_known(contents[precision], precision)


def _picture(layers: LayerErrors, precision: Precision) -> bytes:
    title = f"Layers of the {precision} model beside those of the float model, {layers.photos} photos"
    picture = io_module.BytesIO()
    # Matplotlib would write its version and the date.
    layers_figure(layers, title=title).savefig(picture, dpi=120, format="png", metadata={"Software": None})
    return picture.getvalue()


def _manifest(
    run: TrainedRun,
    audits: Mapping[Precision, Audit],
    int8: CalibratedModel | None,
    full: ModelFile | None,
    *,
    tuned: bool,
) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=run.name,
        edgebcnn_version=__version__,
        architecture=run.architecture("compact").model_dump(mode="json"),
        preprocessing=run.preprocessing,
        models={precision: found.model_file(f"model.{precision}.tflite") for precision, found in audits.items()},
        full=full,
        calibration=None if int8 is None else int8.chosen.record(),
        tools={
            "ai-edge-litert": version("ai-edge-litert"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "tensorflow": tf.__version__,
            **({"tensorflow-model-optimization": version("tensorflow-model-optimization")} if tuned else {}),
            "tf-keras": keras.__version__,
        },
    )


def _references(run: TrainedRun, models: Mapping[str, Bcnn], reporter: Reporter) -> dict[str, NDArray[np.float32]]:
    """Probabilities of each Keras model on the held-out photos, `(n, k)`."""
    photos = PreparedPhotos(run.dataset.held_out, run.preprocessing)
    probabilities = {}
    for name, bcnn in models.items():
        with reporter.progress(f"{name} model on {run.dataset.held_out_name} photos", len(photos)) as advance:
            probabilities[name] = predict(bcnn, photos, advance)
    return probabilities


@contextmanager
def _draft(output: Path, manifest: Manifest, run: TrainedRun, files: Mapping[str, bytes]) -> Iterator[Bundle]:
    """A bundle of the model files alone, beside where the whole one will be, for the time of the block."""
    path = output.with_name(f".{output.name}.draft")
    try:
        yield write_bundle(path, manifest, run.dataset.labels, files)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _edges(run: TrainedRun, draft: Bundle, reporter: Reporter) -> dict[Precision, NDArray[np.float32]]:
    """Probabilities of each model file on the held-out photos, `(n, k)`, from the device's own classifier."""
    photos = PreparedPhotos(run.dataset.held_out, run.preprocessing)
    probabilities = {}
    for precision in draft.manifest.models:
        classifier = Classifier.from_bundle(draft, precision=precision)
        with reporter.progress(f"{precision} model on {run.dataset.held_out_name} photos", len(photos)) as advance:
            batches = []
            for pixels in read_ahead(photos.__getitem__, chunks(len(photos))):
                batches.append(classifier.probabilities(pixels))
                advance(len(pixels))
        probabilities[precision] = np.concatenate(batches)
    return probabilities


def _untuned(
    run: TrainedRun, content: bytes, manifest: Manifest, output: Path, reporter: Reporter
) -> NDArray[np.float32]:
    """Probabilities of the int8 model before fine-tuning, as those of the others."""
    content = _described(run, content)
    models = {"int8": audit(content).model_file("model.int8.tflite")}
    alone = manifest.model_copy(update={"models": models, "full": None})
    with _draft(output, alone, run, {"model.int8.tflite": content}) as draft:
        reporter.say("and the int8 model as it was before fine-tuning:")
        return _edges(run, draft, reporter)["int8"]


def _asked_in_old_runtime(
    run: TrainedRun,
    models: Mapping[Precision, EdgeModel],
    contents: Mapping[Precision, bytes],
    python: Path,
    reporter: Reporter,
) -> dict[Precision, EdgeModel]:
    """The same, with what the old runtime says of some held-out photos."""
    held_out = run.dataset.held_out
    photos = held_out[:: -(-len(held_out) // MAX_COMPARED)]
    pixels = PreparedPhotos(photos, run.preprocessing)[:]
    asked = {}
    for precision, model in models.items():
        with reporter.progress(f"{precision} model in {OLD_RUNTIME}", len(photos)) as advance:
            result = compared(
                contents[precision], pixels, preprocessing=run.preprocessing, python=python, advance=advance
            )
        asked[precision] = replace(model, old_runtime=result)
    return asked


def _truth(run: TrainedRun) -> NDArray[np.int64]:
    return np.array([photo.class_id for photo in run.dataset.held_out], np.int64)


def _report(
    run: TrainedRun,
    models: Mapping[Precision, EdgeModel],
    gate: Mapping[str, Any],
    calibration: CalibrationReport | None,
) -> dict[str, Any]:
    photos = [_name(photo, run) for photo in run.dataset.held_out]
    return {
        "held_out": run.dataset.held_out_name,
        "gate": gate,
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
