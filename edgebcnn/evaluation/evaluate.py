"""Evaluates a full, compact or edge model on labelled photos, and compares two models on the same photos."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_fscore_support

from edgebcnn.atomic import json_bytes, replacing_folder, storage_errors
from edgebcnn.bundle import Label
from edgebcnn.errors import DataError, RunError, StorageError
from edgebcnn.evaluation.contact_sheet import COLUMNS, MAX_ROWS, draw_contact_sheet
from edgebcnn.evaluation.labelled import (
    LabelledPhotos,
    Split,
    check_that_products_are_known,
    note_on_training_photos,
    of_folder,
    of_run,
)
from edgebcnn.evaluation.models import OpenedModel
from edgebcnn.images.dataset import Photo
from edgebcnn.preprocessing import Preprocessing, read_photo
from edgebcnn.printable import spreadsheet_cell
from edgebcnn.progress import Reporter
from edgebcnn.report.comparison import ModelComparison, compare
from edgebcnn.report.evaluation import Averages, Evaluation, score_predictions
from edgebcnn.report.render import comparison_json, evaluation_json

REPORT_NAME = "report.json"
WRONG_NAME = "wrong.csv"
SHEET_NAME = "wrong.png"

_ABSENT = -1.0  # below any probability: the product is never named


@dataclass(frozen=True)
class EvaluationResult:
    """One model on labelled photos, and a comparison with another one where requested.

    Attributes:
        model: Name of the model.
        source: Where the photos are from.
        photos: The photos, in the order of the rows that `figures.wrong` counts by.
        figures: All figures but the averages.
        macro: Averages in which every product with photos weighs the same.
        weighted: Averages in which every photo weighs the same.
        comparison: The other model (first, as the reference) and this one; None where there is no other.
    """

    model: str
    source: str
    photos: tuple[Photo, ...]
    figures: Evaluation
    macro: Averages
    weighted: Averages
    comparison: ModelComparison | None

    def as_json(self) -> dict[str, Any]:
        """Everything."""
        document = {
            "model": self.model,
            "photos": self.source,
            **evaluation_json(self.figures),
            "macro": asdict(self.macro),
            "weighted": asdict(self.weighted),
            "wrong": self.wrong_rows(),
        }
        return document if self.comparison is None else {**document, "against": comparison_json(self.comparison)}

    def wrong_rows(self) -> list[dict[str, Any]]:
        """Every wrong prediction, highest confidence first: the photo's path, both names, and the scores of both."""
        return [
            {
                "photo": str(self.photos[answer.position].path),
                "true": answer.truth,
                "predicted": answer.predicted,
                "score": round(answer.score, 4),
                "true_score": round(answer.true_score, 4),
            }
            for answer in self.figures.wrong
        ]


def evaluate(
    model: OpenedModel,
    *,
    data: Path | None = None,
    split: Split | None = None,
    against: OpenedModel | None = None,
    output: Path | None = None,
    allow_unreadable: bool = False,
    reporter: Reporter,
) -> EvaluationResult:
    """Evaluates a model on labelled photos.

    Args:
        model: The model.
        data: Folder of labelled photos; by default the photos of the run that the model belongs to.
        split: Which photos of `data` or the run; by default those that were held out.
        against: Another model, to compare on the same photos.
        output: Folder for `report.json`, `wrong.csv` and, where photos are wrong, a contact sheet of the worst as
            `wrong.png`; the files of an earlier evaluation are replaced together.
        allow_unreadable: Skip unreadable photos of `data` however many there are.
        reporter: Receives progress and messages.

    Raises:
        DataError: the photos cannot be used, a model does not know their products, or no photos were named.
        RunError: `against` is the model itself.
        StorageError: `output` holds something else, the disk is full, or it cannot be written.
    """
    models = _distinct(model, against)
    if output is not None:
        _check_destination(output)
    labelled = _labelled(model, data, split, allow_unreadable=allow_unreadable, reporter=reporter)
    names = [model.labels[photo.class_id].name for photo in labelled.photos]
    for opened in models:
        check_that_products_are_known(names, opened.labels, where=labelled.source, model=opened.name)
    for sentence in (*labelled.notes, *_notes_on_training(models, labelled.photos)):
        reporter.say(sentence)
    truth = np.array([photo.class_id for photo in labelled.photos], np.int64)
    probabilities = {opened.name: _predicted(opened, labelled, reporter) for opened in models}
    comparison = None if against is None else _compared(truth, model, against, probabilities)
    own = probabilities[model.name]
    result = EvaluationResult(
        model.name,
        labelled.source,
        labelled.photos,
        figures=score_predictions(own, truth, model.labels),
        macro=averages(own.argmax(axis=1), truth, kind="macro"),
        weighted=averages(own.argmax(axis=1), truth, kind="weighted"),
        comparison=comparison,
    )
    if output is not None:
        _write(result, output, model.preprocessing)
    return result


