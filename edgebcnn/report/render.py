"""Formats the figures of one model, and a comparison of several, as terminal tables and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from edgebcnn.report.agreement import Proportion
from edgebcnn.report.comparison import ModelComparison, PairResult
from edgebcnn.report.evaluation import Averages, Evaluation, ProductFigures

SHOWN_PRODUCTS = 15
SHOWN_PAIRS = 10


def comparison_table(comparison: ModelComparison, *, photos: str = "held-out photos") -> Table:
    """Tabulates the accuracy of each model, then the agreement and the change in accuracy of each pair.

    Args:
        comparison: The models.
        photos: Name of the photos in the title.
    """
    table = Table(title=f"{comparison.n} {photos}")
    table.add_column("")
    table.add_column("%", justify="right")
    table.add_column("95 % CI", justify="right")
    table.add_column("accuracy (McNemar)")
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


def evaluation_tables(evaluation: Evaluation, *, title: str, macro: Averages, weighted: Averages) -> list[Table]:
    """Tabulates one model's overall figures and, if any photo is wrong, products with errors and confused pairs.

    Args:
        evaluation: All figures except the averages.
        title: Names the model and the photos.
        macro: Averages over products.
        weighted: Averages over photos.
    """
    tables = [_overall_table(evaluation, title, {"macro": macro, "weighted": weighted})]
    if evaluation.wrong:
        tables += [_worst_products_table(evaluation), _confused_table(evaluation)]
    return tables


def evaluation_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns the evaluation without the misclassified photos, whose paths it does not know."""
    return {
        "n": evaluation.n,
        "top1": evaluation.top1.as_json(),
        "top5": None if evaluation.top5 is None else evaluation.top5.as_json(),
        "coarse": None if evaluation.coarse is None else evaluation.coarse.as_json(),
        "mean_score": evaluation.mean_score,
        "calibration_error": evaluation.calibration_error,
        "products": [
            {
                "name": product.name,
                "accuracy": product.accuracy.as_json(),
                "taken_for": None if product.taken_for is None else asdict(product.taken_for),
            }
            for product in evaluation.products
        ],
        "products_without_photos": list(evaluation.unseen),
        "confused_pairs": [{**asdict(pair), "count": pair.count} for pair in evaluation.confused],
    }


def _overall_table(evaluation: Evaluation, title: str, averages: dict[str, Averages]) -> Table:
    table = Table(title=title)
    for column in ("", "%", "95 % CI", "n"):
        table.add_column(column, justify="right" if column else "left")
    rows = {"top-1 accuracy": evaluation.top1, "top-5 accuracy": evaluation.top5, "coarse accuracy": evaluation.coarse}
    for name, proportion in rows.items():
        if proportion is not None:
            table.add_row(name, *_percent(proportion), str(proportion.n))
    table.add_section()
    for kind, average in averages.items():
        for name, value in (("precision", average.precision), ("recall", average.recall), ("F1", average.f1)):
            table.add_row(f"{kind} {name}", f"{100 * value:.1f}")
    table.add_section()
    table.add_row("mean score", f"{100 * evaluation.mean_score:.1f}")
    table.add_row("calibration error", f"{100 * evaluation.calibration_error:.1f}")
    return table


def _worst_products_table(evaluation: Evaluation) -> Table:
    products = [product for product in evaluation.products if product.taken_for]
    products.sort(key=lambda product: (product.accuracy.value, -product.accuracy.n))
    shown = products[:SHOWN_PRODUCTS]
    total = f"{len(products)} of {len(evaluation.products)} products {'has' if len(products) == 1 else 'have'} errors"
    table = Table(title=total if len(shown) == len(products) else f"{total}, the worst {len(shown)}")
    table.add_column("product", overflow="fold")  # an ellipsis would hide the end of the name, where flavors are
    for column in ("n", "%", "95 % CI"):
        table.add_column(column, justify="right")
    table.add_column("most often taken for", overflow="fold")
    for product in shown:
        table.add_row(product.name, str(product.accuracy.n), *_percent(product.accuracy), _taken_for(product))
    return table


def _taken_for(product: ProductFigures) -> str:
    return f"{product.taken_for.name} ({product.taken_for.count})" if product.taken_for else ""


def _confused_table(evaluation: Evaluation) -> Table:
    shown = evaluation.confused[:SHOWN_PAIRS]
    total = f"{len(evaluation.confused)} confused pair{'s' * (len(evaluation.confused) != 1)}"
    table = Table(title=total if len(shown) == len(evaluation.confused) else f"{total}, the first {len(shown)}")
    for column in ("product", "taken for"):
        table.add_column(column, overflow="fold")
    for column in ("photos", "reversed"):
        table.add_column(column, justify="right")
    for pair in shown:
        table.add_row(pair.first, pair.second, str(pair.first_as_second), str(pair.second_as_first))
    return table


def _percent(proportion: Proportion) -> tuple[str, str]:
    return f"{100 * proportion.value:.1f}", f"{100 * proportion.low:.1f}-{100 * proportion.high:.1f}"


def _difference(pair: PairResult, n: int) -> str:
    """`-1.2 points, p = 0.031`: the first model's accuracy minus the second's, and McNemar's exact p-value."""
    points = 100 * (pair.mcnemar.only_first - pair.mcnemar.only_second) / n
    p_value = pair.mcnemar.p_value
    return f"{points:+.1f} points, " + (f"p = {p_value:.3f}" if p_value >= 0.001 else "p < 0.001")
