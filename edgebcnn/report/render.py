"""How does a comparison of models look on a terminal, and as JSON?"""

from __future__ import annotations

from typing import Any

from rich.table import Table

from edgebcnn.report.agreement import Proportion
from edgebcnn.report.comparison import ModelComparison, PairResult


def comparison_table(comparison: ModelComparison) -> Table:
    """Accuracy of each model, then the agreement of each pair with the difference in accuracy between the two."""
    table = Table(title=f"{comparison.n} held-out photos")
    table.add_column("")
    table.add_column("%", justify="right")
    table.add_column("95 % CI", justify="right")
    table.add_column("accuracy difference")
    for model in comparison.models:
        table.add_row(f"accuracy, {model.name}", *_percent(model.accuracy))
    table.add_section()
    for pair in comparison.pairs:
        table.add_row(
            f"agreement, {pair.first} with {pair.second}", *_percent(pair.agreement), _difference(pair, comparison.n)
        )
    return table


def comparison_json(comparison: ModelComparison) -> dict[str, Any]:
    """Everything in the comparison, proportions in 0-1 with their counts and intervals."""
    names = [model.name for model in comparison.models]
    return {
        "n": comparison.n,
        "models": [{"name": model.name, "accuracy": model.accuracy.as_json()} for model in comparison.models],
        "pairs": [
            {
                "first": pair.first,
                "second": pair.second,
                "agreement": pair.agreement.as_json(),
                "mcnemar": pair.mcnemar.as_json(),
            }
            for pair in comparison.pairs
        ],
        "products": [
            {"name": product.name, "n": product.n, "right": dict(zip(names, product.right, strict=True))}
            for product in comparison.products
        ],
    }


def _percent(proportion: Proportion) -> tuple[str, str]:
    return f"{100 * proportion.value:.1f}", f"{100 * proportion.low:.1f}-{100 * proportion.high:.1f}"


def _difference(pair: PairResult, n: int) -> str:
    """`-1.2 points, p = 0.031`: the first model's accuracy less the second's, and McNemar's exact p-value."""
    points = 100 * (pair.mcnemar.only_first - pair.mcnemar.only_second) / n
    p_value = pair.mcnemar.p_value
    return f"{points:+.1f} points, " + (f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001")
