"""Plots accuracy against latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def latency_figure(benchmark: Mapping[str, Any]) -> Any:
    """A matplotlib figure with a point for each candidate: color by precision, marker by delegate and threads.

    Bars: the 95 % interval of the accuracy, and the medians of the fastest and the slowest round.

    Args:
        benchmark: As `BenchmarkReport.as_json` gives it.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    measured = benchmark["measured"]
    colours = {name: f"C{place}" for place, name in enumerate(_each(measured, lambda one: one["receipt"]["precision"]))}
    markers = dict(zip(_each(measured, _delegate), _MARKERS * len(measured), strict=False))
    for one in measured:
        latency, share = one["latency_ms"], one["accuracy"]["at_export"] or one["accuracy"]["golden"]
        axes.errorbar(
            latency["p50"],
            100 * share["value"],
            xerr=_arms(latency["p50"], latency["lowest_round"], latency["highest_round"]),
            yerr=_arms(100 * share["value"], 100 * share["low"], 100 * share["high"]),
            color=colours[one["receipt"]["precision"]],
            marker=markers[_delegate(one)],
            capsize=2,
            linestyle="",
            label=f"{one['receipt']['precision']} · {_delegate(one)}",
        )
    axes.set(xscale="log")
    for axis_format in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis_format("{x:g}")  # 30 in place of 3 × 10¹
    axes.set(xlabel="latency of a photo (ms)", ylabel=_accuracy_label(measured))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _each(measured: Any, name: Any) -> list[str]:
    return list(dict.fromkeys(map(name, measured)))


def _delegate(one: Mapping[str, Any]) -> str:
    """`XNNPACK, 2 threads`."""
    receipt = one["receipt"]
    name = receipt["delegate"] or receipt["runtime"]
    threads = receipt["threads"]
    return f"{name}, {threads} thread{'s' if threads != 1 else ''}" if threads else str(name)


def _arms(value: float, low: float, high: float) -> list[list[float]]:
    """Lengths of an error bar; a median of all may lie a rounding outside those of the rounds."""
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _accuracy_label(measured: Any) -> str:
    """Names the photos that the accuracies were measured on."""
    held_out = {(one["accuracy"]["at_export"] or {}).get("n") for one in measured}
    sizes = {n or measured[0]["accuracy"]["golden"]["n"] for n in held_out}
    photos = "golden photos" if held_out == {None} else "held-out photos"
    return f"accuracy, % of {' or '.join(f'{n:,}' for n in sorted(sizes))} {photos}"
