"""`edgebcnn audit`: from what a device kept to how good it is there, and what has drifted."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import Result
from numpy.typing import NDArray
from scipy import stats

from edgebcnn.errors import BundleError, DataError, EdgebcnnError, RunError, StorageError
from edgebcnn.evaluation import field_audit
from edgebcnn.evaluation.models import open_model
from edgebcnn.field.answers import read_answers
from edgebcnn.field.findings import FALSE_DISCOVERIES, Frames, findings, products_by_loss
from edgebcnn.field.losses import Usual, chance_of_so_few, equal_weight_n
from edgebcnn.field.record import encoded, read_pixels, read_record
from edgebcnn.field.review import Review
from edgebcnn.field.sample import open_sample
from edgebcnn.model.bcnn import Bcnn
from edgebcnn.report import Proportion, benjamini_hochberg
from edgebcnn.train.steps import with_embedding
from tests.blocks import draw_blocks
from tests.tiny_bundle import make_tiny_bundle, write_photos
from tests.typing_in import keys, typed


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of a store whose lights are dim and warm."""
    folder = draw_blocks(tmp_path_factory.mktemp("store"), per_product={"now": 60})
    for file in folder.rglob("*.png"):
        photo = np.asarray(cv2.imread(str(file)))
        cv2.imwrite(str(file), (photo * [0.3, 0.5, 0.6]).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def sample(shop: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a device kept of them."""
    path = tmp_path_factory.mktemp("kept") / "sample"
    camera = ["--camera", store / "now", "--every-frame", "--json"]
    result = typed(shop, "run", *camera, "--sample", path, *keys(sample__sample_rate=0.4))
    assert result.exit_code == 0, result.stderr
    counts = json.loads(result.stdout)["sample"]
    assert counts["offered"] == 180 and counts["lost"] == 0
    assert 72 < counts["kept"] == counts["held"] == len(open_sample(path).records)
    return path


def audited(shop: Path, sample: Path, *arguments: object) -> dict[str, Any]:
    result = typed(shop, "audit", sample, "--json", *arguments)
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def test_an_audit_estimates_agreement_and_finds_what_has_drifted(
    shop: Path, store: Path, sample: Path, tmp_path: Path
) -> None:
    report = audited(shop, sample, "--output", tmp_path / "audit")
    assert report == json.loads((tmp_path / "audit" / "report.json").read_text())
    page = (tmp_path / "audit" / "index.html").read_text()
    assert page.count("data:image/jpeg") == min(24, len(report["disagreements"]))
    answers = read_answers(tmp_path / "audit").answers
    assert len(answers) == report["frames"]
    assert sum(not each.agrees for each in answers) == len(report["disagreements"])
    everything = tmp_path / "everything"
    camera = ["--camera", store / "now", "--every-frame", "--quiet"]
    assert typed(shop, "run", *camera, "--sample", everything, *keys(sample__sample_rate=1)).exit_code == 0
    truth = audited(shop, everything)["agreement"]
    assert truth["n"] == truth["frames"] == 180
    assert report["agreement"]["low"] <= truth["value"] <= report["agreement"]["high"]
    assert abs(report["agreement"]["frames"] - 180) < 40
    drifted = {each["name"] for each in report["drifts"] if each["is_real"]}
    assert {"brightness", "warmth"} <= drifted
    assert report["reference"] == "36 test photos"
    assert (everything.parent / "everything-audit" / "report.json").is_file()


def test_people_get_tables(shop: Path, sample: Path, tmp_path: Path) -> None:
    result = typed(shop, "audit", sample, "--output", tmp_path)
    assert result.exit_code == 0
    said = f"report: {tmp_path / 'index.html'}"
    for words in ("in the field", "at export (36 test photos)", "brightness", "drifted", said):
        assert words in result.stdout
    assert "faces" not in result.stdout, "nobody looked for any"


def test_an_audit_says_how_many_frames_hold_blurred_faces(shop: Path, sample: Path, tmp_path: Path) -> None:
    with_faces = shutil.copytree(sample, tmp_path / "sample")
    for file, faces in zip(sorted(with_faces.glob("*.png")), (2, 0, 1), strict=False):
        known = read_record(file).model_copy(update={"faces_blurred": faces})
        file.write_bytes(encoded(known, read_pixels(file)))
    result = typed(shop, "audit", with_faces)
    assert result.exit_code == 0, result.stderr
    assert "faces are blurred in 2 of 3 frames that were searched for them" in result.stdout
    written = json.loads((tmp_path / "sample-audit" / "report.json").read_text())
    assert written["faces"] == {"searched": 3, "blurred": 2}


def test_an_audit_that_was_stopped_goes_on(
    shop: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = audited(shop, sample, "--output", tmp_path / "whole")
    asked: list[int] = []

    def counting(bcnn: Bcnn, *, stop_after: int = 10**9) -> Any:
        ask = with_embedding(bcnn)

        def counted(pixels: Any) -> Any:
            if sum(asked) >= stop_after:
                raise KeyboardInterrupt
            asked.append(len(pixels))
            return ask(pixels)

        return counted

    monkeypatch.setattr(field_audit, "with_embedding", partial(counting, stop_after=64))
    place = tmp_path / "stopped"
    assert typed(shop, "audit", sample, "--output", place).exit_code == 130
    assert asked == [64] and not (place / "report.json").exists()
    monkeypatch.setattr(field_audit, "with_embedding", counting)
    report = audited(shop, sample, "--output", place)
    assert sum(asked) == report["frames"] + 36, "each frame and photo was asked about once"
    assert report == whole


def test_what_a_person_labelled_is_judged_by_evaluate(shop: Path, sample: Path, tmp_path: Path) -> None:
    audited(shop, sample, "--output", tmp_path / "audit")
    with Review(sample, tmp_path / "audit", output=tmp_path / "labelled") as review:
        for answer in review.answers[:10]:
            review.decide(answer.id, answer.truth or answer.full)
    result = typed(shop, "evaluate", "runs/latest/bundle", "--data", tmp_path / "labelled", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["n"] == 10


def test_golden_photos_stand_in_for_photos_that_are_gone(
    shop: Path, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise DataError("180 of the 180 photos are no longer there")

    monkeypatch.setattr(field_audit, "check_photos", gone)
    result = typed(shop, "audit", sample, "--output", tmp_path, "--json")
    assert "no longer there" in result.stderr and "golden photos take their place" in result.stderr
    assert re.fullmatch(r"\d+ golden photos", json.loads(result.stdout)["reference"])


def refused(result: Result, error: type[EdgebcnnError]) -> str:
    """The one sentence of a command that failed as it should."""
    assert (result.exit_code, result.stdout) == (error.exit_code, ""), result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr
    return lines[0]


def test_what_cannot_be_audited_is_one_sentence(shop: Path, sample: Path, tmp_path: Path) -> None:
    make_tiny_bundle(tmp_path / "bundle", ["int8"])
    write_photos(tmp_path / "photos", per_label=2)
    own = tmp_path / "own"
    camera = ["--camera", tmp_path / "photos", "--bundle", tmp_path / "bundle", "--quiet"]
    assert typed(tmp_path, "run", *camera, "--sample", own, *keys(sample__sample_rate=1)).exit_code == 0

    assert "was kept by bundle" in refused(typed(shop, "audit", own), BundleError)
    said = refused(typed(shop, "audit", own, "--bundle", tmp_path / "bundle"), RunError)
    assert "differ in 1 products, such as 'Grey'" in said
    said = refused(typed(shop, "run", *camera[2:], "--camera", tmp_path / "photos", "--sample", sample), BundleError)
    assert "holds frames of bundle" in said
    assert "not a whole sample" in refused(typed(shop, "audit", tmp_path / "photos"), DataError)

    half = shutil.copytree(sample, tmp_path / "half")
    files = sorted(half.glob("*.png"))
    for file in files[len(files) // 2 :]:
        file.unlink()
    assert f"of its {len(files)} frames" in refused(typed(shop, "audit", half), DataError)
    cut = shutil.copytree(sample, tmp_path / "cut")
    file = next(cut.glob("*.png"))
    file.write_bytes(file.read_bytes()[:-1])
    assert f"{file.name} is cut short" in refused(typed(shop, "audit", cut), DataError)
    assert "is not a run" in refused(typed(shop, "audit", sample, "--full", tmp_path / "gone"), RunError)
    (tmp_path / "file").write_text("")
    refused(typed(shop, "audit", sample, "--output", tmp_path / "file"), StorageError)


def test_a_model_of_other_products_has_none_in_common(shop: Path, tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle", ["int8"])
    full = open_model(shop / "runs" / "latest", role="full")
    strangers = tuple(label.model_copy(update={"name": f"Other {label.name}"}) for label in full.labels)
    object.__setattr__(full, "labels", strangers)
    with pytest.raises(RunError, match="no product in common"):
        field_audit._columns(full, bundle)


def frames(rng: np.random.Generator, n: int, *, agree: list[float], new_look: int | None = None) -> Frames:
    """Frames of three products, on each of which the models agree with a probability of its own.

    One of them may look different to the full model, though it calls it by the same name.
    """
    product = rng.integers(0, 3, n)
    full = np.eye(3, dtype=np.float32)[product] * 0.9 + 0.03
    edge = np.where(rng.random(n) < np.array(agree)[product], product, (product + 1) % 3)
    embedding = rng.normal(size=(n, 8)) + 1.5 * (product == new_look)[:, None]
    return Frames(edge, rng.random(n), full, embedding, rng.normal(size=(n, 4)))


def test_the_product_that_suffered_is_named_and_seldom_another() -> None:
    days, found, false = 200, 0, 0
    for seed in range(days):
        rng = np.random.default_rng(seed)
        named = products_by_loss(
            frames(rng, 300, agree=[0.97, 0.5, 0.97]),
            frames(rng, 300, agree=[0.97, 0.97, 0.97]),
            kept_with=np.full(300, 0.1),
            scenes=np.arange(300),
            names=["a", "b", "c"],
        )
        suffered = {each.name for each in named if each.level == "suffered"}
        found, false = found + ("b" in suffered), false + bool(suffered - {"b"})
    assert found == days
    assert false <= 0.1 * days  # 5 % and three standard errors


@pytest.mark.parametrize(("alike", "photos"), [(True, 20), (True, 100), (False, 100)])
def test_of_few_products_the_photos_tell_little_of_what_is_usual_and_names_stay_seldom(
    alike: bool, photos: int
) -> None:
    days, false = 300, 0
    for seed in range(days):
        rng = np.random.default_rng(seed)
        share = np.full(3, 0.95) if alike else rng.beta(20, 2, 3)
        named = products_by_loss(
            of_products(rng, share, 100),
            of_products(rng, share, photos),
            kept_with=np.full(300, 0.1),
            scenes=np.arange(300),
            names=["a", "b", "c"],
        )
        false += any(each.level == "suffered" for each in named)
    assert false <= 0.09 * days  # 5 % and three standard errors


def test_a_product_in_a_new_wrapping_has_drifted_though_every_answer_is_as_it_was(rng: np.random.Generator) -> None:
    found = findings(
        frames(rng, 200, agree=[1, 1, 1], new_look=1),
        frames(rng, 200, agree=[1, 1, 1]),
        kept_with=np.full(200, 0.1),
        is_plain=np.ones(200, bool),
        scenes=np.arange(200),
        names=["a", "b", "c"],
    )
    assert [each.name for each in found.drifts if each.is_real] == ["full model's embedding"]
    assert [each.name for each in found.product_drifts if each.is_real] == ["b"]


def test_a_product_is_seldom_named_though_nothing_happened_and_most_names_are_right_where_something_did() -> None:
    """81 products, 15 photos and 5 frames each; on every fifth of them agreement falls, or on none."""
    classes, runs = 81, 60
    false_suffered = 0
    false_shares, found = [], 0
    for seed in range(runs):
        rng = np.random.default_rng(seed)
        usually = rng.beta(20, 2, classes)
        hurt = np.arange(classes) % 5 == 0
        for share, lost in ((usually, False), (np.where(hurt, 0.3, usually), True)):
            named = products_by_loss(
                of_products(rng, share, 5),
                of_products(rng, usually, 15),
                kept_with=np.full(5 * classes, 0.05),
                scenes=np.arange(5 * classes),
                names=[str(product) for product in range(classes)],
            )
            suspected = [int(each.name) for each in named if each.level]
            if lost:
                false_shares.append(np.mean(~hurt[suspected]) if suspected else 0)
                found += int(hurt[suspected].sum())
            else:
                false_suffered += any(each.level == "suffered" for each in named)
    assert false_suffered <= 0.1 * runs  # 5 % and four standard errors are 16 %
    assert np.mean(false_shares) <= FALSE_DISCOVERIES
    assert found / runs > 4


def of_products(rng: np.random.Generator, share: NDArray[np.float64], per_product: int) -> Frames:
    """Frames of each product, on which edge and full model agree with its share."""
    product = np.arange(len(share)).repeat(per_product)
    edge = np.where(rng.random(len(product)) < share[product], product, (product + 1) % len(share))
    full = np.eye(len(share), dtype=np.float32)[product]
    nothing = np.zeros((len(product), 4))
    return Frames(edge, np.ones(len(product)), full, nothing, nothing)


def test_the_chance_of_so_few_is_the_beta_binomial_tail_and_errs_towards_chance() -> None:
    expected = (12.0, 1.5)
    assert chance_of_so_few(0.5, 4, expected=expected) == pytest.approx(stats.betabinom(4, *expected).cdf(2))
    assert chance_of_so_few(0.5, 4.9, expected=expected) == chance_of_so_few(0.5, 4, expected=expected)
    assert chance_of_so_few(0.4, 4, expected=expected) == chance_of_so_few(0.5, 4, expected=expected)
    assert chance_of_so_few(1.0, 0.3, expected=expected) == pytest.approx(1)


def test_what_is_usual_is_found_again() -> None:
    rng = np.random.default_rng(5)
    at_export = [Proportion(int(rng.binomial(30, share)), 30) for share in rng.beta(18, 2, 400)]
    usual = Usual.of(at_export)
    assert usual.agreed / usual.n == pytest.approx(0.9, abs=0.015)
    assert sum(probability for strength, probability in usual.strengths if 8 < strength < 40) > 0.99


def test_frames_of_one_scene_count_as_one() -> None:
    kept_with = np.full(6, 0.1)
    assert equal_weight_n(kept_with, np.arange(6)) == pytest.approx(6)
    assert equal_weight_n(kept_with, np.array([0, 0, 1, 1, 2, 2])) == pytest.approx(3)


def test_the_rate_of_false_discoveries_is_scipys(rng: np.random.Generator) -> None:
    p_values = rng.random(40) ** 3
    assert benjamini_hochberg(p_values) == pytest.approx(stats.false_discovery_control(p_values))
