"""Calibrates the scores of a run's models at export, and chooses from which score a product is named.

The temperatures are fitted on val photos where test photos are there to report on; else on the held-out photos
themselves, and then the report's calibration error comes from temperatures that were fitted without each photo.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision, ScoreCalibration
from edgebcnn.model.bcnn import Bcnn
from edgebcnn.model.temperature import cross_fitted, fit_temperature, fold_temperature
from edgebcnn.progress import Reporter
from edgebcnn.report.agreement import Proportion
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun
from edgebcnn.train.steps import predictor

KEPT = 0.95
"""Share of known photos whose score is high enough to be named: the rest is told as unknown, with the best guess."""


@dataclass(frozen=True, eq=False)
class ScoreFit:
    """The temperatures of one export.

    Attributes:
        full: T of the full model.
        compact: T of the compact model and of every file that is made of it.
        split: Photos that they were fitted on.
        photos: How many.
        truth: `(n,)` class ids of the held-out photos that the report is made on.
        reported_on: Which split these are.
    """

    full: float
    compact: float
    split: Literal["val", "test"]
    photos: int
    truth: NDArray[np.int64]
    reported_on: str

    def unseen(self, answers: Mapping[str, NDArray[np.floating]]) -> Mapping[str, NDArray[np.floating]] | None:
        """Probabilities from temperatures that no photo of the report had a part in.

        Args:
            answers: `(n, k)` of `full`, `compact` and others on the held-out photos.

        Returns:
            The same names; None where the answers are that already.
        """
        if self.split != self.reported_on:
            return None
        return {
            name: cross_fitted(of_model, self.truth, self.full if name == "full" else self.compact)
            for name, of_model in answers.items()
        }

    def record(self, edges: Mapping[Precision, NDArray[np.floating]]) -> ScoreCalibration:
        """What the bundle's manifest says of it, with the score that `KEPT` of the held-out photos reach.

        Args:
            edges: `(n, k)` of the model files on the held-out photos; the first one's scores count.
        """
        scores = next(iter(edges.values())).max(axis=1)
        min_score = float(np.quantile(scores, 1 - KEPT, method="lower"))
        kept = Proportion(int((scores >= min_score).sum()), len(scores))
        return ScoreCalibration(
            temperature=round(self.compact, 4),
            full_temperature=round(self.full, 4),
            split=self.split,
            photos=self.photos,
            min_score=round(min_score, 4),
            kept=round(kept.value, 4),
            kept_low=round(kept.low, 4),
            kept_high=round(kept.high, 4),
            kept_photos=kept.n,
        )


def calibrate_scores(run: TrainedRun, full: Bcnn, compact: Bcnn, reporter: Reporter) -> ScoreFit:
    """Fits a temperature to each of the two models and folds it into the classifier, in place.

    Args:
        run: The run, whose val photos they are fitted on, or its held-out photos where it has no test.
        full: The full model.
        compact: The compact model, of which the model files are made.
        reporter: Told of the progress.
    """
    dataset = run.dataset
    split: Literal["val", "test"] = "val" if dataset.val else "test"
    photos = dataset.val or dataset.test
    truth = np.array([photo.class_id for photo in photos], np.int64)
    pictures = PreparedPhotos(photos, run.preprocessing)

    def calibrated(name: str, bcnn: Bcnn) -> float:
        with reporter.progress(f"calibrating the scores of the {name} model", len(photos)) as advance:
            temperature = fit_temperature(predictor(bcnn)(pictures, advance), truth)
        fold_temperature(bcnn, temperature)
        return temperature

    return ScoreFit(
        full=calibrated("full", full),
        compact=calibrated("compact", compact),
        split=split,
        photos=len(photos),
        truth=np.array([photo.class_id for photo in dataset.held_out], np.int64),
        reported_on=dataset.held_out_name,
    )