def averages(
    predicted: NDArray[np.integer], truth: NDArray[np.integer], *, kind: Literal["macro", "weighted"]
) -> Averages:
    """Precision, recall and F1 (scikit-learn's), averaged over the products that have photos here.

    Of any other product there is no recall; naming it still lowers the recall of the one that was shown. A product that
    is never named has precision and F1 of 0.

    Args:
        predicted: `(n,)` integer class ids.
        truth: `(n,)` integer class ids.
        kind: `macro` gives every product the same weight, `weighted` every photo.
    """
    of_kind = precision_recall_fscore_support(truth, predicted, labels=np.unique(truth), average=kind, zero_division=0)
    return Averages(*map(float, of_kind[:3]))


def _distinct(model: OpenedModel, against: OpenedModel | None) -> list[OpenedModel]:
    if against is None:
        return [model]
    if against.name == model.name:
        raise RunError(f"{model.name} would be compared with itself: name another model, role or precision")
    return [model, against]


def _check_destination(output: Path) -> None:
    """An evaluation may be written where there is nothing, an empty folder, or an evaluation."""
    with storage_errors(output):
        held = {entry.name for entry in output.iterdir()} if output.is_dir() else set()
    is_evaluation = {REPORT_NAME, WRONG_NAME} <= held <= {REPORT_NAME, WRONG_NAME, SHEET_NAME}
    if (held and not is_evaluation) or (output.exists() and not output.is_dir()):
        raise StorageError(f"{output} exists and is not an evaluation: choose another --output or remove it")


def _labelled(
    model: OpenedModel, data: Path | None, split: Split | None, *, allow_unreadable: bool, reporter: Reporter
) -> LabelledPhotos:
    if data is not None:
        return of_folder(data, model.labels, split=split, allow_unreadable=allow_unreadable, reporter=reporter)
    if model.run is None:
        raise DataError(f"{model.name} does not lie in the run that it was made from: name photos with --data")
    return of_run(model.run, split)


def _notes_on_training(models: Sequence[OpenedModel], photos: Sequence[Photo]) -> list[str]:
    runs = {model.run.path: model.run for model in models if model.run is not None}
    notes = (note_on_training_photos(photos, run) for run in runs.values())
    return [note for note in notes if note is not None]


def _predicted(model: OpenedModel, labelled: LabelledPhotos, reporter: Reporter) -> NDArray[np.float32]:
    with reporter.progress(model.name, len(labelled.photos)) as advance:
        return model.probabilities(labelled.photos, advance)


def _compared(
    truth: NDArray[np.integer],
    model: OpenedModel,
    against: OpenedModel,
    probabilities: dict[str, NDArray[np.float32]],
) -> ModelComparison:
    """Both models over the products that either knows, this model's first, so that `truth` holds as it is."""
    own = {label.name for label in model.labels}
    labels = (*model.labels, *(label for label in against.labels if label.name not in own))
    spread = {opened.name: _spread(probabilities[opened.name], opened.labels, labels) for opened in (against, model)}
    return compare(truth, spread, labels)


def _spread(probabilities: NDArray[np.float32], labels: Sequence[Label], over: Sequence[Label]) -> NDArray[np.float32]:
    columns = {label.name: column for column, label in enumerate(over)}
    wide = np.full((len(probabilities), len(over)), _ABSENT, np.float32)
    wide[:, [columns[label.name] for label in labels]] = probabilities
    return wide


def _write(result: EvaluationResult, output: Path, preprocessing: Preprocessing) -> None:
    with replacing_folder(output) as part:
        (part / REPORT_NAME).write_bytes(json_bytes(result.as_json()))
        (part / WRONG_NAME).write_text(_csv(result.wrong_rows()), encoding="utf-8")
        _draw_worst(result, part / SHEET_NAME, preprocessing)


def _draw_worst(result: EvaluationResult, path: Path, preprocessing: Preprocessing) -> None:
    worst = result.figures.wrong[: COLUMNS * MAX_ROWS]
    if not worst:
        return
    pictures = [preprocessing.apply(read_photo(result.photos[answer.position].path)) for answer in worst]
    shown = f"{len(worst)} of {len(result.figures.wrong)} wrong photos, highest confidence first"
    draw_contact_sheet(path, pictures, worst, title=f"{result.model} on {result.source}: {shown}")


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, ("photo", "true", "predicted", "score", "true_score"), lineterminator="\n")
    table.writeheader()
    table.writerows(
        {name: spreadsheet_cell(cell) if isinstance(cell, str) else cell for name, cell in row.items()} for row in rows
    )
    return text.getvalue()
