"""Accuracy, agreement, their intervals and tests, and the comparison of models that is made of them."""

from __future__ import annotations

import json
import math
from io import StringIO

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from edgebcnn.bundle import Label
from edgebcnn.report.agreement import (
    AccuracyDrop,
    Proportion,
    accuracy,
    agreement,
    mcnemar_exact,
    paired_interval,
    share_interval,
    top_k_accuracy,
    wilson_interval,
)
from edgebcnn.report.comparison import ModelComparison, ProductDrop, compare
from edgebcnn.report.render import comparison_json, comparison_table

LABELS = [Label(name="Oat milk"), Label(name="Soy milk"), Label(name="Never seen")]


def one_hot(predicted: list[int]) -> NDArray[np.float32]:
    return np.eye(len(LABELS), dtype=np.float32)[predicted]


@pytest.fixture
def comparison() -> ModelComparison:
    """Six photos: full 6 right, compact 5, edge 3."""
    truth = np.array([0, 0, 0, 0, 1, 1])
    models = {
        "full": one_hot([0, 0, 0, 0, 1, 1]),
        "compact": one_hot([0, 0, 0, 1, 1, 1]),
        "edge": one_hot([0, 0, 2, 1, 1, 0]),
    }
    return compare(truth, models, LABELS)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 40), (1153, 1265), (3, 10**6)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_wilson_interval_is_scipys(successes: int, n: int, confidence: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(successes, n, confidence=confidence) == pytest.approx(
        (expected.low, expected.high), abs=1e-12
    )


@pytest.mark.parametrize(("n", "p"), [(100, 0.5), (1265, 0.9), (300, 0.97)])
def test_the_wilson_interval_covers_the_truth_about_95_times_in_100(n: int, p: float, rng: np.random.Generator) -> None:
    drawn = rng.binomial(n, p, size=2000)
    interval_of = {int(successes): wilson_interval(int(successes), n) for successes in np.unique(drawn)}
    covered = [interval_of[int(successes)][0] <= p <= interval_of[int(successes)][1] for successes in drawn]
    assert 0.935 <= np.mean(covered) <= 0.97


@pytest.mark.parametrize("n", [1, 2, 50, 1265])
def test_an_interval_reaches_the_end_of_the_scale_only_where_all_or_none_succeed(n: int) -> None:
    assert wilson_interval(0, n)[0] == 0.0
    assert wilson_interval(n, n)[1] == 1.0
    assert 0 < wilson_interval(0, n)[1] < 1
    assert 0 < wilson_interval(n, n)[0] < 1
    assert wilson_interval(n, n)[0] == pytest.approx(1 - wilson_interval(0, n)[1])


@pytest.mark.parametrize(("successes", "n"), [(0, 0), (-1, 5), (6, 5)])
def test_counts_that_are_no_proportion_are_refused(successes: int, n: int) -> None:
    with pytest.raises(ValueError, match="is not a proportion"):
        wilson_interval(successes, n)
    with pytest.raises(ValueError, match="is not a proportion"):
        Proportion(successes, n)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_outside_0_to_1_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        wilson_interval(1, 2, confidence=confidence)


def test_a_proportion_prints_value_interval_and_n() -> None:
    assert str(Proportion(1153, 1265)) == "91.1 % (95 % CI 89.5-92.6, n=1265)"


def test_a_proportion_survives_json() -> None:
    read_back = json.loads(json.dumps(Proportion(3, 4).as_json()))
    low, high = share_interval(3, 4)
    assert read_back == {"value": 0.75, "low": low, "high": high, "confidence": 0.95, "successes": 3, "n": 4}


def test_accuracy_is_the_share_that_equals_the_labels() -> None:
    assert accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])) == Proportion(3, 4)


def test_two_models_can_agree_fully_and_both_be_wrong() -> None:
    predicted = np.array([1, 1])
    assert agreement(predicted, predicted) == Proportion(2, 2)
    assert accuracy(predicted, np.array([0, 0])) == Proportion(0, 2)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.zeros(3, int), np.zeros(2, int)),
        (np.zeros((3, 1), int), np.zeros((3, 1), int)),
        (np.zeros(0, int), np.zeros(0, int)),
        (np.zeros(3, np.float32), np.zeros(3, int)),
        (np.zeros(3, bool), np.zeros(3, int)),
    ],
)
def test_arrays_that_do_not_match_are_refused(first: NDArray[np.integer], second: NDArray[np.integer]) -> None:
    with pytest.raises(ValueError, match=r"both must be|must hold integer class ids"):
        accuracy(first, second)
    with pytest.raises(ValueError, match=r"both must be|must hold integer class ids"):
        agreement(first, second)


