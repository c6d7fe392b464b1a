"""Draws the charts of a report as SVG, each a `data:` URL that needs no file."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec

COLOURS = {"full": "#1f5fa8", "compact": "#9a5b00", "edge": "#b3261e", "export": "#1f5fa8", "field": "#b3261e"}
"""They differ in brightness too, for color-blind readers and black-and-white printers."""

DARK_COLOURS = {"full": "#7fb2ee", "compact": "#e0a03a", "edge": "#f2897f", "export": "#7fb2ee", "field": "#f2897f"}
"""The same on a dark page."""

MARKERS = {"full": "o", "compact": "s", "edge": "^", "export": "o", "field": "^"}

SHOWN_PRODUCTS = 30

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # letters as letters: smaller, and they can be found
    "svg.hashsalt": "edgebcnn",  # the same report gives the same bytes
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


_P = ParamSpec("_P")


def _drawn(draw: Callable[_P, Any]) -> Callable[_P, str]:
    """Makes a function that returns a matplotlib figure return its `data:` URL."""

    @wraps(draw)
    def drawn(*args: _P.args, **kwargs: _P.kwargs) -> str:
        from matplotlib import rc_context

        picture = io.BytesIO()
        with rc_context(_STYLE):
            draw(*args, **kwargs).savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
        return f"data:image/svg+xml;base64,{base64.b64encode(picture.getvalue()).decode()}"

    return drawn


@_drawn
def reliability(quality: Mapping[str, Any]) -> Any:
    """Accuracy of each model against its score, with 95 % intervals; on the diagonal, scores match the accuracy.

    Args:
        quality: Of each model, as `Fidelity.as_json` has it.
    """
    figure, axes = _figure(4.6)
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    for place, (model, of_model) in enumerate(quality.items()):
        bins = of_model["reliability"]
        scores = [each["score"] + 0.006 * (place - 1) for each in bins]  # side by side, so that none hides another
        axes.errorbar(
            scores,
            [each["accuracy"]["value"] for each in bins],
            yerr=_arms(each["accuracy"] for each in bins),
            **_look(model),
        )
    axes.set(xlabel="score", ylabel="accuracy", xlim=(0, 1.03), ylim=(-0.02, 1.03))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return figure


@_drawn
def products(of_products: Sequence[Mapping[str, Any]]) -> Any:
    """Accuracy of full and edge model on the products that changed most, with 95 % intervals.

    Args:
        of_products: As `Fidelity.as_json` has them.
    """
    changed = sorted(of_products, key=lambda each: -abs(each["accuracy_drop"]["value"]))[:SHOWN_PRODUCTS]
    shown = sorted(changed, key=lambda each: each["accuracy_drop"]["value"])
    figure, axes = _by_product(
        {f"{_shortened(each['name'])} ({each['agreement']['n']})": each["accuracy"] for each in shown}, ("full", "edge")
    )
    axes.set(xlabel="accuracy (number of photos in brackets)")
    return figure


@_drawn
def field_products(of_products: Sequence[Mapping[str, Any]]) -> Any:
    """Agreement at export and in the field on the first products, with 95 % intervals.

    Args:
        of_products: As `Findings.as_json` has them.
    """
    shown = [each for each in of_products if each["export"]][:SHOWN_PRODUCTS]
    figure, axes = _by_product(
        {f"{_shortened(each['name'])} ({each['field']['n']})": each for each in reversed(shown)}, ("export", "field")
    )
    axes.set(xlabel="agreement (number of frames in brackets)")
    return figure


@_drawn
def spreads(of_looks: Sequence[Mapping[str, Any]]) -> Any:
    """Median, middle half and middle 90 % of each number, at export and in the field.

    Args:
        of_looks: As `Findings.as_json` has its `spreads`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 0.9 * len(of_looks)), layout="constrained")
    for axes, each in zip(figure.subplots(len(of_looks), squeeze=False)[:, 0], of_looks, strict=True):
        for place, side in enumerate(("field", "export")):
            low, quarter, median, three_quarters, high = each[side]
            axes.plot([low, high], [place, place], color=COLOURS[side], linewidth=1)
            axes.plot([quarter, three_quarters], [place, place], color=COLOURS[side], linewidth=5, alpha=0.4)
            axes.plot(median, place, MARKERS[side], color=COLOURS[side], markersize=5)
        axes.set(ylim=(-0.7, 1.7))
        axes.set_yticks([0, 1], ["field", "export"], fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(each["name"], fontsize=9, loc="left")
    return figure


@_drawn
def layers(names: Sequence[str], sqnr_db: Sequence[float | None]) -> Any:
    """Signal-to-quantization-noise ratio of each layer, in the order of computation; empty if nothing is lost.

    Args:
        names: The layers.
        sqnr_db: Of each, None where nothing is lost.
    """
    figure, axes = _figure(3)
    found = [(place, ratio) for place, ratio in enumerate(sqnr_db) if ratio is not None]
    axes.plot([place for place, _ in found], [ratio for _, ratio in found], ".-", color="0.35")
    lowest = sorted(found, key=lambda each: each[1])[:3]
    axes.plot([place for place, _ in lowest], [ratio for _, ratio in lowest], "o", color=COLOURS["edge"])
    worst = ", ".join(_shortened(names[place]) for place, _ in lowest)
    axes.set(xlabel="layer, in the order of computation", ylabel="SQNR (dB)")
    axes.set_title(f"lowest: {worst}", fontsize=8, loc="left", parse_math=False)
    return figure


@_drawn
def losses(curve: Sequence[Mapping[str, Any]], *, photos: int) -> Any:
    """Loss of fine-tuning against the number of photos; lines mark the ends of epochs.

    Args:
        curve: As `Tuning.as_json` has it.
        photos: Of one epoch.
    """
    figure, axes = _figure(3)
    axes.plot([point["photos"] for point in curve], [point["loss"] for point in curve], ".-", color=COLOURS["edge"])
    for end in range(photos, curve[-1]["photos"] + 1, photos):
        axes.axvline(end, color="0.8", linewidth=1, zorder=0)
    axes.set(xlabel="photos learned from", ylabel="loss")
    return figure


def _figure(height_in: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, height_in), layout="constrained")
    return figure, figure.subplots()


def _by_product(shares: Mapping[str, Mapping[str, Any]], sides: tuple[str, str]) -> tuple[Any, Any]:
    """Two shares with their intervals for each product, the first product at the bottom."""
    figure, axes = _figure(1 + 0.3 * len(shares))
    for side, offset in zip(sides, (0.14, -0.14), strict=True):
        of_side = [each[side] for each in shares.values()]
        places = [place + offset for place in range(len(shares))]
        axes.errorbar([share["value"] for share in of_side], places, xerr=_arms(of_side), **_look(side))
    axes.set_yticks(range(len(shares)), list(shares), fontsize=8, parse_math=False)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.7, len(shares) - 0.3))
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.3, 1), ncols=2)
    return figure, axes


def _look(model: str) -> dict[str, Any]:
    return {
        "color": COLOURS[model],
        "marker": MARKERS[model],
        "markersize": 4,
        "linestyle": "",
        "elinewidth": 1,
        "label": model,
    }


def _arms(shares: Any) -> list[list[float]]:
    """Lengths of error bars, below and above."""
    below, above = zip(*((s["value"] - s["low"], s["high"] - s["value"]) for s in shares), strict=True)
    return [[max(0.0, arm) for arm in arms] for arms in (below, above)]


def _shortened(name: str) -> str:
    """Shortens a name in the middle, because look-alike products often differ at the end."""
    return name if len(name) <= 26 else f"{name[:12]}…{name[-13:]}"
