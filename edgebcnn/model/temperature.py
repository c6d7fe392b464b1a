"""Calibrates scores: one temperature per model, folded into its classifier before any file is made of it.

A network that was trained with label smoothing or distillation is right more often than its scores say. Temperature
scaling (Guo et al. 2017, arXiv 1706.04599) divides the logits by T, chosen so that held-out photos become most likely:
T = argmin Σ -log softmax(z/T)[y]. The order of the products never changes by it. T goes into the classifier's weights,
so that every precision, runtime and reader of the model file gives calibrated scores without knowing of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from edgebcnn.model.bcnn import Bcnn

BOUNDS = (0.05, 20.0)
"""Beyond these a temperature says that the photos or the model are wrong, not that the scores are."""

_FOLDS = 2
_TINY = float(np.finfo(np.float32).tiny)

Probabilities = NDArray[np.floating]


def fit_temperature(probabilities: Probabilities, truth: NDArray[np.integer]) -> float:
    """Fits the temperature that makes labelled photos most likely.

    Works on probabilities, since softmax(log p / T) = softmax(z / T).

    Args:
        probabilities: `(n, k)`, 0-1.
        truth: `(n,)` class ids.

    Returns:
        T within `BOUNDS`; below 1 where the scores were too low, above 1 where they were too high.
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        largest = scaled.max(axis=1)
        log_sum = largest + np.log(np.exp(scaled - largest[:, np.newaxis]).sum(axis=1))
        return float(np.mean(log_sum - scaled[np.arange(len(truth)), truth]))

    found = minimize_scalar(loss, bounds=tuple(np.log(BOUNDS)), method="bounded")
    return float(np.exp(found.x))


def with_temperature(probabilities: Probabilities, temperature: float | NDArray[np.floating]) -> NDArray[np.float32]:
    """Scales the logits behind `(n, k)` probabilities by 1/T, one T or `(n,)` of them."""
    by_row = np.reshape(temperature, (-1, 1))
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), _TINY)) / by_row
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float32)


def cross_fit(probabilities: Probabilities, truth: NDArray[np.integer]) -> NDArray[np.float64]:
    """Fits for each photo a temperature that it had no part in.

    Calibration error that is measured on the photos that T was fitted on is too small. Here each of two halves, every
    second photo of each product, gets the temperature of the other.

    Args:
        probabilities: `(n, k)` before any temperature.
        truth: `(n,)` class ids.

    Returns:
        `(n,)`.
    """
    fold = np.empty(len(truth), np.intp)
    fold[np.argsort(truth, kind="stable")] = np.arange(len(truth)) % _FOLDS
    temperatures = np.ones(len(truth))
    for number in range(_FOLDS):
        others = fold != number
        if others.any():
            temperatures[~others] = fit_temperature(probabilities[others], truth[others])
    return temperatures


def fold_temperature(bcnn: Bcnn, temperature: float) -> None:
    """Divides a model's logits by T, in the weights of its classifier.

    The classifier of lrbc pooling is quadratic in its factors, which therefore take the root of 1/T.
    """
    if bcnn.architecture.pooling == "lrbc":
        _scale(bcnn, "factors", temperature**-0.5)
    _scale(bcnn, "logits", 1 / temperature)


def _scale(bcnn: Bcnn, layer: str, factor: float) -> None:
    found = bcnn.model.get_layer(layer)
    found.set_weights([weights * factor for weights in found.get_weights()])
