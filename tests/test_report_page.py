"""What an export says of its models: every figure in the JSON, and a page that needs nothing but itself."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.bundle import Label
from edgebcnn.report.agreement import AccuracyDrop, Proportion, mcnemar_exact
from edgebcnn.report.comparison import compare
from edgebcnn.report.evaluation import expected_calibration_error
from edgebcnn.report.fidelity import Fidelity, calibration_error, fidelity
from edgebcnn.report.page import SHOWN_PHOTOS, page
from edgebcnn.report.render import comparison_json
from tests.pages import Parts, check_in_chromium

PHOTOS = 300
NAMES = [*(f"Milk {percent} %" for percent in range(6)), 'Bio "Soja" <1 l> & more', "Schokolade-Nuss-Vollmilch-500-g"]
LABELS = [Label(name=name) for name in NAMES]
LAYERS = [
    {"name": f"block_{i}", "op": "CONV_2D", "dtype": "int8", "sqnr_db": 30.0 - i, "cosine": 0.99, "alone": None}
    for i in range(9)
]


def probabilities(rng: np.random.Generator, truth: NDArray[np.integer], *, noise: float) -> NDArray[np.float32]:
    logits = 4 * np.eye(len(NAMES))[truth] + noise * rng.normal(size=(len(truth), len(NAMES)))
    odds = np.exp(logits)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)


@pytest.fixture(scope="module")
def truth() -> NDArray[np.int64]:
    return np.random.default_rng(20).integers(0, len(NAMES), PHOTOS)


@pytest.fixture(scope="module")
def models(truth: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(21)
    return {
        name: probabilities(rng, truth, noise=noise) for name, noise in (("full", 1), ("compact", 1.5), ("edge", 2))
    }


@pytest.fixture(scope="module")
def found(truth: NDArray[np.int64], models: dict[str, NDArray[np.float32]]) -> Fidelity:
    return fidelity(truth, models, LABELS)


def document(found: Fidelity, **more: Any) -> dict[str, Any]:
    """A report, as it comes from its file."""
    int8 = {
        "size_bytes": 2_663_363,
        "ops": ["CONV_2D"] * 71,
        "float_ops": [],
        "fidelity": found.as_json(_names()),
        **more,
    }
    tensors = [
        {"name": "logits", "method": "mse", "low": -1.0, "high": 2.0, "clipped": 0.01, "sqnr_db": 30.0},
        {"name": "input", "method": "mse", "low": 0.0, "high": 1.0, "clipped": 0.0, "sqnr_db": None},
    ]
    equalized = {"tensors": ["u", "v"], "between": "product", "lowest_factor": 0.5, "highest_factor": 4.0}
    equalized |= {"unused_bits_before": 1.3, "unused_bits_after": 0.9}
    calibration = {
        "recipe": "balanced",
        "source": "train",
        "photos": [{"product": NAMES[0], "brightness": "dark", "photos": 3}],
        "groups": {"north": 12, "south": 9},
        "notes": ["a note"],
        "tensors": tensors,
        "equalized": [equalized],
        "stability": {"agreement": Proportion(120, 128).as_json(), "distance": 0.01, "photos": 3},
    }
    report = {"held_out": "test", "gate": {"outcome": "unclear", "accepted": False}, "models": {"int8": int8}}
    loaded: dict[str, Any] = json.loads(json.dumps({**report, "calibration": calibration}, allow_nan=False))
    return loaded


def _names() -> list[str]:
    return [f"test/{i}.png" for i in range(PHOTOS)]


def picture(position: int) -> NDArray[np.uint8]:
    return np.full((40, 30, 3), position % 256, np.uint8)


@pytest.fixture(scope="module")
def html(found: Fidelity, truth: NDArray[np.int64], models: dict[str, NDArray[np.float32]]) -> str:
    before_and_after = {name: models[name] for name in ("full", "compact")}
    before_and_after |= {"untuned": models["compact"], "edge": models["edge"]}
    more = {
        "layers": {"photos": 64, "layers": LAYERS},
        "latency": {"p50_ms": 1.5, "p95_ms": 2.25, "n": 500, "where": "a board"},
        "tuning": {
            "epochs": 2,
            "photos": 80,
            "losses": [1.25, 0.5],
            "curve": [{"photos": 40 * step, "loss": 2 / step} for step in range(1, 5)],
        },
        "untuned": comparison_json(compare(truth, before_and_after, LABELS)),
    }
    return page(document(found, **more), name="shelf", pictures=picture).decode()


def test_every_model_and_pair_has_its_figures(
    found: Fidelity, truth: NDArray[np.int64], models: dict[str, NDArray[np.float32]]
) -> None:
    comparison = compare(truth, models, LABELS)
    assert [(name, each.accuracy) for name, each in found.quality.items()] == [
        (each.name, each.accuracy) for each in comparison.models
    ]
    assert [(each.first, each.second, each.agreement, each.mcnemar) for each in found.distances] == [
        (each.first, each.second, each.agreement, each.mcnemar) for each in comparison.pairs
    ]
    for distance in found.distances:
        p, q = (models[name].astype(float) for name in (distance.first, distance.second))
        assert distance.shift.value == pytest.approx(np.abs(p - q).sum(axis=1).mean() / 2)
        right = {name: found.quality[name].accuracy.value for name in (distance.first, distance.second)}
        assert distance.drop.value == pytest.approx(right[distance.second] - right[distance.first])
        assert distance.shift.low < distance.shift.value < distance.shift.high
    for quality in found.quality.values():
        assert quality.top5 is not None and quality.top5.value >= quality.accuracy.value
        assert sum(each.accuracy.n for each in quality.reliability) == PHOTOS


def test_products_add_up_to_all_photos_and_the_largest_loss_comes_first(found: Fidelity) -> None:
    for model, quality in found.quality.items():
        assert sum(product.accuracy[model].successes for product in found.products) == quality.accuracy.successes
    drops = [product.drop.value for product in found.products]
    assert drops == sorted(drops, reverse=True)
    assert sum(product.agreement.successes for product in found.products) == found.distances[0].agreement.successes


def test_confusions_are_those_that_differ_and_disagreements_name_what_each_model_said() -> None:
    truth = np.array([0, 0, 0, 0, 1, 1])
    said = {"full": [0, 0, 0, 2, 1, 1], "compact": [0, 0, 0, 0, 1, 1], "edge": [1, 1, 0, 0, 1, 1]}
    models = {name: np.eye(3, dtype=np.float32)[answers] for name, answers in said.items()}
    found = fidelity(truth, models, LABELS[:3])
    assert [(each.product, each.taken_for, each.full, each.edge) for each in found.confusions] == [
        ("Milk 0 %", "Milk 1 %", Proportion(0, 4), Proportion(2, 4)),
        ("Milk 0 %", "Milk 2 %", Proportion(1, 4), Proportion(0, 4)),
    ]
    alone = mcnemar_exact(np.array([False] * 4), np.array([True, True, False, False])).p_value
    assert found.confusions[0].p_value == min(1, 2 * alone)  # Holm, of two pairs
    assert [(each.position, each.said["full"], each.said["edge"]) for each in found.disagreements] == [
        (0, "Milk 0 %", "Milk 1 %"),
        (1, "Milk 0 %", "Milk 1 %"),
        (3, "Milk 2 %", "Milk 0 %"),
    ]
    assert found.products[0].drop == AccuracyDrop(2, 1, 4)


def test_models_that_are_the_same_differ_nowhere(
    truth: NDArray[np.int64], models: dict[str, NDArray[np.float32]]
) -> None:
    found = fidelity(truth, dict.fromkeys(("full", "compact", "edge"), models["full"]), LABELS)
    assert (found.confusions, found.disagreements) == ((), ())
    assert [(each.agreement.value, each.shift.high) for each in found.distances] == [(1, 0)] * 3
    html = page(document(found), name="same", pictures=picture).decode()
    assert "0 photos on which edge and full differ" in html


@pytest.mark.parametrize("sharpness", [1.0, 2.0])
def test_the_interval_of_the_calibration_error_holds_the_truth(sharpness: float) -> None:
    rng = np.random.default_rng(22)

    def drawn(n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        logits = 1.5 * rng.normal(size=(n, 5))
        odds, promised = np.exp(logits), np.exp(sharpness * logits)
        shares = (odds / odds.sum(axis=1, keepdims=True)).cumsum(axis=1)
        return (shares > rng.random((n, 1))).argmax(axis=1), promised / promised.sum(axis=1, keepdims=True)

    truth, scores = drawn(100_000)
    true = expected_calibration_error(scores, truth)
    held = []
    for _ in range(100):
        truth, scores = drawn(400)
        error = calibration_error(scores, truth)
        held.append(error.low <= true <= error.high)
    assert np.mean(held) >= 0.86


def test_the_json_names_every_photo_on_which_edge_and_full_differ(found: Fidelity) -> None:
    report = document(found)["models"]["int8"]["fidelity"]
    assert len(report["disagreements"]) == PHOTOS - report["distances"][0]["agreement"]["successes"]
    first = report["disagreements"][0]
    assert first["photo"] == f"test/{first['position']}.png"


def test_the_page_asks_for_nothing_and_runs_nothing(html: str) -> None:
    parts = Parts(html)
    assert parts.addresses
    assert all(address.startswith("data:") for address in parts.addresses)
    assert not parts.tags & {"script", "iframe", "object", "form"}
    assert "@import" not in html and "url(" not in html


def test_the_page_shows_every_figure_with_interval_and_n(html: str, found: Fidelity) -> None:
    text = " ".join(Parts(html).text.split())
    for quality in found.quality.values():
        share = quality.accuracy
        assert f"{100 * share.value:.1f} %{100 * share.low:.1f} to {100 * share.high:.1f}, n={PHOTOS}" in text
    agreement = found.distances[0].agreement
    assert f"edge with full{100 * agreement.value:.1f} %" in text.replace(" edge with full ", "edge with full")
    for said in (
        "2.66 MB, 71 ops, all integer",
        "p50 1.50 ms, p95 2.25 ms, n=500, on a board",
        "Recipe balanced",
        "u, vproduct0.5 to 41.300.90",
        "Export accepted, but there are too few photos",
    ):
        assert said in text
    for name in NAMES:
        assert name in text


def test_the_page_says_what_fine_tuning_was_and_what_it_changed(
    html: str, truth: NDArray[np.int64], models: dict[str, NDArray[np.float32]]
) -> None:
    text = " ".join(Parts(html).text.split())
    assert "2 epochs on 80 training photos" in text and "1.25 → 0.5" in text
    right = {name: of_model.argmax(axis=1) == truth for name, of_model in models.items()}
    gained, lost = (np.sum(right[a] & ~right[b]) for a, b in (("edge", "compact"), ("compact", "edge")))
    assert f"{gained} are right only after fine-tuning, {lost} only before" in text
    for name, of_model in (("int8 before fine-tuning", "compact"), ("edge", "edge")):
        assert re.search(rf"{name} ?{100 * right[of_model].mean():.1f} %", text)


def test_the_page_begins_with_what_it_means_and_ends_with_the_layers(html: str, found: Fidelity) -> None:
    (agreement,) = (each.agreement for each in found.distances if (each.first, each.second) == ("edge", "compact"))
    text = " ".join(Parts(html).text.split())
    assert f"int8 gives the compact model's answer on {100 * agreement.value:.1f} % of {PHOTOS} photos." in text[:4000]
    assert html.index("<main>") < html.index('class="verdict"') < html.index("Accuracy of each model")
    assert html.index("Calibration of int8") < html.index("Layers of int8") < html.index("</main>")


@pytest.mark.parametrize(
    ("gate", "verdict"),
    [
        ({"outcome": "passed", "accepted": False}, "Export accepted:"),
        ({"outcome": "refused", "accepted": False}, "Export refused:"),
        ({"outcome": "refused", "accepted": True}, "accepted by the user:"),
    ],
)
def test_the_verdict_is_that_of_the_gate(found: Fidelity, gate: dict[str, Any], verdict: str) -> None:
    html = page({**document(found), "gate": gate}, name="shelf", pictures=picture).decode()
    assert verdict in " ".join(Parts(html).text.split())


def test_the_contact_sheet_has_a_limit_and_says_so(html: str, found: Fidelity) -> None:
    assert len(found.disagreements) > SHOWN_PHOTOS
    jpegs = [address for address in Parts(html).addresses if address.startswith("data:image/jpeg")]
    assert len(jpegs) == SHOWN_PHOTOS
    assert f"the first {SHOWN_PHOTOS}" in html


def test_what_was_not_measured_is_left_out(found: Fidelity) -> None:
    html = page({**document(found), "calibration": None}, name="shelf", pictures=picture).decode()
    assert "Latency: not measured at export" in html
    assert "Layers of int8" not in html
    assert "fine-tuning" not in html
    assert "Calibration of int8" not in html


def test_the_same_report_gives_the_same_bytes(found: Fidelity) -> None:
    assert page(document(found), name="a", pictures=picture) == page(document(found), name="a", pictures=picture)


@pytest.mark.parametrize("width_px", [400, 1280])
def test_in_chromium_the_page_is_whole_and_not_wider_than_the_screen(
    browser: Any, html: str, tmp_path: Path, width_px: int
) -> None:
    (tmp_path / "index.html").write_text(html)
    check_in_chromium(browser, tmp_path / "index.html", width_px, pictures=SHOWN_PHOTOS + 4)
