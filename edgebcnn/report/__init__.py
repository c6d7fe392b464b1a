"""Statistics with their intervals, and the pages that show them.

`from edgebcnn.report import agreement, accuracy, weighted_share, confidence_sequence, drift, …`: every statistic takes
NumPy arrays or counts, and returns a value with its number of photos and a 95 % interval. They need only NumPy and the
standard library, so that a device can compute them; pages and charts (`page`) need the `train` extra.
"""

from edgebcnn.report.agreement import (
    AccuracyDrop,
    McNemar,
    Proportion,
    accuracy,
    agreement,
    difference_interval,
    mcnemar_exact,
    paired_interval,
    share_interval,
    top_k_accuracy,
    wilson_interval,
)
from edgebcnn.report.comparison import ModelComparison, compare
from edgebcnn.report.drift import Drift, benjamini_hochberg, drift, drift_by_product, holm
from edgebcnn.report.evaluation import Evaluation, expected_calibration_error, score_predictions
from edgebcnn.report.fidelity import Fidelity, calibration_error, fidelity
from edgebcnn.report.sequential import AgreementAlarm, confidence_sequence
from edgebcnn.report.weighted import WeightedShare, weighted_share, weighted_shares

# `agreement` and `drift` are the functions; the modules of the same names stay importable by `from … import …`.
__all__ = [
    "AccuracyDrop",
    "AgreementAlarm",
    "Drift",
    "Evaluation",
    "Fidelity",
    "McNemar",
    "ModelComparison",
    "Proportion",
    "WeightedShare",
    "accuracy",
    "agreement",
    "benjamini_hochberg",
    "calibration_error",
    "compare",
    "confidence_sequence",
    "difference_interval",
    "drift",
    "drift_by_product",
    "expected_calibration_error",
    "fidelity",
    "holm",
    "mcnemar_exact",
    "paired_interval",
    "score_predictions",
    "share_interval",
    "top_k_accuracy",
    "weighted_share",
    "weighted_shares",
    "wilson_interval",
]
