"""A range holds what its method says it holds, and the least error is the least."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.errors import DataError
from edgebcnn.quantize.calibration.ranges import (
    Histogram,
    Int8Rules,
    LayerRanges,
    Range,
    RangeChoice,
    choose_range,
    share_clipped,
    sqnr_db,
)

MSE = RangeChoice(range_method="mse")


def _seen(values: NDArray[np.floating]) -> Histogram:
    histogram = Histogram()
    histogram.add(values.astype(np.float32))
    return histogram


def _percentile(percent: float) -> RangeChoice:
    return RangeChoice(range_method="percentile", percentile=percent)


def _error(values: NDArray[np.floating], low: float, high: float, *, root: bool = False) -> float:
    kept = Range(low, high).quantized(values.astype(np.float64))
    if root:
        values, kept = (x / np.sqrt(np.abs(x) + 0.01) for x in (values, kept))
    return float(((values - kept) ** 2).sum())


def _heavy_tailed() -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_t(2, 20_000)


def test_minmax_clips_nothing_and_always_holds_zero() -> None:
    assert choose_range(_seen(np.array([-3.0, 0.5, 7.0])), RangeChoice()) == Range(-3, 7)
    assert choose_range(_seen(np.array([2.0, 7.0])), RangeChoice()) == Range(0, 7)
    assert choose_range(_seen(np.array([-7.0, -2.0])), RangeChoice()) == Range(-7, 0)


def test_a_percentile_clips_its_share_at_each_end() -> None:
    values = np.random.default_rng(1).normal(size=100_000)
    seen = _seen(values)
    found = choose_range(seen, _percentile(99))
    np.testing.assert_allclose([found.low, found.high], np.percentile(values, [1, 99]), atol=0.002)
    assert share_clipped(seen, found) == pytest.approx(0.02, abs=0.002)


def test_a_percentile_of_what_a_relu_gives_begins_at_zero() -> None:
    values = np.maximum(np.random.default_rng(1).normal(size=100_000), 0)
    found = choose_range(_seen(values), _percentile(99.9))
    assert found.low == 0
    assert found.high == pytest.approx(np.percentile(values, 99.9), abs=0.02)
    assert choose_range(_seen(values), _percentile(100)) == Range(0, float(values.astype(np.float32).max()))


@pytest.mark.parametrize("root", [False, True])
def test_mse_errs_less_than_any_range_that_a_brute_search_finds(root: bool) -> None:
    values = _heavy_tailed()
    found = choose_range(_seen(values), MSE, before_sqrt=0.01 if root else None)
    ends = np.geomspace(1, 100, 40)
    least = min(_error(values, -low, high, root=root) for low in ends for high in ends)
    # The error has many small dips, as the steps move over the values; 5 % of it are 0.2 dB.
    assert _error(values, found.low, found.high, root=root) < 1.05 * least


def test_before_a_square_root_small_values_count_for_more() -> None:
    seen = _seen(_heavy_tailed())
    plain, rooted = choose_range(seen, MSE), choose_range(seen, MSE, before_sqrt=0.01)
    assert rooted.scale < plain.scale


def test_one_outlier_widens_minmax_and_hardly_mse() -> None:
    values = np.random.default_rng(2).uniform(-1, 1, 500_000)
    outlier = np.append(values, 2.0)
    assert choose_range(_seen(outlier), RangeChoice()).high == 2
    assert choose_range(_seen(outlier), MSE).high < 1.2


def test_values_without_a_tail_keep_their_whole_range() -> None:
    found = choose_range(_seen(np.linspace(-1, 1, 10_001)), MSE)
    assert (found.low, found.high) == pytest.approx((-1, 1), abs=0.02)


@pytest.mark.parametrize("choice", [RangeChoice(), _percentile(99.9), MSE])
def test_a_tensor_of_zeros_has_a_range_and_loses_nothing(choice: RangeChoice) -> None:
    seen = _seen(np.zeros(10))
    found = choose_range(seen, choice)
    assert (found.low, found.high) == (0, 0)
    assert (share_clipped(seen, found), sqnr_db(seen, found)) == (0, np.inf)


def test_neither_order_nor_first_bound_changes_a_histogram() -> None:
    values = _heavy_tailed().astype(np.float32)
    parts = np.array_split(np.sort(np.abs(values)) * np.sign(values), 7)
    forward, backward = Histogram(), Histogram()
    for part in parts:
        forward.add(part)
    for part in parts[::-1]:
        backward.add(part)
    assert (forward.low, forward.high, forward.bound) == (backward.low, backward.high, backward.bound)
    np.testing.assert_array_equal(forward.counts, backward.counts)
    assert forward.counts.sum() == len(values)


def test_a_sample_is_counted_and_the_ends_are_those_of_all() -> None:
    seen = Histogram()
    seen.add(np.array([-9.0, 0, 1, 2], np.float32), np.array([0.0, 1], np.float32))
    assert (seen.low, seen.high, seen.counts.sum()) == (-9, 2, 2)


def test_sqnr_is_six_decibels_a_bit() -> None:
    seen = _seen(np.random.default_rng(3).uniform(-1, 1, 200_000))
    found = [sqnr_db(seen, Range(-width, width)) for width in (1, 2, 4)]
    assert found[0] == pytest.approx(6.02 * 8, abs=0.2)
    assert [first - second for first, second in pairwise(found)] == pytest.approx([6.02, 6.02], abs=0.2)


def test_a_quantized_zero_is_zero_and_ends_are_clipped() -> None:
    kept = Range(-0.3, 1.7).quantized(np.array([0.0, 9.0, -9.0]))
    assert kept[0] == 0
    assert kept[1:] == pytest.approx([1.7, -0.3], abs=2 / 255)


def test_the_first_rule_that_fits_a_layer_counts() -> None:
    rules = Int8Rules(
        layers=(LayerRanges(layer="block_1_*", range_method="mse"), LayerRanges(layer="block_*", percentile=None))
    )
    assert rules.of(["block_1_relu"]).range_method == "mse"
    assert rules.of(["block_2_relu"]) == rules.layers[1]
    assert rules.of(["pool/Mean", "pool"]) == rules


def test_a_rule_for_no_layer_names_the_closest() -> None:
    rules = Int8Rules(layers=(LayerRanges(layer="projct_u", range_method="mse"),))
    with pytest.raises(DataError, match=r"names the layer 'projct_u', which the model lacks: it has project_u"):
        rules.check_layers(["project_u", "project_v", "logits"])
    rules.check_layers(["projct_u"])
