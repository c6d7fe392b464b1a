"""The gate refuses what is worse, passes what is as good, and is rarely mistaken in either."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydantic import ValidationError

from edgebcnn.bundle import Label
from edgebcnn.cli.export import command
from edgebcnn.errors import DataError, GateError
from edgebcnn.quantize.calibration.recipe import GateLimits, load_recipe
from edgebcnn.quantize.gate import CHANCE, Verdict, binomial_tail, gate_json, judge_export, refuse
from edgebcnn.report.drift import holm

Answers = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]
"""Truth, and the top-1 of the compact and of the edge model."""

EXPORTS = 400
ROOT = Path(__file__).parents[1]


def _labels(count: int) -> list[Label]:
    return [Label(name=f"P{i}") for i in range(count)]


def _judge(answers: Answers, *, products: int, gates: GateLimits | None = None) -> Verdict:
    return judge_export(*answers, labels=_labels(products), gates=gates or GateLimits())


def _exact(*rows: tuple[int, int, int, int]) -> Answers:
    """From rows of how many photos, what they show, what compact says and what edge says."""
    photos = np.array([row[1:] for row in rows]).repeat([row[0] for row in rows], axis=0)
    return photos[:, 0], photos[:, 1], photos[:, 2]


def _drawn(
    rng: np.random.Generator, n: int, *, lost: float, gained: float, products: int = 81, uneven: bool = False
) -> Answers:
    """A compact model right on about 89 % of n photos, unequally many of each product, and an edge model beside it.

    Every product has one that looks like it, which all wrong answers name. A tenth of the products is hard.

    Args:
        rng: Random numbers.
        n: Photos.
        lost: Share of the photos that only compact names right.
        gained: Share that only edge names right.
        products: How many.
        uneven: Whether answers flip ten times as often on the hard products.
    """
    truth = rng.choice(products, n, p=rng.dirichlet(np.full(products, 3.0)))
    hard = (rng.random(products) < 0.1)[truth]
    accuracy = np.where(hard, 0.6, 0.92)
    often = np.where(hard, 5, 0.5) if uneven else np.ones(n)
    look_alike = (truth + 1) % products
    is_right = rng.random(n) < accuracy
    loses = is_right & (rng.random(n) < lost * often / accuracy)
    gains = ~is_right & (rng.random(n) < gained * often / (1 - accuracy))
    is_right_edge = (is_right & ~loses) | gains
    return truth, np.where(is_right, truth, look_alike), np.where(is_right_edge, truth, look_alike)


def _refused_share(rng: np.random.Generator, n: int, *, lost: float, gained: float, uneven: bool = False) -> float:
    exports = [_drawn(rng, n, lost=lost, gained=gained, uneven=uneven) for _ in range(EXPORTS)]
    return float(np.mean([_judge(answers, products=81).outcome == "refused" for answers in exports]))


@pytest.mark.parametrize("n", [36, 300, 1265, 2485])
@pytest.mark.parametrize(("flips", "uneven"), [(0.005, False), (0.02, False), (0.02, True)])
def test_a_model_that_lost_nothing_is_refused_at_most_once_in_twenty(
    rng: np.random.Generator, n: int, flips: float, uneven: bool
) -> None:
    # Three standard errors of the simulation itself are 3.3 points.
    assert _refused_share(rng, n, lost=flips, gained=flips, uneven=uneven) <= CHANCE + 0.01


def test_the_shares_that_the_documentation_promises_are_exact() -> None:
    stats = pytest.importorskip("scipy.stats")
    rows = re.findall(r"^\| (\d+) \| ([\d. |]+) \|$", (ROOT / "docs" / "gate.md").read_text(), re.MULTILINE)
    assert [row[0] for row in rows] == ["36", "300", "1265", "2485"]
    for n, shares in ((int(row[0]), [float(share) for share in row[1].split(" | ")]) for row in rows):
        lost, gained = np.meshgrid(np.arange(min(n, 200) + 1), np.arange(min(n, 80) + 1))
        is_refused = (lost - gained > 0.005 * n) & (lost - gained > 1.959964 * np.sqrt(lost + gained))
        for drop, share in zip((0, 0.003, 0.005, 0.01, 0.02, 0.05), shares, strict=True):
            one_way = stats.binom.pmf(lost, n, 0.01 + drop)
            other_way = stats.binom.pmf(gained, np.maximum(n - lost, 0), 0.01 / (0.99 - drop))
            assert 100 * (one_way * other_way)[is_refused].sum() == pytest.approx(share, abs=0.06)


@pytest.mark.parametrize(("n", "drop", "least"), [(300, 0.05, 0.8), (1265, 0.05, 1.0), (1265, 0.023, 0.9)])
def test_a_model_that_lost_much_is_refused(rng: np.random.Generator, n: int, drop: float, least: float) -> None:
    assert _refused_share(rng, n, lost=0.01 + drop, gained=0.01) >= least


@pytest.mark.parametrize(("lost", "gained"), [(4, 0), (7, 1), (3, 0), (6, 2), (1, 1), (1, 7)])
def test_top_1_is_refused_where_the_loss_is_over_the_limit_and_mcnemar_says_it_is_no_chance(
    lost: int, gained: int
) -> None:
    answers = _exact((lost, 0, 0, 1), (gained, 0, 1, 0), (36 - lost - gained, 0, 0, 0))
    outcome = _judge(answers, products=2, gates=GateLimits(max_product_drop=100, max_new_confusion=100)).outcome
    is_real = (lost - gained) / (lost + gained) ** 0.5 > 1.96
    assert outcome == ("passed" if lost <= gained else "refused" if is_real else "unclear")


def test_a_real_but_small_loss_passes() -> None:
    answers = _exact((60, 0, 0, 1), (20, 0, 1, 0), (9920, 0, 0, 0))
    verdict = _judge(answers, products=2)
    assert (verdict.drop.value, verdict.drop.low > 0, verdict.outcome) == (0.004, True, "passed")
    assert _judge(answers, products=2, gates=GateLimits(max_drop=0.3)).outcome == "refused"


def test_one_product_that_is_lost_refuses_though_top_1_holds() -> None:
    others = [(15, product, product, product) for product in range(1, 81)]
    answers = _exact((10, 0, 0, 7), (5, 0, 0, 0), *others, (12, 9, 8, 9))
    verdict = _judge(answers, products=81)
    assert (verdict.drop_outcome, verdict.outcome) == ("passed", "refused")
    (product,) = verdict.products
    assert (product.product, product.n, product.lost, product.gained) == ("P0", 15, 10, 0)
    assert verdict.reasons()[0] == "photos lost by P0 10 of 15, limit 10 points"
    assert verdict.flags() == ["--max-product-drop", "--max-new-confusion"]


def test_a_product_that_is_confused_with_another_one_than_before_refuses_though_it_lost_nothing() -> None:
    others = [row for i in range(1, 30) for row in ((36, i, i, i), (4, i, 0, 0))]
    answers = _exact((8, 0, 0, 2), (8, 0, 1, 0), (24, 0, 0, 0), *others)
    verdict = _judge(answers, products=30)
    assert (verdict.drop.value, verdict.products, verdict.outcome) == (0, (), "refused")
    (pair,) = verdict.pairs
    assert (pair.product, pair.taken_for, pair.n, pair.lost, pair.gained) == ("P0", "P2", 40, 8, 0)
    assert verdict.reasons() == ["newly taken: P0 for P2 on 8 of 40, limit 5 points"]


def test_a_confusion_that_compact_had_as_well_is_not_new() -> None:
    answers = _exact((8, 0, 1, 1), (2, 0, 0, 1), (2, 0, 1, 0), (28, 0, 0, 0), (40, 1, 1, 1))
    assert _judge(answers, products=2).pairs == ()


def test_two_photos_of_three_are_too_few_to_condemn_a_product() -> None:
    others = [(15, product, product, product) for product in range(1, 81)]
    verdict = _judge(_exact((2, 0, 0, 1), (1, 0, 0, 0), *others, (10, 5, 6, 5)), products=81)
    assert [(loss.product, loss.outcome) for loss in (*verdict.products, *verdict.pairs)] == [("P0", "unclear")] * 2
    assert verdict.outcome == "passed"


def test_a_product_without_photos_is_not_judged() -> None:
    assert _judge(_exact((9, 0, 0, 0)), products=3).outcome == "passed"


@pytest.mark.parametrize("share", [1e-4, 0.03, 0.5, 0.999])
@pytest.mark.parametrize(("n", "at_least"), [(1, 1), (15, 0), (15, 5), (15, 15), (15, 16), (5000, 180)])
def test_the_binomial_tail_is_scipys(share: float, n: int, at_least: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binom.sf(at_least - 1, n, share)
    assert binomial_tail(n, share, at_least=at_least) == pytest.approx(expected, rel=1e-8, abs=1e-300)


def test_a_certain_and_an_impossible_loss_have_their_tails() -> None:
    assert [binomial_tail(9, share, at_least=3) for share in (0, 1)] == [0, 1]


def test_holm_corrects_as_by_hand() -> None:
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.5, 0.9])), [1, 1])
    assert holm(np.array([])).size == 0


def test_a_verdict_is_one_line() -> None:
    passed = _judge(_exact((1, 0, 0, 1), (1, 0, 1, 0), (998, 0, 0, 0)), products=2)
    assert str(passed) == "Export accepted: top-1 drop 0.0 points (95 % CI -0.5 to 0.5, n=1000), limit 0.5"
    unclear = str(_judge(_exact((1, 0, 0, 1), (35, 0, 0, 0)), products=2))
    assert unclear.startswith(
        "Export accepted, but unclear: top-1 drop 2.8 points (95 % CI -7.1 to 14.2, n=36), limit 0.5; "
    )


def test_a_long_list_of_losses_is_cut_and_the_report_has_it_all() -> None:
    verdict = _judge(_exact(*((9, i, i, (i + 1) % 6) for i in range(6))), products=6)
    assert "P0 9 of 9, P1 9 of 9, P2 9 of 9 and 3 more, limit" in str(verdict)
    document = verdict.as_json()
    assert [loss["product"] for loss in document["products"]] == [f"P{i}" for i in range(6)]
    assert document["pairs"][0].items() >= {"product": "P0", "taken_for": "P1", "n": 9, "lost": 9, "gained": 0}.items()
    assert (document["outcome"], document["drop"]["value"], document["drop"]["outcome"]) == ("refused", 1, "refused")
    json.dumps(document)


def test_the_worst_model_file_decides(tmp_path: Path) -> None:
    good = _judge(_exact((36, 0, 0, 0)), products=2)
    unclear = _judge(_exact((1, 0, 0, 1), (35, 0, 0, 0)), products=2)
    bad = _judge(_exact((30, 0, 0, 1), (6, 0, 0, 0)), products=2)
    assert gate_json([unclear, good], GateLimits(), accepted=True)["outcome"] == "unclear"
    assert (
        gate_json([bad, good], GateLimits(), accepted=True).items() >= {"outcome": "refused", "accepted": True}.items()
    )
    assert not gate_json([good], GateLimits(), accepted=True)["accepted"]
    refuse({"int8": unclear, "fp16": good}, tmp_path / "bundle", files={}, photos="test")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(GateError, match=r"val photos: fp16: top-1 drop 83\.3 points .*; raise --max-drop, --max-pr"):
        refuse({"int8": unclear, "fp16": bad}, tmp_path / "bundle", files={"report/report.json": b"{}"}, photos="val")


def test_limits_stand_in_a_recipe_and_flags_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('name = "x"\ndescription = "x"\nphotos = 9\nseed = 0\n[gates]\nmax_drop = 1\n')
    gates = load_recipe(str(file)).gates
    assert gates == GateLimits(max_drop=1, max_product_drop=10, max_new_confusion=5)
    assert gates.overridden(max_drop=None, max_product_drop=20.0) == GateLimits(max_drop=1, max_product_drop=20)


@pytest.mark.parametrize("line", ["max_dorp = 1", "max_drop = -1", "max_product_drop = 101", "max_drop = nan"])
def test_a_limit_that_does_not_fit_names_file_and_field(tmp_path: Path, line: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'name = "x"\ndescription = "x"\nphotos = 9\nseed = 0\n[gates]\n{line}\n')
    with pytest.raises(DataError, match=rf"mine\.toml, field gates\.{line.split()[0]}: "):
        load_recipe(str(file))
    with pytest.raises(ValidationError):
        GateLimits().overridden(max_drop=float("nan"))


def test_the_command_says_the_limits_that_hold() -> None:
    shown = {option.name: option.show_default for option in command.params if option.name in GateLimits.model_fields}  # type: ignore[attr-defined]
    assert shown == {name: f"the recipe's, else {limit:g}" for name, limit in GateLimits().model_dump().items()}