def test_top_1_accuracy_is_the_accuracy_of_argmax_even_where_uint8_outputs_tie(rng: np.random.Generator) -> None:
    probabilities = rng.integers(0, 4, size=(500, 6)).astype(np.uint8)
    truth = rng.integers(0, 6, size=500)
    assert top_k_accuracy(probabilities, truth, k=1) == accuracy(probabilities.argmax(axis=1), truth)


def test_top_k_accuracy_counts_the_k_most_probable(rng: np.random.Generator) -> None:
    probabilities = rng.random((200, 7))
    truth = rng.integers(0, 7, size=200)
    order = np.argsort(-probabilities, axis=1)
    for k in range(1, 8):
        expected = int((order[:, :k] == truth[:, None]).any(axis=1).sum())
        assert top_k_accuracy(probabilities, truth, k=k).successes == expected


@pytest.mark.parametrize(
    ("probabilities", "truth", "k", "message"),
    [
        (np.ones((2, 3)), np.array([0, 1]), 4, "k must lie"),
        (np.ones((2, 3)), np.array([0, 1]), 0, "k must lie"),
        (np.ones((2, 3)), np.array([0, 3]), 1, "class ids 0 to 3, outside 0-2"),
        (np.ones((2, 3)), np.array([-1, 0]), 1, "outside"),
        (np.ones((2, 3)), np.array([0, 1, 2]), 1, "must be"),
        (np.ones((2, 3)), np.array([0.0, 1.0]), 1, "integer class ids"),
        (np.array([[0.2, np.nan]]), np.array([0]), 1, "NaN"),
    ],
)
def test_top_k_accuracy_refuses_what_it_cannot_rank(
    probabilities: NDArray[np.float64], truth: NDArray[np.integer], k: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        top_k_accuracy(probabilities, truth, k=k)


def discordant(only_first: int, only_second: int, both: int = 5) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    first = np.array([True] * only_first + [False] * only_second + [True] * both)
    second = np.array([False] * only_first + [True] * only_second + [True] * both)
    return first, second


@pytest.mark.parametrize(("only_first", "only_second"), [(1, 0), (5, 5), (12, 3), (3, 12), (40, 61), (600, 660)])
def test_mcnemar_is_scipys_exact_binomial(only_first: int, only_second: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    result = mcnemar_exact(*discordant(only_first, only_second))
    expected = stats.binomtest(only_first, only_first + only_second, 0.5).pvalue
    assert (result.only_first, result.only_second) == (only_first, only_second)
    assert result.p_value == pytest.approx(expected, rel=1e-9)


def test_mcnemar_gives_1_where_the_models_are_right_on_the_same_photos() -> None:
    assert mcnemar_exact(*discordant(0, 0)).p_value == 1.0


def test_mcnemar_does_not_overflow_on_a_long_video() -> None:
    p_value = mcnemar_exact(*discordant(10_000, 10_300)).p_value
    z = 299 / math.sqrt(20_300)  # the normal approximation with continuity correction
    assert p_value == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)


def test_mcnemar_refuses_class_ids_in_place_of_right_and_wrong() -> None:
    with pytest.raises(ValueError, match="must hold bool, not int64"):
        mcnemar_exact(np.array([0, 1]), np.array([1, 1]))


def test_a_comparison_holds_each_models_accuracy_and_each_pairs_agreement(comparison: ModelComparison) -> None:
    assert [(model.name, model.accuracy.successes) for model in comparison.models] == [
        ("full", 6),
        ("compact", 5),
        ("edge", 3),
    ]
    assert [(pair.first, pair.second, pair.agreement.successes) for pair in comparison.pairs] == [
        ("edge", "full", 3),
        ("edge", "compact", 4),
        ("compact", "full", 5),
    ]
    mcnemar = comparison.pair("edge", "full").mcnemar
    assert (mcnemar.only_first, mcnemar.only_second, mcnemar.p_value) == (0, 3, 0.25)
    assert comparison.accuracy("edge") == Proportion(3, 6)
    assert comparison.n == 6


def test_drops_lists_the_products_that_lose_the_worst_first(comparison: ModelComparison) -> None:
    assert comparison.drops("full", "edge") == (ProductDrop("Oat milk", 4, 4, 2), ProductDrop("Soy milk", 2, 2, 1))
    assert comparison.drops("full", "compact") == (ProductDrop("Oat milk", 4, 4, 3),)
    assert comparison.drops("edge", "full") == ()
    assert comparison.drops("full", "edge")[0].drop == 0.5


def test_a_product_without_held_out_photos_is_listed_with_none(comparison: ModelComparison) -> None:
    assert (comparison.products[2].name, comparison.products[2].n) == ("Never seen", 0)


def test_an_unknown_model_is_a_key_error(comparison: ModelComparison) -> None:
    with pytest.raises(KeyError, match="int4"):
        comparison.accuracy("int4")
    with pytest.raises(KeyError, match="full with edge"):
        comparison.pair("full", "edge")


def test_a_model_with_other_classes_than_the_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="model edge has 3 classes and there are 2 labels"):
        compare(np.array([0, 1]), {"edge": one_hot([0, 1])}, LABELS[:2])
    with pytest.raises(ValueError, match="no model"):
        compare(np.array([0, 1]), {}, LABELS)


