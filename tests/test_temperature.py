"""Scores become probabilities by one temperature, which changes no answer and is measured on photos it never saw."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.model.bcnn import Architecture, build
from edgebcnn.model.temperature import cross_fit, fit_temperature, fold_temperature, with_temperature
from edgebcnn.report.evaluation import expected_calibration_error


def _drawn(rng: np.random.Generator, n: int) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Probabilities of 5 products, and truths that are drawn from them: perfectly calibrated."""
    logits = 2 * rng.normal(size=(n, 5))
    probabilities = with_temperature(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1.0)
    truth = np.array([rng.choice(5, p=np.asarray(each, float) / each.sum(dtype=float)) for each in probabilities])
    return probabilities, truth


@pytest.mark.parametrize("distortion", [0.4, 1.0, 2.5])
def test_the_temperature_that_distorted_scores_is_found_again(rng: np.random.Generator, distortion: float) -> None:
    probabilities, truth = _drawn(rng, 6000)
    found = fit_temperature(with_temperature(probabilities, distortion), truth)
    assert found * distortion == pytest.approx(1, abs=0.06)  # three standard errors of 6,000 draws


def test_a_temperature_restores_the_calibration_error_and_keeps_every_answer(rng: np.random.Generator) -> None:
    probabilities, truth = _drawn(rng, 6000)
    distorted = with_temperature(probabilities, 2.5)
    calibrated = with_temperature(distorted, fit_temperature(distorted, truth))
    assert expected_calibration_error(distorted, truth) > 0.1
    assert expected_calibration_error(calibrated, truth) < 0.03  # chance alone gives 0.02 with 6,000 photos
    np.testing.assert_array_equal(calibrated.argmax(axis=1), distorted.argmax(axis=1))


def test_a_cross_fitted_temperature_never_saw_the_photo(rng: np.random.Generator) -> None:
    probabilities, truth = _drawn(rng, 300)
    found = cross_fit(probabilities, truth)
    assert len(np.unique(found)) == 2
    others = found != found[7]
    assert abs(others.sum() - 150) <= 5, "every second photo of each of five products"
    assert found[7] == pytest.approx(fit_temperature(probabilities[others], truth[others]))


@pytest.mark.parametrize("pooling", ["outer", "quadratic", "hadamard", "lrbc", "gap"])
def test_folding_divides_the_logits_of_every_pooling(rng: np.random.Generator, pooling: str) -> None:
    rank, tail = {"outer": (None, "sqrt"), "gap": (None, "none"), "lrbc": (4, "none")}.get(pooling, (4, "tanh"))
    shape = {"streams": "small", "classes": 3, "pooling": pooling, "rank": rank, "tail": tail}
    bcnn = build(Architecture.model_validate(shape | ({"class_rank": 2} if pooling == "lrbc" else {})))
    images = rng.uniform(-1, 1, (4, 32, 32, 3)).astype(np.float32)
    before = bcnn.model(images).numpy()
    fold_temperature(bcnn, 0.5)
    np.testing.assert_allclose(bcnn.model(images).numpy(), 2 * before, rtol=1e-4, atol=1e-5)
