"""Decides whether a model file lost too much accuracy against the compact model to be exported.

Three things are judged on the same held-out photos: top-1, each product, and for each product the one that it is newly
taken for. Each refuses an export when its loss is both large and real: larger, as measured, than a limit, and more than
chance makes of a model that lost nothing. Such a model is refused in at most `CHANCE` of all exports, however many
products there are. `docs/gate.md` says why, and what that refuses.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import replacing_folder
from edgebcnn.bundle import Label, Precision
from edgebcnn.errors import BundleError, GateError
from edgebcnn.quantize.calibration.recipe import GateLimits
from edgebcnn.report.agreement import CONFIDENCE, AccuracyDrop, wilson_interval
from edgebcnn.report.drift import holm

CHANCE = 1 - CONFIDENCE
"""Share of exports that may refuse a model that lost nothing. Half is for top-1, whose interval has two tails."""

_CHANCE_PRODUCTS = _CHANCE_PAIRS = CHANCE / 4

_REPORT = "report.json"

_NAMED = 3  # products in a sentence; the report names all

Outcome = Literal["passed", "unclear", "refused"]
"""From good to bad; `unclear`: above the limit, but with so few photos that chance explains it."""

_SENTENCE_STARTS: dict[Outcome, str] = {
    "passed": "Export accepted",
    "unclear": "Export accepted, but unclear",
    "refused": "Accuracy loss above the limit",
}


@dataclass(frozen=True)
class ProductLoss:
    """A product that lost more than the limit, or that was newly taken for another on more than that.

    Attributes:
        product: What the photos show.
        taken_for: What they are newly taken for; None where this is about all wrong answers.
        n: The product's photos.
        lost: Photos that only the compact model names right; with `taken_for`, and the edge model by that name.
        gained: Photos that only the edge model names right; with `taken_for`, and the compact model by that name.
        p_value: How likely chance alone takes so much from any product, Holm's correction included.
        outcome: `unclear` or `refused`.
    """

    product: str
    taken_for: str | None
    n: int
    lost: int
    gained: int
    p_value: float
    outcome: Outcome

    def __str__(self) -> str:
        """`Oat milk 5 of 15`, `Oat milk for Soy milk on 5 of 15`."""
        pair = "" if self.taken_for is None else f" for {self.taken_for} on"
        return f"{self.product}{pair} {self.lost - self.gained} of {self.n}"

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        pair = {} if self.taken_for is None else {"taken_for": self.taken_for}
        counts = {"n": self.n, "lost": self.lost, "gained": self.gained}
        return {"product": self.product, **pair, **counts, "p_value": self.p_value, "outcome": self.outcome}


@dataclass(frozen=True)
class Verdict:
    """The verdict on one model file.

    Attributes:
        gates: The limits.
        drop: Top-1 of the compact model less that of this file.
        products: Products that lost more than their limit, the largest loss first.
        pairs: Products newly taken for one other on more photos than the limit, the most first.
    """

    gates: GateLimits
    drop: AccuracyDrop
    products: tuple[ProductLoss, ...]
    pairs: tuple[ProductLoss, ...]

    @property
    def drop_outcome(self) -> Outcome:
        """Outcome of the top-1 drop: refused where it is over the limit and its interval lies above 0."""
        return _outcome(is_large=100 * self.drop.value > self.gates.max_drop, is_real=self.drop.low > 0)

    @property
    def outcome(self) -> Outcome:
        """Refused where anything is; unclear where top-1 is."""
        return "refused" if _refused((*self.products, *self.pairs)) else self.drop_outcome

    def reasons(self) -> list[str]:
        """The reasons for a refusal, one clause each; the drop where nothing refuses."""
        drop = f"top-1 drop {self.drop}, limit {self.gates.max_drop:g}"
        products, pairs = _refused(self.products), _refused(self.pairs)
        reasons = [drop] if self.drop_outcome == "refused" or not (products or pairs) else []
        if products:
            reasons.append(f"photos lost by {_listed(products)}, limit {self.gates.max_product_drop:g} points")
        if pairs:
            reasons.append(f"newly taken: {_listed(pairs)}, limit {self.gates.max_new_confusion:g} points")
        return reasons

    def flags(self) -> list[str]:
        """The flags of `edgebcnn export` whose limits were exceeded."""
        refused = {
            "--max-drop": self.drop_outcome == "refused",
            "--max-product-drop": bool(_refused(self.products)),
            "--max-new-confusion": bool(_refused(self.pairs)),
        }
        return [flag for flag, is_refused in refused.items() if is_refused]

    def __str__(self) -> str:
        """One line: `Export accepted: top-1 drop 0.2 points (95 % CI -0.6 to 1.0, n=1265), limit 0.5`."""
        advice = "; too few photos to tell it from chance: hold out more" if self.outcome == "unclear" else ""
        return f"{_SENTENCE_STARTS[self.outcome]}: {'; '.join(self.reasons())}{advice}"

    def as_json(self) -> dict[str, Any]:
        """Everything but the limits, which are those of the whole export."""
        return {
            "outcome": self.outcome,
            "drop": {**self.drop.as_json(), "outcome": self.drop_outcome},
            "products": [loss.as_json() for loss in self.products],
            "pairs": [loss.as_json() for loss in self.pairs],
        }


def judge_export(
    truth: NDArray[np.integer],
    compact: NDArray[np.integer],
    edge: NDArray[np.integer],
    *,
    labels: Sequence[Label],
    gates: GateLimits,
) -> Verdict:
    """Judges a model file by its accuracy loss against the compact model.

    Args:
        truth: `(n,)` class ids, from labels.
        compact: `(n,)` class ids, top-1 of the compact model in float.
        edge: `(n,)` class ids, top-1 of the model file, for the same photos in the same order.
        labels: The products, in the order of class ids.
        gates: The limits.

    Raises:
        ValueError: there is no photo.
    """
    lost = _confusions(truth, edge, compact == truth, products=len(labels))
    gained = _confusions(truth, compact, edge == truth, products=len(labels))
    photos = np.bincount(truth, minlength=len(labels))
    wrong = photos - np.bincount(truth[compact == truth], minlength=len(labels))
    chance = _chance(int(gained.sum()), photos, wrong)
    rows, taken_for = np.arange(len(labels)), (lost - gained).argmax(axis=1)
    names = [label.name for label in labels]
    return Verdict(
        gates=gates,
        drop=AccuracyDrop(int(lost.sum()), int(gained.sum()), len(truth)),
        products=_losses(
            [(name, None) for name in names],
            np.column_stack([photos, lost.sum(axis=1), gained.sum(axis=1)]),
            chance,
            limit=gates.max_product_drop,
            level=_CHANCE_PRODUCTS,
        ),
        pairs=_losses(
            [(name, names[other]) for name, other in zip(names, taken_for, strict=True)],
            np.column_stack([photos, lost[rows, taken_for], gained[rows, taken_for]]),
            chance,
            limit=gates.max_new_confusion,
            level=_CHANCE_PAIRS,
        ),
    )


def gate_json(verdicts: Iterable[Verdict], gates: GateLimits, *, accepted: bool) -> dict[str, Any]:
    """The verdict on an export as a whole: the worst outcome, whether a refusal was overridden, and the limits."""
    outcome = max((verdict.outcome for verdict in verdicts), key=get_args(Outcome).index)
    return {"outcome": outcome, "accepted": accepted and outcome == "refused", "limits": gates.model_dump()}


def binomial_tail(n: int, share: float, *, at_least: int) -> float:
    """P(X ≥ at_least) for X ~ Binomial(n, share): Σ_{i ≥ at_least} C(n, i) shareⁱ (1 - share)ⁿ⁻ⁱ."""
    if at_least <= 0 or share >= 1:
        return float(at_least <= n)
    if share <= 0:
        return 0.0
    # In logarithms, because C(n, i) outgrows a float at n = 1030.
    fixed = math.lgamma(n + 1)
    terms = (
        fixed - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(share) + (n - i) * math.log1p(-share)
        for i in range(at_least, n + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def refused_folder(output: Path) -> Path:
    """Folder of the report of a refused export, next to the bundle that was not written."""
    return output.with_name(f"{output.name}.refused")


def check_refused_folder(output: Path) -> None:
    """Checks that the report of a refused export may be written: there is nothing there, or such a report.

    Raises:
        BundleError: there is something else.
    """
    folder = refused_folder(output)
    if folder.exists() and not (folder / _REPORT).is_file():
        raise BundleError(
            f"{folder} is reserved for the report of a refused export and holds something else: "
            "move it, or choose another --output"
        )


def refuse(verdicts: Mapping[Precision, Verdict], output: Path, *, files: Mapping[str, bytes], photos: str) -> None:
    """Stops an export that lost too much, and writes its report next to the bundle; does nothing where none did.

    Args:
        verdicts: By precision.
        output: Folder of the bundle, which stays as it is.
        files: What the bundle would have held; all below `report/` is written.
        photos: Name of the split: `test` or `val`.

    Raises:
        GateError: a model file is refused.
        StorageError: the disk is full, or the report cannot be written.
    """
    refused = {precision: verdict for precision, verdict in verdicts.items() if verdict.outcome == "refused"}
    if not refused:
        return
    report = refused_folder(output) / _REPORT
    _write_report(report.parent, files)
    losses = "; ".join(f"{precision}: {'; '.join(verdict.reasons())}" for precision, verdict in refused.items())
    flags = ", ".join(dict.fromkeys(flag for verdict in refused.values() for flag in verdict.flags()))
    recipe = "" if refused.keys() <= {"fp16", "float32"} else "calibrate on more or other photos (--recipe), "
    raise GateError(
        f"no bundle was written, because the accuracy loss against the compact model is above the limits on the "
        f"{photos} photos: {losses} (report: {report}); {recipe}raise {flags}, or accept it with --accept-drop",
        report=report,
    )


def forget_refusal(output: Path) -> None:
    """Removes the report of an earlier export that was refused, now that there is a bundle."""
    if (refused_folder(output) / _REPORT).is_file():
        shutil.rmtree(refused_folder(output), ignore_errors=True)


def _write_report(folder: Path, files: Mapping[str, bytes]) -> None:
    with replacing_folder(folder) as part:
        for name, content in files.items():
            if PurePosixPath(name).is_relative_to("report"):
                place = part / PurePosixPath(name).relative_to("report")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)


def _confusions(
    shown: NDArray[np.integer], said: NDArray[np.integer], among: NDArray[np.bool_], *, products: int
) -> NDArray[np.int64]:
    """Photos of each product that are named as each other one, `(k, k)`; its diagonal is 0."""
    counts = np.zeros((products, products), np.int64)
    np.add.at(counts, (shown[among], said[among]), 1)
    np.fill_diagonal(counts, 0)
    return counts


def _chance(gained: int, photos: NDArray[np.integer], wrong: NDArray[np.integer]) -> NDArray[np.float64]:
    """Share of each product's photos that a model which lost nothing loses by chance, `(k,)`.

    Such a model loses as many photos as it gains, so the gained ones tell the share: the upper end of its interval.
    Answers flip where they are uncertain: a product with more wrong answers than the average has more in proportion.
    """
    n = int(photos.sum())
    share = wilson_interval(gained, n)[1]
    average = wrong.sum() / n
    hardness = wrong / np.maximum(photos, 1) / average if average else np.zeros(len(photos))
    return np.minimum(1, share * np.maximum(1, hardness))


def _losses(
    names: Sequence[tuple[str, str | None]],
    counts: NDArray[np.integer],
    chance: NDArray[np.float64],
    *,
    limit: float,
    level: float,
) -> tuple[ProductLoss, ...]:
    """Those above the limit. Rows of `counts` are photos, lost and gained.

    Photos that are newly taken for one product are among those that were lost: their number, too, is at most binomial,
    and the largest of a product's pairs no more likely than the loss of so many. So m is products, not pairs.
    """
    rows = [(i, *counts[i].tolist()) for i in np.flatnonzero(counts[:, 0])]
    alone = [binomial_tail(n, float(chance[i]), at_least=lost - gained) for i, n, lost, gained in rows]
    losses = [
        ProductLoss(
            product=names[i][0],
            taken_for=names[i][1],
            n=n,
            lost=lost,
            gained=gained,
            p_value=p_value,
            outcome=_outcome(is_large=True, is_real=p_value <= level),
        )
        for (i, n, lost, gained), p_value in zip(rows, holm(np.array(alone)).tolist(), strict=True)
        if 100 * (lost - gained) > limit * n
    ]
    return tuple(sorted(losses, key=lambda loss: ((loss.gained - loss.lost) / loss.n, loss.product)))


def _outcome(*, is_large: bool, is_real: bool) -> Outcome:
    if not is_large:
        return "passed"
    return "refused" if is_real else "unclear"


def _refused(losses: Sequence[ProductLoss]) -> list[ProductLoss]:
    return [loss for loss in losses if loss.outcome == "refused"]


def _listed(losses: Sequence[ProductLoss]) -> str:
    more = len(losses) - _NAMED
    return ", ".join(str(loss) for loss in losses[:_NAMED]) + (f" and {more} more" if more > 0 else "")
