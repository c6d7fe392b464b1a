"""How does the report of an export look as a page, in one file that needs no other?

    page(json.loads(report_json), name="shelf", pictures=…)

The page says what `report.json` says, and shows the photos on which edge and full model differ. It needs Jinja2 and
matplotlib (the `train` extra); no module that a device runs imports it.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.report import figures

SHOWN_PHOTOS = 24
"""Photos on which edge and full differ that are shown, for each model file; the JSON names all."""

SHOWN_CONFUSIONS = 12

_THUMBNAIL_PX = 160
_JPEG_QUALITY = 75


def page(report: Mapping[str, Any], *, name: str, pictures: Callable[[int], NDArray[np.uint8]]) -> bytes:
    """The page.

    Args:
        report: What `report.json` holds; each of its models has a `fidelity`, and may have `layers` and `latency`.
        name: What the models are called.
        pictures: Gives the `(h, w, 3)` uint8 RGB photo at a position of `disagreements`.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = files("edgebcnn.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    html = environment.from_string(source).render(
        name=name,
        held_out=report["held_out"],
        gate=report["gate"],
        calibration=report["calibration"],
        models={precision: _model(model, report["calibration"]) for precision, model in report["models"].items()},
        thumbnail=lambda position: _thumbnail(pictures(position)),
        shown_photos=SHOWN_PHOTOS,
        shown_confusions=SHOWN_CONFUSIONS,
        colours=figures.COLOURS,
    )
    return html.encode(errors="replace")


def _model(model: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> dict[str, Any]:
    """What one model file's part of the page shows."""
    found = model["fidelity"]
    gained = [each for each in found["confusions"] if each["gained"] > 0]
    lost = [each for each in reversed(found["confusions"]) if each["gained"] < 0]
    layers = (model.get("layers") or {}).get("layers")
    return {
        **model,
        "latency": model.get("latency"),
        "confusions": {"More often by the edge model": gained, "Less often by the edge model": lost},
        "reliability": figures.reliability(found["quality"]),
        "products_figure": figures.products(found["products"]),
        "layers_figure": figures.layers([e["name"] for e in layers], [e["sqnr_db"] for e in layers])
        if layers
        else None,
        "layers": layers,
    }


def _thumbnail(photo: NDArray[np.uint8]) -> str:
    height, width = photo.shape[:2]
    shrink = min(1.0, _THUMBNAIL_PX / max(height, width))
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    small = cv2.resize(photo[..., ::-1], size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
