"""Checks that our statistics keep what they promise, on simulated data whose truth is known.

    python benchmarks/simulations.py [--runs 2000] [--looks 100000]

Intervals of a share by six methods, of differences, and of weighted shares; a confidence sequence and its alarm, looked
at after every frame; drift tests of many products. Nothing but random numbers goes in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from edgebcnn.atomic import json_bytes
from edgebcnn.report import (
    AgreementAlarm,
    Proportion,
    difference_interval,
    drift_by_product,
    paired_interval,
    share_interval,
    weighted_share,
    wilson_interval,
)
from edgebcnn.report.sequential import TILTS, log_capital, stakes_after

COUNTS = (20, 30, 50, 100, 200, 500, 1265, 5000)
SHARES = (*np.linspace(0.5, 0.95, 46).tolist(), *np.linspace(0.951, 0.999, 49).tolist())
BAND = (0.94, 0.96)

TABLE_WIDTH = 120

Interval = tuple[NDArray[Any], NDArray[Any]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Stratum:
    """A kind of frame: how common it is, how often the models agree on it, and how probably it is kept."""

    share: float
    agreement: float
    kept_with: float


SPOOLS = {
    "uniform 5 %": (Stratum(1, 0.95, 0.05),),
    "and uncertain frames": (Stratum(0.9, 0.98, 0.05), Stratum(0.1, 0.75, 0.3)),
    "and rare products": (Stratum(0.9, 0.98, 0.03), Stratum(0.08, 0.75, 0.2), Stratum(0.02, 0.9, 0.5)),
    "models that hardly differ": (Stratum(0.9, 0.999, 0.05), Stratum(0.1, 0.99, 0.5)),
}

TESTED = {"scores": 1, "64 features": 64}
"""What is tested for drift, and how many numbers it has for each photo."""


@click.command()
@click.option("--runs", default=2000, help="Simulated runs of each setting.")
@click.option("--looks", default=100_000, help="Looks of each sequence.")
@click.option("--json", "as_json", is_flag=True, help="The result as JSON.")
def main(runs: int, looks: int, as_json: bool) -> None:
    """Simulates every statistic and prints how often it was right."""
    rng = np.random.default_rng(20)
    parts: dict[str, Callable[[], list[Row]]] = {
        "Intervals of a share: mean coverage over 95 shares, %": lambda: shares(runs, rng),
        "Intervals of a difference": lambda: differences(runs, rng),
        "Weighted shares": lambda: weighted(runs, rng),
        "Sequences": lambda: sequences(runs, looks, rng),
        "Alarms after a fall": lambda: delays(min(runs, 200), rng),
        "Drift of 40 products": lambda: drifts(min(runs, 200), rng),
    }
    document = {}
    for title, part in parts.items():
        document[title] = part()
        if not as_json:
            Console(width=TABLE_WIDTH, soft_wrap=True).print(table(title, document[title]))
    if as_json:
        click.echo(json_bytes(document).decode(), nl=False)


def shares(runs: int, rng: np.random.Generator, counts: tuple[int, ...] = COUNTS) -> list[Row]:
    """Coverage of each method: simulated mean over `SHARES`, computed lowest, and where 94 to 96 % can be had."""
    rows = []
    for n in counts:
        exact = {name: coverage(interval(np.arange(n + 1), n), n) for name, interval in methods().items()}
        can_be = np.array([attainable(n, share) for share in SHARES])
        for name, interval in methods().items():
            low, high = interval(np.arange(n + 1), n)
            drawn = rng.binomial(n, SHARES, size=(runs, len(SHARES)))
            covered = (low[drawn] <= SHARES) & (np.array(SHARES) <= high[drawn])
            inside = (exact[name] >= BAND[0]) & (exact[name] <= BAND[1])
            rows.append(
                {
                    "n": n,
                    "interval": name,
                    "mean": 100 * float(covered.mean()),
                    "mean where attainable": 100 * float(covered[:, can_be].mean()),
                    "elsewhere": 100 * float(covered[:, ~can_be].mean()) if not can_be.all() else None,
                    "lowest": 100 * float(exact[name].min()),
                    "shares within 94-96": int(inside.sum()),
                    "attainable": int(can_be.sum()),
                }
            )
    return rows


def methods() -> dict[str, Callable[[NDArray[np.int64], int], Interval]]:
    """Lower and upper ends for counts, by method; ours first."""
    from scipy.stats import beta, chi2

    def each(interval: Callable[[int, int], tuple[float, float]]) -> Callable[[NDArray[np.int64], int], Interval]:
        def of_all(counts: NDArray[np.int64], n: int) -> Interval:
            low, high = zip(*(interval(count, n) for count in counts.tolist()), strict=True)
            return np.array(low), np.array(high)

        return of_all

    def jeffreys(x: NDArray[np.int64], n: int) -> Interval:
        low, high = beta.ppf(0.025, x + 0.5, n - x + 0.5), beta.ppf(0.975, x + 0.5, n - x + 0.5)
        return np.where(x > 0, low, 0), np.where(x < n, high, 1)

    def clopper_pearson(x: NDArray[np.int64], n: int) -> Interval:
        low, high = beta.ppf(0.025, x, n - x + 1), beta.ppf(0.975, x + 1, n - x)
        return np.where(x > 0, low, 0), np.where(x < n, high, 1)

    def agresti_coull(x: NDArray[np.int64], n: int) -> Interval:
        z2 = float(chi2.ppf(0.95, 1))
        share = (x + z2 / 2) / (n + z2)
        half = np.sqrt(z2 * share * (1 - share) / (n + z2))
        return share - half, share + half

    return {
        "ours": each(share_interval),
        "Wilson": each(wilson_interval),
        "mid-P": mid_p,
        "Jeffreys": jeffreys,
        "Agresti-Coull": agresti_coull,
        "Clopper-Pearson": clopper_pearson,
    }


def mid_p(x: NDArray[np.int64], n: int) -> Interval:
    """Clopper and Pearson's with half of the probability of the count itself, by halving."""
    from scipy.stats import binom

    def solved(is_below: Callable[[NDArray[np.float64]], NDArray[np.bool_]]) -> NDArray[np.float64]:
        low, high = np.zeros(len(x)), np.ones(len(x))
        for _ in range(50):
            middle = (low + high) / 2
            low, high = np.where(is_below(middle), middle, low), np.where(is_below(middle), high, middle)
        return high

    low = solved(lambda p: (binom.sf(x - 1, n, p) + binom.sf(x, n, p)) / 2 < 0.025)
    high = solved(lambda p: (binom.cdf(x - 1, n, p) + binom.cdf(x, n, p)) / 2 > 0.025)
    return np.where(x > 0, low, 0), np.where(x < n, high, 1)


