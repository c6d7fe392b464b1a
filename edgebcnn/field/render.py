"""Renders an audit as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from edgebcnn.field.findings import Findings, ProductFinding
from edgebcnn.report.drift import Drift

SHOWN_PRODUCTS = 10


def tables(found: Findings, *, reference: str) -> list[Table]:
    """Returns tables of agreement, drift, and the products that suffered or drifted most; `report.json` has all.

    Args:
        found: The findings of the audit.
        reference: Name of the photos that represent the export.
    """
    overall = Table(title="Agreement of edge and full model", title_justify="left")
    overall.add_column("")
    overall.add_column("agreement")
    value, low, high = found.change
    overall.add_row("in the field", str(found.agreement))
    overall.add_row(f"at export ({reference})", str(found.export))
    overall.add_row("change, points", f"{100 * value:+.1f} (95 % CI {100 * low:+.1f} to {100 * high:+.1f})")
    shown = [overall, _drifts("Drift since export", found.drifts)]
    suffered = found.products[:SHOWN_PRODUCTS]
    products = Table(title=_title("Products by loss of agreement", len(found.products)), title_justify="left")
    for heading in ("product", "in the field", "at export", "p", "q", ""):
        products.add_column(heading)
    for each in suffered:
        products.add_row(*_product(each))
    shown.append(products)
    if found.product_drifts:
        title = _title("Products by drift of the full model's embedding", len(found.product_drifts))
        shown.append(_drifts(title, found.product_drifts[:SHOWN_PRODUCTS]))
    return shown


def _drifts(title: str, drifts: tuple[Drift, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in ("of", "before", "now", "size", "p", ""):
        table.add_column(heading)
    for each in drifts:
        verdict = "drifted" if each.is_real else ""
        table.add_row(each.name, f"n={each.n_before}", f"n={each.n_now}", f"{each.size:.3f}", _p(each.p_value), verdict)
    return table


def _product(each: ProductFinding) -> tuple[str, ...]:
    export = "no photo" if each.export is None else str(each.export)
    return each.name, str(each.field), export, _p(each.p_value), _p(each.q_value), each.level or ""


def _title(text: str, count: int) -> str:
    return f"{text} ({min(count, SHOWN_PRODUCTS)} of {count})"


def _p(p_value: float) -> str:
    return f"{p_value:.3f}" if p_value >= 0.001 else "< 0.001"
