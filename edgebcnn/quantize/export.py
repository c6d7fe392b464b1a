"""How does a trained run become a bundle?

    calibrate ── convert ── audit ── evaluate ── gate ── bundle

The edge model is judged by the code that runs on the device, from a draft of the bundle. The bundle itself is written
last and at once, so that an export that fails, is refused or is stopped leaves what was there before.
"""

from __future__ import annotations

import io
import shutil
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn import __version__
from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import GOLDEN_NAME, SCHEMA_VERSION, Bundle, Manifest, Precision, check_destination, write_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.errors import DataError, QuantizationError
from edgebcnn.model.bcnn import Bcnn, folded
from edgebcnn.model.keras import keras, tf
from edgebcnn.progress import Reporter
from edgebcnn.quantize.audit import Audit, audit
from edgebcnn.quantize.calibrate import Recipe, deal, lot
from edgebcnn.quantize.calibrated import CalibratedModel, calibrated, chosen_photos
from edgebcnn.quantize.convert import check_pixel_input, convert
from edgebcnn.quantize.gate import Gates, Verdict, check_refused_folder, forget_refusal, gate_json, judge, refuse
from edgebcnn.quantize.int8 import QuantizedIo
from edgebcnn.quantize.metadata import with_metadata
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

REPORT_NAME = "report/report.json"
PAGE_NAME = "report/index.html"

GOLDEN_PHOTOS = 48
"""Enough to show a broken delegate, few enough to be replayed in a second."""

_GOLDEN_SEED = 0


