"""Plots which layers lose accuracy."""

from __future__ import annotations

from typing import Any

from edgebcnn.quantize.inspect.layers import LayerErrors


def layers_figure(errors: LayerErrors, *, title: str) -> Any:
    """A matplotlib figure over the layers: effect on the probabilities, where measured, and SQNR.

    Args:
        errors: The layers.
        title: Of the figure.
    """
    from matplotlib.figure import Figure

    places = range(len(errors.layers))
    is_measured = errors.distance is not None
    figure = Figure(figsize=(max(6, 0.17 * len(places)), 6 if is_measured else 4), layout="constrained")
    panels = figure.subplots(2 if is_measured else 1, 1, sharex=True, squeeze=False)[:, 0]
    if is_measured:
        worst = errors.worst()
        colours = ["C3" if layer in worst else "C0" for layer in errors.layers]
        panels[0].bar(places, [layer.alone or 0 for layer in errors.layers], color=colours)
        panels[0].set(ylabel="probability moved by\nthis layer alone")
    # A missing number leaves a gap.
    panels[-1].plot(places, [layer.sqnr_db for layer in errors.layers], ".-", color="0.3")
    panels[-1].set(ylabel="SQNR (dB)")
    panels[-1].set_xticks(places, [layer.name for layer in errors.layers], rotation=90, fontsize=6)
    figure.suptitle(title)
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(x=0.01)
    return figure
