"""Calibrates the scores of a run's models at export, and chooses from which score a product is named.

The temperatures are fitted on val photos, or on test photos where a run has no val. Where the report is made on the
same photos, its calibration error comes from temperatures that were fitted without the photo in question.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Precision, ScoreCalibration
from edgebcnn.model.bcnn import Bcnn
from edgebcnn.model.temperature import cross_fit, fit_temperature, fold_temperature, with_temperature
from edgebcnn.progress import Reporter
from edgebcnn.report.agreement import Proportion
from edgebcnn.train.features import PreparedPhotos
from edgebcnn.train.run_folder import TrainedRun
from edgebcnn.train.steps import predictor

KEPT = 0.95
"""Share of known photos whose product is named; the others score too low, and are unknown with a best guess."""

Probabilities = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class CalibratedScores:
    """One model's temperature, and what the model gives with it.

    Attributes:
        temperature: T, folded into the classifier.
        held_out: `(n, k)` on the held-out photos, with T.
        unseen: `(n,)` for each of them a temperature that was fitted without it.
    """

    temperature: float
    held_out: Probabilities
    unseen: NDArray[np.float64]

    def without_own_photo(self, answers: NDArray[np.floating]) -> Probabilities:
        """The answers `(n, k)` of this model, or of a file made of it, each with the temperature of other photos."""
        return with_temperature(answers, self.unseen / self.temperature)


@dataclass(frozen=True, eq=False)
class ScoreFit:
    """The calibrated scores of one export.

    Attributes:
        full: Of the full model.
        compact: Of the compact model, and of every file that is made of it.
        split: Photos that they were fitted on.
        photos: How many these are.
    """

    full: CalibratedScores
    compact: CalibratedScores
    split: Literal["val", "test"]
    photos: int

    @property
    def references(self) -> dict[str, Probabilities]:
        """Probabilities `(n, k)` of the full and the compact model on the held-out photos, by these names."""
        return {"full": self.full.held_out, "compact": self.compact.held_out}

    def unseen(self, answers: Mapping[str, NDArray[np.floating]]) -> dict[str, Probabilities]:
        """Probabilities from temperatures that the photo in question had no part in.

        Args:
            answers: `(n, k)` of `full`, `compact` and others on the held-out photos.
        """
        return {
            name: (self.full if name == "full" else self.compact).without_own_photo(given)
            for name, given in answers.items()
        }

    def record(self, edges: Mapping[Precision, NDArray[np.floating]]) -> ScoreCalibration:
        """The entry of the bundle's manifest, with the score that `KEPT` of the held-out photos reach.

        Args:
            edges: `(n, k)` of the model files on the held-out photos; the first one's scores count.
        """
        scores = next(iter(edges.values())).max(axis=1)
        min_score = float(np.quantile(scores, 1 - KEPT, method="lower"))
        kept = Proportion(int((scores >= min_score).sum()), len(scores))
        return ScoreCalibration(
            temperature=round(self.compact.temperature, 6),
            full_temperature=round(self.full.temperature, 6),
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
        run: The run.
        full: The full model.
        compact: The compact model, of which the model files are made.
        reporter: Told of the progress.
    """
    dataset = run.dataset
    photos = (*dataset.val, *dataset.test)
    truth = np.array([photo.class_id for photo in photos], np.int64)
    pictures = PreparedPhotos(photos, run.preprocessing)
    fitted, held_out = slice(len(dataset.val) or None), slice(-len(dataset.held_out), None)

    def calibrated(name: str, bcnn: Bcnn) -> CalibratedScores:
        with reporter.progress(f"{name} model on held-out photos", len(photos)) as advance:
            uncalibrated = predictor(bcnn)(pictures, advance)
        temperature = fit_temperature(uncalibrated[fitted], truth[fitted])
        fold_temperature(bcnn, temperature)
        return CalibratedScores(
            temperature,
            with_temperature(uncalibrated[held_out], temperature),
            np.full(len(dataset.test), temperature) if dataset.val and dataset.test else cross_fit(uncalibrated, truth),
        )

    return ScoreFit(
        full=calibrated("full", full),
        compact=calibrated("compact", compact),
        split="val" if dataset.val else "test",
        photos=len(photos[fitted]),
    )
