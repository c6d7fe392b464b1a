"""What is said of one model on labelled photos: against hand counts, and wrong photos under their own names."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.bundle import Label
from edgebcnn.report.agreement import Proportion
from edgebcnn.report.evaluation import ConfusedPair, Mistake, expected_calibration_error, score_predictions

LABELS = (
    Label(name="Milk", coarse="Dairy"),
    Label(name="Yoghurt", coarse="Dairy"),
    Label(name="Apple", coarse="Fruit"),
    Label(name="Pear"),
)


def scores(*rows: tuple[int, float], classes: int = 4) -> NDArray[np.float64]:
    """A row of probabilities for each (class id, its probability); the rest is shared equally by the others."""
    shared = [[(1 - score) / (classes - 1)] * classes for _, score in rows]
    for row, (class_id, score) in zip(shared, rows, strict=True):
        row[class_id] = score
    return np.array(shared)


# Milk: right, as Yoghurt twice, as Apple. Yoghurt: right, as Milk. Apple: right. No Pear is shown.
TRUTH = np.array([0, 0, 0, 0, 1, 1, 2])
SAID = scores((0, 0.9), (1, 0.8), (1, 0.7), (2, 0.95), (1, 0.9), (0, 0.6), (2, 0.9))


def test_figures_are_those_that_one_counts_by_hand() -> None:
    found = score_predictions(SAID, TRUTH, LABELS)
    assert found.n == 7
    assert found.top1 == Proportion(3, 7)
    assert found.mean_score == pytest.approx((0.9 + 0.8 + 0.7 + 0.95 + 0.9 + 0.6 + 0.9) / 7)
    assert [(product.name, product.accuracy, product.taken_for) for product in found.products] == [
        ("Milk", Proportion(1, 4), Mistake("Yoghurt", 2)),
        ("Yoghurt", Proportion(1, 2), Mistake("Milk", 1)),
        ("Apple", Proportion(1, 1), None),
    ]
    assert found.unseen == ("Pear",)


def test_the_most_confused_pair_counts_both_directions() -> None:
    assert score_predictions(SAID, TRUTH, LABELS).confused == (
        ConfusedPair("Milk", "Yoghurt", first_as_second=2, second_as_first=1),
        ConfusedPair("Milk", "Apple", first_as_second=1, second_as_first=0),
    )


def test_a_pair_is_told_in_the_direction_in_which_it_is_confused_more() -> None:
    truth = np.array([0, 1, 1, 2, 3])
    found = score_predictions(scores((1, 0.9), (0, 0.9), (0, 0.9), (3, 0.9), (2, 0.9)), truth, LABELS)
    assert found.confused == (ConfusedPair("Yoghurt", "Milk", 2, 1), ConfusedPair("Pear", "Apple", 1, 1))


def test_a_wrong_product_of_the_right_coarse_class_is_right_coarsely() -> None:
    assert score_predictions(SAID, TRUTH, LABELS).coarse == Proportion(6, 7)


def test_photos_whose_product_has_no_coarse_class_are_not_counted_coarsely() -> None:
    truth = np.array([3, 2, 2])
    found = score_predictions(scores((3, 0.9), (3, 0.9), (2, 0.9)), truth, LABELS)
    assert found.coarse == Proportion(1, 2)
    assert score_predictions(scores((3, 0.9)), truth[:1], LABELS).coarse is None


def test_wrong_photos_carry_their_own_names_and_scores_surest_first() -> None:
    wrong = score_predictions(SAID, TRUTH, LABELS).wrong
    assert [(answer.position, answer.truth, answer.predicted) for answer in wrong] == [
        (3, "Milk", "Apple"),
        (1, "Milk", "Yoghurt"),
        (2, "Milk", "Yoghurt"),
        (5, "Yoghurt", "Milk"),
    ]
    assert [answer.score for answer in wrong] == [0.95, 0.8, 0.7, 0.6]
    np.testing.assert_allclose([answer.true_score for answer in wrong], [0.05 / 3, 0.2 / 3, 0.3 / 3, 0.4 / 3])


def test_wrong_names_are_right_for_any_arrays(rng: np.random.Generator) -> None:
    truth = rng.integers(0, 4, 200)
    probabilities = rng.dirichlet(np.ones(4), 200)
    wrong = score_predictions(probabilities, truth, LABELS).wrong
    assert {answer.position for answer in wrong} == set(np.flatnonzero(probabilities.argmax(axis=1) != truth))
    for answer in wrong:
        assert answer.truth == LABELS[truth[answer.position]].name
        assert answer.predicted == LABELS[probabilities[answer.position].argmax()].name
        assert answer.score == probabilities[answer.position].max()


def test_top_five_is_told_only_where_it_can_be_wrong() -> None:
    labels = tuple(Label(name=str(number)) for number in range(6))
    truth = np.array([0, 5])
    probabilities = np.tile(np.array([0.3, 0.25, 0.2, 0.15, 0.07, 0.03]), (2, 1))
    assert score_predictions(probabilities, truth, labels).top5 == Proportion(1, 2)
    assert score_predictions(SAID, TRUTH, LABELS).top5 is None


def test_calibration_error_of_a_hand_made_example() -> None:
    # Two bins: scores 0.4 and 0.5 promise 0.9 right of 2 and 1 is; scores 0.9, 0.8 promise 1.7 of 2 and 1 is.
    truth = np.array([0, 1, 0, 1])
    probabilities = scores((0, 0.4), (0, 0.5), (0, 0.9), (0, 0.8))
    assert expected_calibration_error(probabilities, truth, bins=2) == pytest.approx((0.1 + 0.7) / 4)


def test_a_score_on_the_edge_of_two_bins_belongs_to_the_lower_one() -> None:
    truth = np.array([0, 1])
    probabilities = scores((0, 0.5), (0, 0.4))
    # Together they promise 0.9 and 1 is right; in bins of their own they would be off by 0.5 and 0.4.
    assert expected_calibration_error(probabilities, truth, bins=2) == pytest.approx(0.1 / 2)


def test_scores_that_keep_their_promise_have_no_calibration_error() -> None:
    truth = np.array([0] * 8 + [1] * 2)
    assert expected_calibration_error(scores(*[(0, 0.8)] * 10), truth) == pytest.approx(0)


def test_calibration_error_is_refused_for_what_is_no_probability() -> None:
    with pytest.raises(ValueError, match="not from 0 to 1"):
        expected_calibration_error(np.array([[-2.0, 5.0]]), np.array([0]))


@pytest.mark.parametrize(
    ("probabilities", "truth", "says"),
    [
        (np.zeros((0, 4)), np.zeros(0, np.int64), "n of 1 or more"),
        (np.full((2, 3), 1 / 3), np.array([0, 1]), "3 classes and there are 4 labels"),
        (np.full((1, 4), np.nan), np.array([0]), "NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    probabilities: NDArray[np.float64], truth: NDArray[np.int64], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        score_predictions(probabilities, truth, LABELS)
