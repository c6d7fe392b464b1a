"""Compares the edge model with the full model on frames that a device sampled.

Inference runs on the sample first, then on the photos that its run held out, which the edge model was evaluated on at
export; where those are gone, the golden photos of the bundle. Answers are saved as they come: an audit that was stopped
goes on, and a sample that has grown is asked about its new frames alone.
"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import write_bytes, write_json
from edgebcnn.bundle import Bundle, Label, Precision, open_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import BundleError, DataError, RunError
from edgebcnn.evaluation.models import OpenedModel, open_model
from edgebcnn.field.answers import Answer, AnswersFile, write_answers
from edgebcnn.field.findings import Findings, Frames, findings, looks
from edgebcnn.field.record import Record, moment
from edgebcnn.field.sample import Sample, open_sample
from edgebcnn.model.temperature import fold_temperature
from edgebcnn.monitor.scene import scene_length_s
from edgebcnn.progress import Advance, Reporter
from edgebcnn.report.page import field_page
from edgebcnn.train.claim import check_writable
from edgebcnn.train.features import PreparedPhotos, chunks, read_ahead
from edgebcnn.train.run_folder import check_photos, open_run, weights_path
from edgebcnn.train.steps import with_embedding
from edgebcnn.untrusted.files import ArrayFile, open_file

REPORT_NAME = "report.json"
PAGE_NAME = "index.html"
SAVE_EVERY_S = 20.0  # what a kill can cost

Answers = Mapping[str, NDArray[Any]]
Ask = Callable[[NDArray[np.uint8]], Answers]


@dataclass(frozen=True)
class FieldAudit:
    """An audit.

    Attributes:
        sample: The sample.
        labels: The products.
        full: Name of the full model.
        reference: Which photos stand for the export, such as `1265 test photos`.
        findings: The findings.
        answers: The predictions for each frame, in the order of the sample.
    """

    sample: Sample
    labels: tuple[Label, ...]
    full: str
    reference: str
    findings: Findings
    answers: tuple[Answer, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything by name, of the answers those on which the models differ, what the full one is surest of first."""
        times = [each.time for each in self.sample.records]
        differ = [each for each in self.answers if not each.agrees]
        differ.sort(key=lambda each: (-each.full_score, each.id))
        return {
            "schema_version": 1,
            "sample": str(self.sample.path),
            "bundle": self.sample.bundle,
            "full": self.full,
            "reference": self.reference,
            "frames": len(self.sample.records),
            "plain_frames": int(self.sample.is_plain.sum()),
            "faces": asdict(self.sample.faces),
            "first": min(times),
            "last": max(times),
            **self.findings.as_json(),
            "disagreements": [each.model_dump(mode="json") for each in differ],
        }


def audit(
    sample_path: Path,
    full_path: Path,
    *,
    bundle_path: Path | None,
    output: Path,
    scene_s: float | None,
    reporter: Reporter,
) -> FieldAudit:
    """Runs the full model on a sample, and writes the report, its page, and every prediction.

    Args:
        sample_path: What `edgebcnn run --sample` kept.
        full_path: The run of the full model.
        bundle_path: The bundle that ran; by default the one in the run.
        output: Folder for `report.json`, `index.html`, `answers.json` and the answers so far.
        scene_s: Frames of one camera, video or slot within so many seconds count as one scene, 0 for none; photos
            never do. None for what suits frames and slots.
        reporter: Receives progress and messages.

    Raises:
        DataError: there is no sample, or it is not whole.
        BundleError: the bundle is not the one that ran, or cannot be used.
        RunError: the run cannot be used, or its full model knows other products than the bundle.
        StorageError: `output` cannot be written.
    """
    sample, bundle = _sample_and_bundle(sample_path, bundle_path or open_run(full_path).path / "bundle")
    full = open_model(full_path, role="full")
    key, ask_full = _key(full, bundle), _asking(full, bundle)
    check_writable(output)
    with reporter.progress("full model on the sample", len(sample.records)) as advance:
        names = [each.id for each in sample.records]
        answers = answered(
            output / "sample.npz", names, lambda rows: sample.pixels(sample.records[rows]), ask_full, key, advance
        )
    field = Frames(
        np.array([each.class_id for each in sample.records], np.int64),
        np.array([each.score for each in sample.records]),
        answers["full"],
        answers["embedding"],
        answers["looks"],
    )
    export, reference = _export(full, bundle, sample.records[-1].precision, ask_full, output, key, reporter)
    found = findings(
        field,
        export,
        kept_with=sample.kept_with,
        is_plain=sample.is_plain,
        scenes=scenes_of(sample.records, scene_s),
        names=[label.name for label in bundle.labels],
    )
    result = FieldAudit(
        sample, bundle.labels, full.name, reference, found, _answers_of(sample.records, field, bundle.labels)
    )
    _write(result, output, name=bundle.manifest.name)
    return result


