"""What an audit says, as a page that needs nothing but itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.field.findings import Frames, findings
from edgebcnn.report.page import SHOWN_PHOTOS, field_page
from tests.pages import Parts, check_in_chromium

NAMES = [*(f"Milk {percent} %" for percent in range(6)), 'Bio "Soja" <1 l> & more', "Schokolade-Nuss-Vollmilch-500-g"]


def frames(rng: np.random.Generator, n: int, *, lost: int, dim: float) -> Frames:
    """Frames of every product; on one of them the models mostly differ."""
    product = rng.integers(0, len(NAMES), n)
    agreement = np.where(product == lost, 0.2, 0.95)
    edge = np.where(rng.random(n) < agreement, product, (product + 1) % len(NAMES))
    full = np.eye(len(NAMES), dtype=np.float32)[product] * 0.8 + 0.025
    embedding = rng.normal(dim, 30, (n, 8)).astype(np.float32)
    return Frames(edge, rng.random(n), full, embedding, rng.normal(dim, 10, (n, 4)))


def document(*, plain: bool = True, lost: int = 6) -> dict[str, Any]:
    """A report, as it comes from its file."""
    rng = np.random.default_rng(20)
    field, export = frames(rng, 400, lost=lost, dim=60), frames(rng, 300, lost=-1, dim=120)
    found = findings(
        field,
        export,
        kept_with=np.full(400, 0.05),
        is_plain=np.full(400, plain),
        scenes=np.arange(400),
        names=NAMES,
    )
    differ = np.flatnonzero(field.edge != field.product)
    disagreements = [
        {
            "id": f"abc-{row}",
            "edge": NAMES[field.edge[row]],
            "edge_score": 0.4,
            "full": NAMES[field.product[row]],
            "full_score": 0.8,
            "full_margin": 0.7,
            "time": "2026-11-20T08:00:00.000Z",
            "source": "0",
            "photo": None,
            "truth": NAMES[0] if row % 2 else None,
            "shelf": "Dairy" if row % 2 else None,
            "slot": "A&1" if row % 2 else None,
        }
        for row in differ.tolist()
    ]
    faces = {"searched": 400, "blurred": 31}
    about = {"frames": 400, "plain_frames": 400 * plain, "faces": faces, "reference": "300 test photos"}
    times = {"first": "2026-11-20T08:00:00.000Z", "last": "2026-11-21T08:00:00.000Z"}
    report = {**about, **times, **found.as_json(), "disagreements": disagreements}
    loaded: dict[str, Any] = json.loads(json.dumps(report, allow_nan=False))
    return loaded


def picture(frame: str) -> NDArray[np.uint8]:
    return np.full((40, 30, 3), int(frame.removeprefix("abc-")) % 256, np.uint8)


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    return document()


@pytest.fixture(scope="module")
def html(report: dict[str, Any]) -> str:
    return field_page(report, name="shelf", pictures=picture).decode()


def test_the_page_says_what_the_report_says(html: str, report: dict[str, Any]) -> None:
    text = " ".join(Parts(html).text.split())
    assert "Dairy A&1, " in text
    for share in (report["agreement"], report["export"]):
        assert f"{100 * share['value']:.1f} %{100 * share['low']:.1f} to {100 * share['high']:.1f}" in text
    assert "lower than at export" in text and f"Suffered: {NAMES[6]}." in text and "Suspected: none." in text
    for words in (*NAMES, "brightness", "drifted", "300 test photos", "edgebcnn review"):
        assert words in text
    assert f"{len(report['disagreements'])} frames on which edge and full differ" in text
    assert "Faces are blurred in 31 of 400 frames" in text


def test_the_page_asks_for_nothing_and_runs_nothing(html: str) -> None:
    parts = Parts(html)
    assert parts.addresses
    assert all(address.startswith("data:") for address in parts.addresses)
    assert not parts.tags & {"script", "iframe", "object", "form"}
    assert "@import" not in html and "url(" not in html


def test_a_sample_without_plain_frames_says_nothing_of_drift_and_an_audit_without_differences_shows_none() -> None:
    report = {**document(plain=False, lost=-1), "disagreements": []}
    html = field_page(report, name="shelf", pictures=picture).decode()
    assert "Too few frames to tell" in html and "0 frames on which" in html and "Suffered</b>: none" in html


@pytest.mark.parametrize("width_px", [400, 1280])
def test_in_chromium_the_page_is_whole_and_not_wider_than_the_screen(
    browser: Any, html: str, report: dict[str, Any], tmp_path: Path, width_px: int
) -> None:
    assert len(report["disagreements"]) > SHOWN_PHOTOS
    (tmp_path / "index.html").write_text(html)
    check_in_chromium(browser, tmp_path / "index.html", width_px, pictures=SHOWN_PHOTOS + 2)
