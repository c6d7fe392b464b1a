"""Plots accuracy and agreement against the size and the latency of the compact head."""

from __future__ import annotations

from typing import Any

from edgebcnn.report.ranks import CompressResult

_COLOURS = {"accuracy": "C0", "agreement": "C1"}
_STYLES = {"factorized": ":", "distilled": "-"}
_COSTS = {
    "parameters": ("parameters of the head", "{:,.0f}"),
    "latency_ms": ("latency of the head (ms, float, one thread)", "{:.2f}"),
}


def ranks_figure(result: CompressResult) -> Any:
    """A matplotlib figure of two panels, over parameters and over latency, with the intervals as bars.

    Args:
        result: The models.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for panel, (cost, (label, form)) in zip(panels, _COSTS.items(), strict=True):
        for quantity, colour in _COLOURS.items():
            for stage, style in _STYLES.items():
                _draw(panel, result, cost, quantity, stage, color=colour, linestyle=style)
        full = 100 * result.full.accuracy.value
        panel.axhline(
            full, color="0.6", linewidth=1, label=f"accuracy, full ({form.format(getattr(result.full, cost))})"
        )
        panel.set(xlabel=label, xscale="log")
        ranks = sorted(result.ranks, key=lambda each: each.distilled.parameters)
        costs = [getattr(each.distilled, cost) for each in ranks]
        panel.set_xticks(costs, [f"{form.format(at)}\nrank {each.rank}" for at, each in zip(costs, ranks, strict=True)])
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel(f"% of {result.full.accuracy.n} {result.held_out} photos")
    panels[1].legend(frameon=False, loc="lower right")
    return figure


def _draw(panel: Any, result: CompressResult, cost: str, quantity: str, stage: str, **look: Any) -> None:
    ranks = sorted(result.ranks, key=lambda each: each.distilled.parameters)
    models = [getattr(each, stage) for each in ranks]
    shares = [getattr(model, quantity) for model in models]
    values = [100 * share.value for share in shares]
    bars = [
        [100 * (share.value - share.low) for share in shares],
        [100 * (share.high - share.value) for share in shares],
    ]
    costs = [getattr(model, cost) for model in models]
    panel.errorbar(costs, values, bars, marker="o", markersize=3, capsize=2, label=f"{quantity}, {stage}", **look)