def _sample_and_bundle(sample_path: Path, bundle_path: Path) -> tuple[Sample, Bundle]:
    sample, bundle = open_sample(sample_path), open_bundle(bundle_path)
    if bundle.digest != sample.bundle:
        raise BundleError(
            f"{sample_path} was kept by bundle {sample.bundle[:16]}, and {bundle.given} is {bundle.digest[:16]}: "
            "give the one that ran with --bundle"
        )
    return sample, bundle


def _asking(full: OpenedModel, bundle: Bundle) -> Ask:
    """Runs the full model, its scores calibrated as at export, on frames as the edge model sees them."""
    assert full.bcnn is not None
    columns, scores = _columns(full, bundle), bundle.manifest.scores
    if scores:
        fold_temperature(full.bcnn, scores.full_temperature)
    ask = with_embedding(full.bcnn)

    def ask_full(pixels: NDArray[np.uint8]) -> Answers:
        own = np.stack([full.preprocessing.apply(picture[..., ::-1]) for picture in pixels])
        probabilities, embedding = ask(own)
        return {"full": probabilities[:, columns], "embedding": embedding, "looks": looks(pixels)}

    return ask_full


def _answers_of(records: Sequence[Record], field: Frames, labels: Sequence[Label]) -> tuple[Answer, ...]:
    ordered = np.sort(field.full, axis=1)
    sure, margins = ordered[:, -1].tolist(), (ordered[:, -1] - ordered[:, -2]).tolist()
    return tuple(
        Answer(
            id=record.id,
            edge=labels[record.class_id].name,
            edge_score=record.score,
            full=labels[product].name,
            full_score=full_score,
            full_margin=margin,
            time=record.time,
            source=record.source,
            photo=record.photo,
            truth=record.truth,
            shelf=record.shelf,
            slot=record.slot,
        )
        for record, product, full_score, margin in zip(records, field.product.tolist(), sure, margins, strict=True)
    )


def _write(result: FieldAudit, output: Path, *, name: str) -> None:
    """The report last: where it is, the others belong to it."""
    report = result.as_json()
    names = tuple(label.name for label in result.labels)
    write_answers(output, AnswersFile(bundle=result.sample.bundle, labels=names, answers=result.answers))
    records = {each.id: each for each in result.sample.records}
    page = field_page(report, name=name, pictures=lambda frame: result.sample.pixels([records[frame]])[0])
    write_bytes(output / PAGE_NAME, page)
    write_json(output / REPORT_NAME, report)


def _columns(full: OpenedModel, bundle: Bundle) -> list[int]:
    """Where the full model keeps each product of the bundle."""
    place = {label.name: column for column, label in enumerate(full.labels)}
    names = _names(bundle.labels)
    if not names & place.keys():
        raise RunError(f"{full.name} and {bundle.given} have no product in common: give the run of that bundle")
    if strangers := sorted(names ^ place.keys()):
        raise RunError(
            f"{full.name} and {bundle.given} differ in {len(strangers)} products, such as {strangers[0]!r}: "
            "give the run that the bundle was exported from"
        )
    return [place[label.name] for label in bundle.labels]


def _names(labels: Sequence[Label]) -> set[str]:
    return {label.name for label in labels}


def _key(full: OpenedModel, bundle: Bundle) -> str:
    """Changes with anything that changes a prediction."""
    assert full.run is not None
    weights = hashlib.sha256(weights_path(full.run.path, "full").read_bytes()).hexdigest()
    return f"with embedding {weights} {full.preprocessing.model_dump_json()} {bundle.digest}"


def _export(
    full: OpenedModel,
    bundle: Bundle,
    precision: Precision,
    ask_full: Ask,
    output: Path,
    key: str,
    reporter: Reporter,
) -> tuple[Frames, str]:
    assert full.run is not None
    photos = full.run.dataset.held_out
    try:
        check_photos(full.run.path, full.run.dataset)
    except DataError as error:
        photos = ()
        reporter.say(f"{error}. The bundle's golden photos take their place")
    if not photos:
        return _golden(bundle, precision, ask_full)
    classifier = Classifier.from_bundle(bundle, precision=precision)

    def ask_both(pixels: NDArray[np.uint8]) -> Answers:
        return {**ask_full(pixels), "edge": classifier.probabilities(pixels)}

    described = f"{full.run.dataset.held_out_name} photos"
    pictures = PreparedPhotos(photos, bundle.manifest.preprocessing)
    with reporter.progress(f"both models on {described}", len(photos)) as advance:
        names = [str(photo.path) for photo in photos]
        path = output / "export.npz"
        answers = answered(path, names, pictures.__getitem__, ask_both, f"{key} {precision}", advance)
    return _frames(answers), f"{len(photos)} {described}"


