"""Plots what each int8 tensor keeps of the values it saw."""

from __future__ import annotations

import math
from typing import Any

from edgebcnn.report.calibration import CalibrationReport

_SHADES = {"lowest to highest": ("lowest", "highest", "0.85"), "0.1 to 99.9 %": ("p0_1", "p99_9", "C0")}


def ranges_figure(report: CalibrationReport) -> Any:
    """A matplotlib figure of two panels over the tensors: values and ranges, and the SQNR.

    Values and ranges are divided by the largest magnitude seen in their tensor.

    Args:
        report: The ranges.
    """
    from matplotlib.figure import Figure

    tensors = report.tensors
    places = range(len(tensors))
    largest = [max(-tensor.lowest, tensor.highest) or 1 for tensor in tensors]
    figure = Figure(figsize=(max(6, 0.17 * len(tensors)), 7), layout="constrained")
    values, noise = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    for label, (low, high, colour) in _SHADES.items():
        bottoms = [getattr(tensor, low) / most for tensor, most in zip(tensors, largest, strict=True)]
        tops = [getattr(tensor, high) / most for tensor, most in zip(tensors, largest, strict=True)]
        heights = [top - bottom for bottom, top in zip(bottoms, tops, strict=True)]
        values.bar(places, heights, bottom=bottoms, color=colour, label=label)
    for end in ("low", "high"):
        ends = [getattr(tensor, end) / most for tensor, most in zip(tensors, largest, strict=True)]
        values.plot(
            places, ends, "_", color="C3", markersize=7, markeredgewidth=2, label="range" if end == "low" else ""
        )
    values.set(ylabel="share of the largest magnitude", ylim=(-1.1, 1.1))
    figure.suptitle(f"{len(report.photos)} photos ({report.source}), recipe {report.recipe}")
    values.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    noise.plot(places, [t.sqnr_db if math.isfinite(t.sqnr_db) else math.nan for t in tensors], ".-", color="0.3")
    noise.set(ylabel="SQNR (dB)")
    noise.set_xticks(places, [tensor.name for tensor in tensors], rotation=90, fontsize=6)
    for panel in (values, noise):
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
    return figure