def coverage(interval: Interval, n: int) -> NDArray[np.float64]:
    """Exact probability that the interval holds each of `SHARES`."""
    from scipy.stats import binom

    truth = np.array(SHARES)[:, None]
    return np.asarray(
        (binom.pmf(np.arange(n + 1), n, truth) * ((interval[0] <= truth) & (truth <= interval[1]))).sum(1)
    )


def attainable(n: int, share: float) -> bool:
    """Whether any range of counts has a probability of 94 to 96 %, without which no interval can cover so often."""
    from scipy.stats import binom

    below = np.concatenate([[0], binom.cdf(np.arange(n + 1), n, share)])
    last = np.searchsorted(below, below + BAND[0])
    inside = last <= n + 1
    return bool((below[last[inside]] - below[inside] <= BAND[1]).any())


def differences(runs: int, rng: np.random.Generator) -> list[Row]:
    """Coverage of the paired interval and of that for different photos."""
    rows = []
    for n in (36, 300, 1265):
        for lost, gained in ((0.1, 0.05), (0.03, 0.02), (0.02, 0.02)):
            drawn = rng.multinomial(n, [lost, gained, 1 - lost - gained], size=runs)[:, :2].tolist()
            ends = [paired_interval(b, c, n) for b, c in drawn]
            rows.append(
                _covered(f"same {n} photos, {100 * lost:g} % lost, {100 * gained:g} % gained", ends, lost - gained)
            )
    for n, m, first, second in ((1265, 300, 0.95, 0.9), (300, 300, 0.98, 0.9), (50, 50, 0.95, 0.95)):
        pairs = zip(rng.binomial(n, first, runs).tolist(), rng.binomial(m, second, runs).tolist(), strict=True)
        ends = [difference_interval(Proportion(x, n), Proportion(y, m)) for x, y in pairs]
        rows.append(_covered(f"{n} and {m} photos, {100 * first:g} and {100 * second:g} %", ends, first - second))
    return rows