@dataclass(frozen=True)
class EdgeModel:
    """One model file of an export.

    Attributes:
        size_bytes: Size of the file.
        audit: What it computes in.
        comparison: Full, compact and edge model (this file) on the held-out photos.
        fidelity: Every figure of the three.
        verdict: What the gate says of what it lost.
    """

    size_bytes: int
    audit: Audit
    comparison: ModelComparison
    fidelity: Fidelity
    verdict: Verdict

    def as_json(self, photos: Sequence[str]) -> dict[str, Any]:
        """Everything, ops by name, and photos by the names given."""
        return {
            "size_bytes": self.size_bytes,
            "ops": [op.name for op in self.audit.ops],
            "float_ops": [op.name for op in self.audit.float_ops],
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
        io: What the int8 file takes and gives.

    Raises:
        QuantizationError: an op cannot be converted, or stays in float and `allow_float` is false.
        GateError: a model file lost too much accuracy; its report lies beside `output`.
        RunError: the run lacks a model.
        DataError: the run has no held-out photo, or a photo is gone or cannot be read any more.
        BundleError: `output` holds something that is not a bundle, or the report's place something else.
        StorageError: the disk is full, or `output` cannot be written.
    """
    output = output.absolute()  # `.` has no name to put a draft or a report beside
    check_destination(output)
    check_refused_folder(output)
    check_writable(output.parent)
    _check_run(run, reporter)
    if "int8" in precisions and not allow_float:
        _check_pooling(run)
    full, compact = run.load("full"), run.load("compact")
    int8 = _calibrated(run, compact, recipe, captured, io, reporter) if "int8" in precisions else None
    contents = _contents(run, compact, precisions, int8, reporter)
    audits = {precision: audit(content) for precision, content in contents.items()}
    if "int8" in audits:
        _check_int8(audits["int8"], run, allow_float=allow_float)
    manifest = _manifest(run, audits, int8)
    files = {manifest.models[precision].file: content for precision, content in contents.items()}
    references = _references(run, {"full": full, "compact": compact}, reporter)
    with _draft(output, manifest, run, files) as draft:
        edges = _edges(run, draft, reporter)
    models = {
        precision: _edge_model(run, recipe.gates, references, edge, contents[precision], audits[precision])
        for precision, edge in edges.items()
    }
    held_out = run.dataset.held_out_name
    verdicts = {precision: model.verdict for precision, model in models.items()}
    calibration = None if int8 is None else int8.report(run.dataset.labels)
    gate = gate_json(verdicts.values(), recipe.gates, accepted=accept_drop)
    report = _report(run, models, gate, calibration)
    files[REPORT_NAME] = json_bytes(report)
    files[PAGE_NAME] = _page(run, report, reporter)
    if not accept_drop:
        refuse(verdicts, output, files=files, photos=held_out)
    files[GOLDEN_NAME] = _golden(run, references, edges)
    bundle = write_bundle(output, manifest, run.dataset.labels, files)
    forget_refusal(output)
    return ExportResult(bundle, held_out, models, calibration, report)


def golden_positions(photos: Sequence[Photo]) -> list[int]:
    """Places of up to `GOLDEN_PHOTOS` photos, ascending: one of each product in turn, the same choice every time."""
    by_product: defaultdict[int, list[int]] = defaultdict(list)
    for position in sorted(range(len(photos)), key=lambda position: lot(_GOLDEN_SEED, position)):
        by_product[photos[position].class_id].append(position)
    products = sorted(by_product, key=lambda class_id: lot(_GOLDEN_SEED, class_id))
    return sorted(deal([by_product[product] for product in products])[:GOLDEN_PHOTOS])


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


def _folded(run: TrainedRun, compact: Bcnn) -> Any:
    return folded(compact, height_px=run.preprocessing.height_px, width_px=run.preprocessing.width_px)


def _calibrated(
    run: TrainedRun, compact: Bcnn, recipe: Recipe, captured: Path | None, io: QuantizedIo, reporter: Reporter
) -> CalibratedModel:
    chosen = chosen_photos(run, recipe, captured=captured, reporter=reporter)
    return calibrated(_folded(run, compact), chosen, preprocessing=run.preprocessing, io=io, reporter=reporter)


def _converted(run: TrainedRun, compact: Bcnn, precision: Precision, reporter: Reporter) -> bytes:
    with reporter.progress(f"converting to {precision}", 0):
        return convert(_folded(run, compact), precision, preprocessing=run.preprocessing)


def _contents(
    run: TrainedRun,
    compact: Bcnn,
    precisions: Sequence[Precision],
    int8: CalibratedModel | None,
    reporter: Reporter,
) -> dict[Precision, bytes]:
    def converted(precision: Precision) -> bytes:
        if int8 is not None and precision == "int8":
            return int8.content
        return _converted(run, compact, precision, reporter)

    return {precision: _described(run, converted(precision)) for precision in precisions}


def _described(run: TrainedRun, content: bytes) -> bytes:
    return with_metadata(content, name=run.name, labels=run.dataset.labels, preprocessing=run.preprocessing)


def _check_int8(found: Audit, run: TrainedRun, *, allow_float: bool) -> None:
    check_pixel_input(found.input, run.preprocessing)
    if not found.integer_only and not allow_float:
        raise QuantizationError(
            f"the int8 model would not be integer: {found.summary()}; "
            "train with --tail tanh, or accept it as it is with --allow-float"
        )


def _manifest(run: TrainedRun, audits: Mapping[Precision, Audit], int8: CalibratedModel | None) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=run.name,
        edgebcnn_version=__version__,
        architecture=run.architecture("compact").model_dump(mode="json"),
        preprocessing=run.preprocessing,
        models={precision: found.model_file(f"model.{precision}.tflite") for precision, found in audits.items()},
        calibration=None if int8 is None else int8.chosen.record(),
        tools={
            "ai-edge-litert": version("ai-edge-litert"),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "tensorflow": tf.__version__,
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


def _edge_model(
    run: TrainedRun,
    gates: Gates,
    references: Mapping[str, NDArray[np.float32]],
    edge: NDArray[np.float32],
    content: bytes,
    audited: Audit,
) -> EdgeModel:
    return EdgeModel(
        size_bytes=len(content),
        audit=audited,
        comparison=_compared(run, references, edge),
        fidelity=fidelity(_truth(run), {**references, "edge": edge}, run.dataset.labels),
        verdict=_judged(run, references["compact"], edge, gates),
    )


def _compared(
    run: TrainedRun, references: Mapping[str, NDArray[np.float32]], edge: NDArray[np.float32]
) -> ModelComparison:
    return compare(_truth(run), {**references, "edge": edge}, run.dataset.labels)


def _judged(run: TrainedRun, compact: NDArray[np.float32], edge: NDArray[np.float32], gates: Gates) -> Verdict:
    return judge(_truth(run), compact.argmax(axis=1), edge.argmax(axis=1), labels=run.dataset.labels, gates=gates)


def _truth(run: TrainedRun) -> NDArray[np.int64]:
    return np.array([photo.class_id for photo in run.dataset.held_out], np.int64)


def _golden(
    run: TrainedRun,
    references: Mapping[str, NDArray[np.float32]],
    edges: Mapping[Precision, NDArray[np.float32]],
) -> bytes:
    """`golden.npz`: up to `GOLDEN_PHOTOS` held-out photos and what each model says of them.

    Arrays: `pixels` `(n, h, w, 3)` uint8 RGB; `class_ids` `(n,)` int64; `full` and `compact` `(n, k)` float32
    probabilities; `edge_int8` `(n, k)` uint8, in 1/256 as the file gives them; `edge_fp16`, `edge_float32` float32.
    """
    chosen = golden_positions(run.dataset.held_out)
    photos = [run.dataset.held_out[position] for position in chosen]
    arrays: dict[str, NDArray[Any]] = {
        "pixels": PreparedPhotos(photos, run.preprocessing)[:],
        "class_ids": np.array([photo.class_id for photo in photos], np.int64),
        **{name: probabilities[chosen] for name, probabilities in references.items()},
        **{f"edge_{precision}": probabilities[chosen] for precision, probabilities in edges.items()},
    }
    if "edge_int8" in arrays:
        arrays["edge_int8"] = np.round(arrays["edge_int8"] * 256).astype(np.uint8)
    archive = io.BytesIO()
    np.savez_compressed(archive, **arrays)  # type: ignore[arg-type]
    return archive.getvalue()


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