def _golden(bundle: Bundle, precision: Precision, ask_full: Ask) -> tuple[Frames, str]:
    golden = read_golden(bundle, precision)
    typical = ~golden.hard
    answers: Answers = {**ask_full(golden.pixels[typical]), "edge": golden.edge[typical]}
    return _frames(answers), f"{typical.sum()} golden photos"


def _frames(answers: Answers) -> Frames:
    edge = answers["edge"]
    scores = edge.max(axis=1).astype(np.float64)
    return Frames(edge.argmax(axis=1), scores, answers["full"], answers["embedding"], answers["looks"])


def answered(
    path: Path,
    names: Sequence[str],
    read: Callable[[slice], NDArray[np.uint8]],
    ask: Ask,
    key: str,
    advance: Advance,
) -> Answers:
    """Predictions for every image, in order; those saved in `path` are not computed again.

    Args:
        path: File that predictions are saved to, every `SAVE_EVERY_S`.
        names: Unique name of each image.
        read: Reads the images of some rows, `(n, h, w, 3)` uint8 RGB.
        ask: Returns their predictions by name, each with n rows.
        key: Predictions saved under another key are discarded.
        advance: Told how many are done.
    """
    known = _saved(path, key)
    asked = [row for row, name in enumerate(names) if name not in known]
    advance(len(names) - len(asked))
    saved_s = time.monotonic()
    try:
        batches = [asked[rows] for rows in chunks(len(asked))]
        for rows, pixels in zip(batches, read_ahead(lambda rows: _read(read, rows), batches), strict=True):
            for field, values in ask(pixels).items():
                for row, value in zip(rows, values, strict=True):
                    known.setdefault(names[row], {})[field] = value
            advance(len(rows))
            if time.monotonic() - saved_s > SAVE_EVERY_S:
                _save(path, key, known)
                saved_s = time.monotonic()
    finally:
        if asked:
            _save(path, key, known)
    return {field: np.stack([known[name][field] for name in names]) for field in known[names[0]]}


def _read(read: Callable[[slice], NDArray[np.uint8]], rows: Sequence[int]) -> NDArray[np.uint8]:
    return np.concatenate([read(slice(row, row + 1)) for row in rows])


def _saved(path: Path, key: str) -> dict[str, dict[str, NDArray[Any]]]:
    """Predictions of an earlier audit; none where it ran another model, or the file is damaged."""
    try:
        with open_file(path) as file:
            saved = ArrayFile(file, max_bytes=path.stat().st_size)  # its arrays are not compressed
            arrays = {name: saved.read(name) for name in saved.names}
    except (OSError, ValueError):
        return {}
    if str(arrays.pop("key", None)) != key:
        return {}
    names = arrays.pop("names").tolist()
    return {name: {field: values[row] for field, values in arrays.items()} for row, name in enumerate(names)}


def _save(path: Path, key: str, known: Mapping[str, Mapping[str, NDArray[Any]]]) -> None:
    if not known:
        return
    content = io.BytesIO()
    fields = next(iter(known.values()))
    arrays = {field: np.stack([answer[field] for answer in known.values()]) for field in fields}
    np.savez(content, key=np.array(key), names=np.array(list(known)), **arrays)  # type: ignore[arg-type]
    write_bytes(path, content.getvalue())


def scenes_of(records: Sequence[Record], scene_s: float | None) -> NDArray[np.int64]:
    """`(n,)` a number for each scene: a photo, or what was seen of one source or slot within so many seconds.

    Args:
        records: Of the frames.
        scene_s: How many; 0 for as many scenes as frames, None for what suits frames and slots.
    """
    scenes: dict[tuple[object, ...], int] = {}

    def scene(record: Record) -> tuple[object, ...]:
        length_s = scene_length_s(scene_s, is_slot=record.slot is not None)
        if record.photo is not None or not length_s:
            return (record.id,)
        time_s = moment(record.time).timestamp()
        return record.source, record.shelf, record.slot, int(time_s // length_s)

    return np.array([scenes.setdefault(scene(each), len(scenes)) for each in records], np.int64)