def _covered(setting: str, ends: list[tuple[float, float]], truth: float) -> Row:
    return {"setting": setting, "coverage": 100 * float(np.mean([low <= truth <= high for low, high in ends]))}


def weighted(runs: int, rng: np.random.Generator, seen: tuple[int, ...] = (2000, 20_000)) -> list[Row]:
    """Bias, and coverage of the camera's true agreement and of that over the frames seen."""
    return [_spool(name, strata, frames, runs, rng) for name, strata in SPOOLS.items() for frames in seen]


def _spool(name: str, strata: tuple[Stratum, ...], frames: int, runs: int, rng: np.random.Generator) -> Row:
    common, agrees, kept_with = np.array([(s.share, s.agreement, s.kept_with) for s in strata]).T
    truth = float(common @ agrees)
    errors, unweighted, hits, hits_seen, kept = [], [], [], [], []
    for _ in range(runs):
        kind = rng.choice(len(strata), frames, p=common)
        same, is_kept = rng.random(frames) < agrees[kind], rng.random(frames) < kept_with[kind]
        found = weighted_share(same[is_kept], kept_with[kind][is_kept])
        errors.append(found.value - same.mean())
        unweighted.append(same[is_kept].mean() - same.mean())
        hits.append(found.low <= truth <= found.high)
        hits_seen.append(found.low <= same.mean() <= found.high)
        kept.append(found.n)
    return {
        "spool": name,
        "frames": frames,
        "kept": int(np.mean(kept)),
        "agreement": 100 * truth,
        "bias, points": 100 * float(np.mean(errors)),
        "without weights": 100 * float(np.mean(unweighted)),
        "coverage": 100 * float(np.mean(hits)),
        "of the frames seen": 100 * float(np.mean(hits_seen)),
    }


def sequences(runs: int, looks: int, rng: np.random.Generator) -> list[Row]:
    """Streams that keep their agreement: how many were ever called wrong, when looked at after every frame."""
    return [_ever_wrong(agreement, runs, looks, rng) for agreement in (0.8, 0.95, 0.99)]


def _ever_wrong(agreement: float, runs: int, looks: int, rng: np.random.Generator) -> Row:
    naive, sequence = (_boundary(too, agreement, looks) for too in (_outside_wilson, _outside_sequence))
    successes = np.zeros(runs, np.int64)
    wrong = {"fixed-n interval": np.zeros(runs, bool), "confidence sequence": np.zeros(runs, bool)}
    bets, alarm = np.zeros((runs, len(TILTS))), np.zeros(runs, bool)
    for look in range(1, looks + 1):
        agrees = rng.random(runs) < agreement
        successes += agrees
        for name, (fewest, most) in zip(wrong, (naive, sequence), strict=True):
            wrong[name] |= (successes < fewest[look - 1]) | (successes > most[look - 1])
        bets = stakes_after(bets, agrees, look=look, threshold=agreement)
        alarm |= bets.sum(axis=1) + 1 / (look + 1) >= 20
    rates = {name: 100 * float(each.mean()) for name, each in (wrong | {"alarm": alarm}).items()}
    return {"agreement and threshold": 100 * agreement, "looks": looks, "streams": runs, **rates}