def test_the_table_never_prints_agreement_as_accuracy(comparison: ModelComparison) -> None:
    printed = StringIO()
    Console(file=printed, width=80).print(comparison_table(comparison))
    rows = {
        cells[1].strip(): cells[2:] for line in printed.getvalue().splitlines() if len(cells := line.split("│")) > 4
    }
    assert rows["accuracy, edge"][0].strip() == "50.0"
    assert rows["agreement, edge with compact"][0].strip() == "66.7"
    assert rows["agreement, edge with full"][2].strip() == "-50.0 points, p = 0.250"


def test_the_json_holds_every_figure_of_the_comparison(comparison: ModelComparison) -> None:
    document = json.loads(json.dumps(comparison_json(comparison), allow_nan=False))
    assert document["n"] == 6
    assert document["models"][2] == {"name": "edge", "accuracy": Proportion(3, 6).as_json()}
    assert document["pairs"][0]["mcnemar"] == {"only_first": 0, "only_second": 3, "p_value": 0.25}
    assert document["products"][0] == {"name": "Oat milk", "n": 4, "right": {"full": 4, "compact": 3, "edge": 2}}


def test_the_paired_interval_is_the_published_one() -> None:
    # Cavo et al. 2012, as the R package of Fagerland, Lydersen and Laake's book gives it (contingencytables).
    assert paired_interval(6, 16, 161) == pytest.approx((-0.1240, -0.0054), abs=5e-5)


@pytest.mark.parametrize("n", [1, 36, 5000])
def test_where_nothing_was_lost_or_gained_the_paired_interval_is_as_wide_as_n_makes_it(n: int) -> None:
    z2 = 1.959963985**2
    assert paired_interval(0, 0, n) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), rel=1e-6)


@pytest.mark.parametrize(("lost", "gained", "n"), [(4, 0, 36), (3, 0, 36), (22, 10, 1265), (20, 10, 1265), (9, 9, 18)])
def test_the_paired_interval_leaves_out_zero_where_mcnemar_is_significant(lost: int, gained: int, n: int) -> None:
    low, high = paired_interval(lost, gained, n)
    assert (low > 0) == ((lost - gained) / math.sqrt(lost + gained) > 1.959964)
    assert paired_interval(gained, lost, n) == pytest.approx((-high, -low))
    narrow, wide = (paired_interval(lost, gained, n, confidence=confidence) for confidence in (0.9, 0.99))
    assert wide[0] < low < narrow[0] <= (lost - gained) / n <= narrow[1] < high < wide[1]


def test_a_model_that_lost_or_gained_all_has_an_interval_up_to_the_end() -> None:
    assert paired_interval(36, 0, 36)[1] == 1
    assert paired_interval(0, 36, 36)[0] == -1


@pytest.mark.parametrize(("n", "lost", "gained"), [(36, 0.1, 0.05), (300, 0.03, 0.02), (1265, 0.02, 0.02)])
def test_the_paired_interval_covers_the_truth_about_95_times_in_100(
    n: int, lost: float, gained: float, rng: np.random.Generator
) -> None:
    drawn = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=1000)[:, :2].tolist()
    intervals = [paired_interval(b, c, n) for b, c in drawn]
    assert 0.93 <= np.mean([low <= lost - gained <= high for low, high in intervals]) <= 0.98


def test_a_drop_says_its_interval_and_n() -> None:
    drop = AccuracyDrop(lost=30, gained=10, n=1000)
    assert str(drop) == "2.0 points (95 % CI 0.8 to 3.4, n=1000)"
    low, high = paired_interval(30, 10, 1000)
    counts = {"lost": 30, "gained": 10, "n": 1000}
    assert drop.as_json() == {"value": 0.02, "low": low, "high": high, "confidence": 0.95, **counts}


@pytest.mark.parametrize(("lost", "gained", "n"), [(-1, 0, 9), (0, -1, 9), (5, 5, 9), (0, 0, 0)])
def test_counts_that_are_no_drop_are_refused(lost: int, gained: int, n: int) -> None:
    with pytest.raises(ValueError, match="counts must be 0 or more, and their sum at most n"):
        AccuracyDrop(lost, gained, n)
