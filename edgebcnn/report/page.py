"""Renders the reports of an export and of an audit as self-contained HTML pages.

    page(json.loads(report_json), name="shelf", pictures=…)
    field_page(json.loads(report_json), name="shelf", pictures=…)

A page shows what `report.json` contains, and the photos on which edge and full model differ. Its first sentence says
what the report means. It needs Jinja2 and matplotlib (the `train` extra); no module that a device runs imports it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.report import figures

SHOWN_PHOTOS = 24
"""How many photos on which edge and full differ are shown per model file or audit; the JSON lists all."""

SHOWN_CONFUSIONS = 12

_VERDICTS = {
    "passed": "Export accepted",
    "unclear": "Export accepted, but there are too few photos to tell what was lost",
    "refused": "Export refused",
}

_THUMBNAIL_PX = 160
_JPEG_QUALITY = 75


def page(report: Mapping[str, Any], *, name: str, pictures: Callable[[int], NDArray[np.uint8]]) -> bytes:
    """Renders the page of an export.

    Args:
        report: Contents of `report.json`; each of its models has a `fidelity`, and may have `layers` and `latency`.
        name: Name of the model.
        pictures: Returns the `(h, w, 3)` uint8 RGB photo at a position of `disagreements`.
    """
    gate = report["gate"]
    return _html(
        "page.html.j2",
        name=name,
        held_out=report["held_out"],
        gate=gate,
        verdict=_VERDICTS[gate["outcome"]] + (" by the gate, and accepted by the user" if gate["accepted"] else ""),
        calibration=report["calibration"],
        models={precision: _model(model, report["calibration"]) for precision, model in report["models"].items()},
        thumbnail=lambda position: _thumbnail(pictures(position)),
        shown_confusions=SHOWN_CONFUSIONS,
    )


def field_page(report: Mapping[str, Any], *, name: str, pictures: Callable[[str], NDArray[np.uint8]]) -> bytes:
    """Renders the page of an audit.

    Args:
        report: Contents of its `report.json`.
        name: Name of the model.
        pictures: Returns the `(h, w, 3)` uint8 RGB frame of an id of `disagreements`.
    """
    return _html(
        "field.html.j2",
        name=name,
        report=report,
        spreads_figure=figures.spreads(report["spreads"]) if report["spreads"] else None,
        products_figure=figures.field_products(report["products"]),
        thumbnail=lambda frame: _thumbnail(pictures(frame)),
    )


def _html(template: str, **values: Any) -> bytes:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgebcnn", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shared = {"shown_photos": SHOWN_PHOTOS, "colours": figures.COLOURS, "dark_colours": figures.DARK_COLOURS}
    return environment.get_template(template).render(**values, **shared).encode(errors="replace")


def _model(model: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """Prepares one model file's section of the page."""
    found = model["fidelity"]
    gained = [each for each in found["confusions"] if each["gained"] > 0]
    lost = [each for each in reversed(found["confusions"]) if each["gained"] < 0]
    layers = (model.get("layers") or {}).get("layers")
    tuning = model.get("tuning")
    pairs = {(pair["first"], pair["second"]): pair for pair in found["distances"]}
    return {
        **model,
        "compact_agreement": pairs["edge", "compact"]["agreement"],
        "latency": model.get("latency"),
        "tuning": tuning and {**tuning, "figure": figures.losses(tuning["curve"], photos=tuning["photos"])},
        "untuned": _untuned(model.get("untuned")),
        "confusions": {"More often by the edge model": gained, "Less often by the edge model": lost},
        "reliability": figures.reliability(found["quality"]),
        "products_figure": figures.products(found["products"]),
        "layers_figure": figures.layers([e["name"] for e in layers], [e["sqnr_db"] for e in layers])
        if layers
        else None,
        "layers": layers,
    }


def _untuned(comparison: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Prepares the figures of the model before fine-tuning and of the edge model."""
    if comparison is None:
        return None
    pairs = {(pair["first"], pair["second"]): pair for pair in comparison["pairs"]}
    return {
        "models": {
            model["name"]: {
                "accuracy": model["accuracy"],
                **{other: pairs[model["name"], other]["agreement"] for other in ("compact", "full")},
            }
            for model in comparison["models"]
            if model["name"] in ("untuned", "edge")
        },
        "pair": pairs["edge", "untuned"],
    }


def _thumbnail(photo: NDArray[np.uint8]) -> str:
    height, width = photo.shape[:2]
    shrink = min(1.0, _THUMBNAIL_PX / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(photo[..., ::-1], size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