def _boundary(
    too: Callable[[int, int, float], tuple[bool, bool]], share: float, looks: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The fewest and most successes whose interval holds the share, after each look. Both grow by 0 or 1 at a look."""
    fewest, most = [0], [0]
    for look in range(1, looks + 1):
        fewest.append(fewest[-1] + too(fewest[-1], look, share)[0])
        most.append(most[-1] + (not too(most[-1] + 1, look, share)[1]))
    return np.array(fewest[1:]), np.array(most[1:])


def _outside_wilson(successes: int, n: int, share: float) -> tuple[bool, bool]:
    """Whether so many are too few, or too many, for the share."""
    low, high = wilson_interval(successes, n)
    return high < share, low > share


def _outside_sequence(successes: int, n: int, share: float) -> tuple[bool, bool]:
    """The same by the confidence sequence; its ends themselves would take fifty times as long."""
    limit = math.log(2 / 0.05)
    return log_capital(successes, n, share) >= limit, log_capital(n - successes, n, 1 - share) >= limit


def delays(runs: int, rng: np.random.Generator) -> list[Row]:
    """Looks from a fall of agreement to the alarm, with a threshold of 95 %."""
    rows = []
    for good in (0, 1000, 100_000):
        for fallen in (0.92, 0.85, 0.5):
            found = [_delay(good, fallen, rng) for _ in range(min(runs, 20) if good > 1000 else runs)]
            rows.append(
                {"good looks at 98 %": good, "then": 100 * fallen, "median looks to the alarm": int(np.median(found))}
            )
    return rows


def _delay(good: int, fallen: float, rng: np.random.Generator) -> int:
    alarm = AgreementAlarm(0.95)
    for agrees in (rng.random(good) < 0.98).tolist():
        alarm.look(agrees)
    looks = 0
    while not alarm.raised:
        looks += 1
        alarm.look(bool(rng.random() < fallen))
    return looks


def drifts(
    runs: int,
    rng: np.random.Generator,
    shifts: tuple[tuple[float, int], ...] = ((0.0, 0), (1.0, 4), (2.0, 4)),
    tested: Mapping[str, int] = TESTED,
) -> list[Row]:
    """Forty products of 12 old and 30 new photos, some shifted: how often any other is called drifted, and those."""
    names = [f"product {i}" for i in range(40)]
    before, now = np.repeat(np.arange(40), 12), np.repeat(np.arange(40), 30)
    rows = []
    for what, features in tested.items():
        for shift, drifted in shifts:
            any_false, found = 0, 0
            for _ in range(runs):
                old, new = rng.normal(size=(len(before), features)), rng.normal(size=(len(now), features))
                new[now < drifted] += shift / np.sqrt(features)
                result = drift_by_product(old, new, products_before=before, products_now=now, names=names)
                called = {each.name for each in result if each.is_real}
                any_false += bool(called - set(names[:drifted]))
                found += len(called & set(names[:drifted]))
            rows.append(
                {
                    "tested": what,
                    "drifted": f"{drifted} by {shift:g} σ",
                    "runs with a false one": 100 * any_false / runs,
                    "drifted ones found": 100 * found / (runs * drifted) if drifted else None,
                }
            )
    return rows


def table(title: str, rows: list[Row]) -> Table:
    """Rows of figures."""
    found = Table(title=title)
    for column in rows[0]:
        found.add_column(column, justify="left" if isinstance(rows[0][column], str) else "right")
    for row in rows:
        found.add_row(*("" if v is None else f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()))
    return found


if __name__ == "__main__":
    main()
