"""Reports what compact models of several ranks keep of the full model, and what their heads cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from edgebcnn.report.agreement import Proportion


@dataclass(frozen=True)
class Judged:
    """One model on the held-out photos.

    Attributes:
        accuracy: Of its top-1, by the labels.
        agreement: Of its top-1 with the full model's; None for the full model itself.
        parameters: Of its head.
        latency_ms: Of its head.
    """

    accuracy: Proportion
    agreement: Proportion | None
    parameters: int
    latency_ms: float

    def as_json(self) -> dict[str, Any]:
        """Everything by name."""
        return {
            "accuracy": self.accuracy.as_json(),
            "agreement": None if self.agreement is None else self.agreement.as_json(),
            "head_parameters": self.parameters,
            "head_latency_ms": round(self.latency_ms, 4),
        }


@dataclass(frozen=True)
class RankResult:
    """A compact model of one rank.

    Attributes:
        run: Its run.
        rank: Its rank; None of `gap`, which has none.
        factorized: After factorization alone; of `gap`, a classifier that was never trained.
        distilled: After distillation; the same where there was none.
    """

    run: Path
    rank: int | None
    factorized: Judged
    distilled: Judged


@dataclass(frozen=True)
class CompressResult:
    """Compact models of one full model.

    Attributes:
        path: The run, or the folder of runs where several ranks were asked for.
        held_out: Which split the photos are from, `test` or `val`.
        full: The full model.
        ranks: One for each rank.
    """

    path: Path
    held_out: str
    full: Judged
    ranks: tuple[RankResult, ...]

    def as_json(self) -> dict[str, Any]:
        """Everything, proportions with their counts and intervals."""
        return {
            "path": str(self.path),
            "photos": self.held_out,
            "full": self.full.as_json(),
            "ranks": [
                {
                    "run": str(each.run),
                    "rank": each.rank,
                    "factorized": each.factorized.as_json(),
                    "distilled": each.distilled.as_json(),
                }
                for each in self.ranks
            ],
        }


def ranks_table(result: CompressResult) -> Table:
    """Accuracy and agreement with the full model, after factorization and after distillation, and the head's cost.

    Args:
        result: The models.
    """
    n = result.full.accuracy.n
    table = Table(title=f"{n} {result.held_out} photos, agreement with the full model; heads in float on one thread")
    for column in ("rank", "parameters", "ms"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("", "accuracy, %", "agreement, %"):
        table.add_column(column, no_wrap=True)
    for each in result.ranks:
        if each.rank is None:  # a new classifier, which nothing was said to yet
            _add(table, "none", "distilled", each.distilled)
        else:
            _add(table, str(each.rank), "factorized", each.factorized)
            _add(table, "", "distilled", each.distilled)
        table.add_section()
    _add(table, "full", "", result.full)
    return table


def _add(table: Table, rank: str, stage: str, model: Judged) -> None:
    cost = (f"{model.parameters:,}", f"{model.latency_ms:.3f}") if rank else ("", "")
    table.add_row(rank, *cost, stage, _percent(model.accuracy), _percent(model.agreement))


def _percent(proportion: Proportion | None) -> str:
    if proportion is None:
        return ""
    return f"{100 * proportion.value:.1f} ({100 * proportion.low:.1f}-{100 * proportion.high:.1f})"
