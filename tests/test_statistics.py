"""Weighted shares, confidence sequences, alarms and drift tests keep their promises where the truth is drawn."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import simulations
from benchmarks.simulations import COUNTS, SHARES, attainable, coverage, methods
from edgebcnn import report
from edgebcnn.report import (
    AgreementAlarm,
    Proportion,
    WeightedShare,
    confidence_sequence,
    difference_interval,
    drift,
    drift_by_product,
    share_interval,
    weighted_share,
    weighted_shares,
    wilson_interval,
)
from edgebcnn.report.sequential import log_capital

NAMES = ("Oat milk", "Soy milk", "Rice milk")


def tolerance(share: float, runs: int) -> float:
    """Four standard deviations of a simulated share."""
    return 4 * math.sqrt(share * (1 - share) / runs)


@pytest.mark.parametrize("n", COUNTS)
def test_the_interval_of_a_share_covers_95_in_100_and_errs_to_the_safe_side_where_no_interval_can(n: int) -> None:
    covered = coverage(methods()["ours"](np.arange(n + 1), n), n)  # computed, not simulated
    can_be = np.array([attainable(n, share) for share in SHARES])
    assert 0.945 <= covered[can_be].mean() <= 0.96
    assert covered.min() >= 0.915
    assert covered[~can_be].min(initial=1) >= 0.915


def test_the_interval_of_a_share_covers_95_in_100_over_all_counts_and_shares() -> None:
    covered = [coverage(methods()["ours"](np.arange(n + 1), n), n).mean() for n in COUNTS]
    assert 0.95 <= np.mean(covered) <= 0.96


def test_simulated_coverage_is_the_computed_one(rng: np.random.Generator) -> None:
    (ours, *_) = simulations.shares(400, rng, counts=(100,))
    computed = coverage(methods()["ours"](np.arange(101), 100), 100)
    assert ours["mean"] / 100 == pytest.approx(computed.mean(), abs=tolerance(0.95, 400 * len(SHARES)))


@pytest.mark.parametrize("n", [1, 2, 3, 20, 50, 51, 1265])
def test_the_interval_of_a_share_is_wilsons_but_for_its_corners(n: int) -> None:
    corner = min(n // 2, 2 if n <= 50 else 3)
    for successes in range(n + 1):
        (low, high), (of_low, of_high) = share_interval(successes, n), wilson_interval(successes, n)
        assert (low < of_low) == (1 <= successes <= corner)
        assert (high > of_high) == (1 <= n - successes <= corner)
        assert 0 <= low <= successes / n <= high <= 1


def test_the_mended_corner_is_the_published_one() -> None:
    # Quantiles of a Poisson mean at 5 %: half those of χ² with 2, 4 and 6 degrees of freedom.
    assert [share_interval(100 - x, 100)[1] for x in (1, 2, 3)] == pytest.approx(
        [1 - 0.0005129, 1 - 0.003554, 1 - 0.008177], abs=2e-6
    )


def test_the_difference_of_figures_from_different_photos_is_newcombes() -> None:
    # Newcombe 1998, table II, method 10: 56/70 and 48/80.
    low, high = difference_interval(Proportion(56, 70), Proportion(48, 80))
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_a_weighted_share_is_unbiased_and_its_interval_holds(rng: np.random.Generator) -> None:
    for row in simulations.weighted(300, rng, seen=(6000,)):
        assert abs(row["bias, points"]) <= 0.3, row
        assert row["coverage"] / 100 >= 0.945 - tolerance(0.945, 300), row
        if row["spool"] != "uniform 5 %":
            assert row["without weights"] < -0.3, row  # what the weights are for


def test_weights_undo_that_uncertain_frames_were_kept_more_often() -> None:
    agrees = np.array([True] * 90 + [False] * 10)
    kept_with = np.array([0.05] * 90 + [0.5] * 10)
    found = weighted_share(agrees, kept_with)
    assert found.value == pytest.approx(1800 / 1820)
    assert found.n == 100
    assert found.frames == pytest.approx(1820)


def test_frames_kept_alike_give_nearly_the_interval_of_a_plain_share() -> None:
    agrees = np.arange(400) >= 20
    found = weighted_share(agrees, np.full(400, 0.05))
    plain = Proportion(380, 400)
    assert found.value == plain.value
    assert (found.low, found.high) == pytest.approx((plain.low, plain.high), abs=0.002)


def test_frames_of_one_scene_count_as_little_more_than_one(rng: np.random.Generator) -> None:
    scenes = np.repeat(np.arange(40), 25)
    agrees = np.repeat(rng.random(40) < 0.8, 25)
    found = weighted_share(agrees, np.full(1000, 0.1), groups=scenes)
    once = weighted_share(agrees[::25], np.full(40, 0.1))
    assert found.effective_n == pytest.approx(once.effective_n)
    assert found.n == 1000


def test_a_weighted_share_of_1_still_has_an_interval() -> None:
    found = weighted_share(np.ones(30, bool), np.full(30, 0.05))
    assert (found.value, found.high) == (1, 1)
    assert 0.8 < found.low < 0.95


def test_a_weighted_share_says_how_much_it_knows() -> None:
    found = WeightedShare(0.9, 100, 50.2, 2000.0)
    assert str(found) == "90.0 % (95 % CI 78.7-95.6, n=100, effective sample size 50)"
    assert json.loads(json.dumps(found.as_json()))["n"] == 100


def test_weighted_shares_are_by_product() -> None:
    products = np.array([0, 0, 2, 2, 2])
    agrees = np.array([True, False, True, True, True])
    found = weighted_shares(agrees, np.full(5, 0.5), products, names=NAMES)
    assert {name: (each.value, each.n) for name, each in found.items()} == {"Oat milk": (0.5, 2), "Rice milk": (1, 3)}


@pytest.mark.parametrize(
    ("agrees", "kept_with", "message"),
    [
        (np.ones(2, bool), np.ones(3), "same n"),
        (np.ones(0, bool), np.ones(0), "same n"),
        (np.ones(2, int), np.ones(2), "must be bool"),
        (np.ones(2, bool), np.array([0.0, 1]), "above 0"),
        (np.ones(2, bool), np.array([0.5, 1.5]), "above 0"),
        (np.ones(2, bool), np.array([0.5, np.nan]), "above 0"),
    ],
)
def test_what_cannot_be_weighted_is_refused(
    agrees: NDArray[np.bool_], kept_with: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        weighted_share(agrees, kept_with)


def test_a_confidence_sequence_and_an_alarm_are_wrong_in_5_of_100_streams_at_most_however_often_one_looks(
    rng: np.random.Generator,
) -> None:
    for row in simulations.sequences(400, 3000, rng):
        for name in ("confidence sequence", "alarm"):
            assert row[name] / 100 <= 0.05 + tolerance(0.05, 400), row
        assert row["fixed-n interval"] > 30  # which is why there is a sequence


def test_the_ends_of_a_confidence_sequence_are_where_its_bets_have_won() -> None:
    low, high = confidence_sequence(940, 1000)
    for capital in (log_capital(940, 1000, high), log_capital(60, 1000, 1 - low)):
        assert capital == pytest.approx(math.log(40))


def test_a_confidence_sequence_is_wider_than_an_interval_and_narrows() -> None:
    widths = []
    for n in (10, 100, 1000, 100_000):
        (low, high), (of_low, of_high) = confidence_sequence(n * 9 // 10, n), wilson_interval(n * 9 // 10, n)
        assert low < of_low < 0.9 < of_high < high
        widths.append((high - low) / (of_high - of_low))
    assert max(widths) < 2.6


def test_a_confidence_sequence_knows_nothing_before_the_first_look_and_is_symmetric() -> None:
    assert confidence_sequence(0, 0) == (0, 1)
    low, high = confidence_sequence(90, 100)
    assert confidence_sequence(10, 100) == pytest.approx((1 - high, 1 - low))
    assert confidence_sequence(100, 100)[1] == 1
    with pytest.raises(ValueError, match="between 0 and n"):
        confidence_sequence(2, 1)
    with pytest.raises(ValueError, match="confidence"):
        confidence_sequence(1, 2, confidence=95)


def test_an_alarm_finds_a_fall_after_a_long_good_time_and_stays(rng: np.random.Generator) -> None:
    alarm = AgreementAlarm(0.95)
    assert not any(alarm.look(agrees) for agrees in (rng.random(20_000) < 0.98).tolist())
    fallen = [alarm.look(agrees) for agrees in (rng.random(1000) < 0.8).tolist()]
    assert fallen.index(True) < 400
    assert all(alarm.look(True) for _ in range(1000))


def test_an_alarm_is_not_raised_by_one_frame() -> None:
    alarm = AgreementAlarm(0.95)
    assert not alarm.look(False)
    with pytest.raises(ValueError, match="threshold 1"):
        AgreementAlarm(1)


def test_a_shift_of_scores_or_of_features_is_found(rng: np.random.Generator) -> None:
    assert drift(rng.random(100), rng.random(100) * 0.6).is_real
    assert drift(rng.normal(size=(60, 50)), rng.normal(size=(60, 50)) + 0.5).p_value < 0.001
    assert not drift(rng.random(100), rng.random(100)).is_real
    apart = drift(np.zeros(10), np.ones(10))
    assert (apart.size, apart.p_value < 0.001) == (1, True)


def test_without_drift_p_values_are_as_chance_has_them_also_with_ties(rng: np.random.Generator) -> None:
    found = np.array([drift(rng.integers(0, 4, 8) / 256, rng.integers(0, 4, 20) / 256).p_value for _ in range(400)])
    for level in (0.05, 0.2, 0.5):
        assert (found <= level).mean() <= level + tolerance(level, 400)


def test_photos_that_are_all_alike_do_not_drift() -> None:
    assert (drift(np.ones(6), np.ones(9)).size, drift(np.ones(6), np.ones(9)).p_value) == (0, 1)


def test_the_products_that_drifted_are_named_and_no_others(rng: np.random.Generator) -> None:
    (row,) = (each for each in simulations.drifts(6, rng, shifts=((2.0, 4),), tested={"scores": 1}))
    assert row["drifted ones found"] > 95
    assert row["runs with a false one"] / 100 <= 0.05 + tolerance(0.05, 6)


def test_a_product_with_few_photos_is_not_tested(rng: np.random.Generator) -> None:
    before, now = np.repeat([0, 1, 2], [20, 4, 20]), np.repeat([0, 1], [20, 20])
    found = drift_by_product(rng.random(44), rng.random(40), products_before=before, products_now=now, names=NAMES)
    assert [(each.name, each.n_before, each.n_now) for each in found] == [("Oat milk", 20, 20)]
    assert (
        drift_by_product(rng.random(1), rng.random(1), products_before=before[:1], products_now=now[:1], names=NAMES)
        == ()
    )


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ValueError, match="give scores"):
        drift(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="not finite"):
        drift(np.array([0.1, np.nan]), np.array([0.1]))


def test_the_public_names_are_there_and_agreement_is_the_function() -> None:
    assert all(hasattr(report, name) for name in report.__all__)
    assert report.agreement(np.array([1, 2]), np.array([1, 1])) == Proportion(1, 2)
