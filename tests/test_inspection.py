"""An inspection finds what was planted in good photos and little else, and its page shows every finding."""

from __future__ import annotations

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.cli.data import inspect as inspect_command
from edgebcnn.demo.shelf import ShelfSizes, draw_shelf
from edgebcnn.errors import DataError
from edgebcnn.images import near_duplicates
from edgebcnn.images.facts import facts_of
from edgebcnn.images.inspection import Finding, Inspection, inspect_photos
from edgebcnn.images.near_duplicates import BITS, MAX_DISTANCE, find_pairs, joined
from edgebcnn.preprocessing import read_photo
from edgebcnn.progress import Silent
from tests.typing_in import typed

KIWI, PLUM = "Lunka-Yoghurt-Kiwi", "Lunka-Yoghurt-Plum"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's shelf, small; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("drawn") / "shelf"
    draw_shelf(folder, sizes=ShelfSizes(train=6, val=1, test=1))
    return folder


@pytest.fixture
def shelf(drawn: Path, tmp_path: Path) -> Path:
    """A copy of the demo's shelf to plant faults in."""
    return shutil.copytree(drawn, tmp_path / "shelf")


def inspected(folder: Path) -> Inspection:
    return inspect_photos(folder, reporter=Silent())


def found(folder: Path) -> dict[str, Finding]:
    return {finding.kind: finding for finding in inspected(folder).findings}


def changed_copy(photo: Path, copy: Path) -> None:
    """Smaller, brighter and recompressed."""
    smaller = cv2.resize(read_photo(photo), None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(copy), cv2.convertScaleAbs(smaller, alpha=1.1, beta=12), [cv2.IMWRITE_JPEG_QUALITY, 50])


# Near-duplicates


def test_good_photos_of_look_alike_products_have_no_serious_finding(drawn: Path) -> None:
    inspection = inspected(drawn)
    assert inspection.serious == ()
    assert [finding.kind for finding in inspection.findings] == ["small"]  # the demo's photos have 160 px


def test_a_changed_copy_in_another_split_is_a_leak(shelf: Path) -> None:
    original, copy = shelf / "train" / KIWI / "0003.jpg", shelf / "test" / KIWI / "again.jpg"
    changed_copy(original, copy)
    leak = found(shelf)["leak"]
    assert leak.serious
    assert leak.sentence.startswith("1 pair of near-duplicates in two splits (1 train-test)")
    assert [case.photos for case in leak.cases] == [(original, copy)]
    assert f"edgebcnn data split {shelf} --output DIR" in leak.advice


def test_a_changed_copy_under_another_label_is_told(shelf: Path) -> None:
    changed_copy(shelf / "train" / KIWI / "0003.jpg", shelf / "train" / PLUM / "again.jpg")
    findings = found(shelf)
    assert findings["two-labels"].serious
    assert findings["two-labels"].cases[0].remark.startswith(f"{KIWI} | {PLUM}, ")
    assert "leak" not in findings


def test_a_changed_copy_under_the_same_label_is_a_repeat_and_not_serious(shelf: Path) -> None:
    changed_copy(shelf / "train" / KIWI / "0003.jpg", shelf / "train" / KIWI / "again.jpg")
    findings = found(shelf)
    assert not findings["repeats"].serious
    assert findings.keys() == {"repeats", "small"}


def test_a_folder_without_splits_is_looked_at_as_train_would_cut_it(tmp_path: Path, drawn: Path) -> None:
    shutil.copytree(drawn / "train", tmp_path / "data")
    inspection = inspected(tmp_path / "data")
    assert {split: sum(counts) for split, counts in inspection.counts.items()} == {"train": 96, "val": 24, "test": 24}
    for split in ("val", "test"):
        assert any(split in note for note in inspection.notes)


def test_all_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(near_duplicates, "_BLOCK", 7)
    fingerprints = rng.random((30, BITS)) < 0.5
    fingerprints[[9, 28]] = fingerprints[2]
    fingerprints[28, :5] ^= True
    distances = (fingerprints[:, None] != fingerprints[None]).sum(axis=2)
    expected = [(i, j, distances[i, j]) for i in range(30) for j in range(i + 1, 30) if distances[i, j] <= 120]
    assert {(2, 9, 0), (2, 28, 5), (9, 28, 5)} < set(expected)
    assert find_pairs(fingerprints, 120, reporter=Silent()).tolist() == [list(pair) for pair in expected]


def test_frames_of_a_camera_that_stood_still_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "MAX_PAIRS", 10)
    with pytest.raises(DataError, match=r"more than 10 pairs .* thin out the frames"):
        find_pairs(np.zeros((6, BITS), np.bool_), 0, reporter=Silent())


def test_links_of_links_are_one_group() -> None:
    assert joined(6, [(4, 5), (1, 3), (3, 4)]).tolist() == [0, 1, 2, 1, 1, 1]


def test_the_command_takes_the_threshold_of_the_library() -> None:
    (option,) = (each for each in inspect_command.params if each.name == "max_distance")
    assert option.default == MAX_DISTANCE


# Single photos


def test_a_broken_photo_is_named(shelf: Path) -> None:
    broken = shelf / "val" / KIWI / "0001.jpg"
    broken.write_bytes(broken.read_bytes()[:-40])
    unreadable = found(shelf)["unreadable"]
    assert unreadable.serious
    assert unreadable.sentence == "1 photo of 192 cannot be read"
    assert [(case.remark, case.photos) for case in unreadable.cases] == [("the file is cut short", (broken,))]


def test_a_folder_of_broken_photos_is_still_a_result(tmp_path: Path) -> None:
    for product in ("Milk", "Juice"):
        (tmp_path / product).mkdir()
        (tmp_path / product / "1.jpg").write_bytes(b"no photo")
    assert found(tmp_path).keys() == {"unreadable", "too-few", "missing"}


def test_a_blurred_photo_is_named(shelf: Path) -> None:
    photo = shelf / "train" / KIWI / "0005.jpg"
    cv2.imwrite(str(photo), cv2.GaussianBlur(read_photo(photo), (0, 0), 2.5))
    assert [case.photos for case in found(shelf)["blurred"].cases] == [(photo,)]
    assert inspected(shelf).blurriest[0].photos == (photo,)


@pytest.mark.parametrize(("gain", "offset", "fault"), [(0.2, 0, "dark"), (0.15, 215, "washed out"), (0.0, 90, "blank")])
def test_a_badly_lit_photo_is_named(shelf: Path, gain: float, offset: float, fault: str) -> None:
    photo = shelf / "train" / KIWI / "0005.jpg"
    cv2.imwrite(str(photo), cv2.convertScaleAbs(read_photo(photo), alpha=gain, beta=offset))
    exposure = found(shelf)["exposure"]
    assert (exposure.sentence, exposure.cases[0].photos) == (
        f"1 photo with bad exposure (1 {fault})",
        (photo,),
    )


def test_blank_photos_are_nobodys_duplicates(shelf: Path) -> None:
    for split in ("train", "test"):
        cv2.imwrite(str(shelf / split / KIWI / "0001.jpg"), np.full((160, 160, 3), 20, np.uint8))
    assert found(shelf).keys() == {"exposure", "blurred", "small"}


def test_a_pack_before_white_is_well_lit() -> None:
    photo = np.full((300, 300, 3), 255, np.uint8)
    photo[100:200, 100:200] = (30, 60, 180)
    assert facts_of(photo).fault is None


def test_an_elongated_photo_is_named(shelf: Path) -> None:
    photo = shelf / "train" / KIWI / "0005.jpg"
    cv2.imwrite(str(photo), np.hstack([read_photo(photo)] * 3))
    assert [case.remark for case in found(shelf)["elongated"].cases] == ["480 × 160 px"]


def test_sharpness_is_judged_at_the_size_that_models_see(rng: np.random.Generator) -> None:
    """A large photo whose pixels are soft but which is sharp when made smaller is a good photo."""
    small: NDArray[np.uint8] = rng.integers(0, 256, (256, 256, 3), np.uint8)
    large = np.asarray(cv2.resize(small, None, fx=4, fy=4, interpolation=cv2.INTER_LINEAR), np.uint8)
    assert facts_of(large).sharpness > 0.15 * facts_of(small).sharpness
    assert cv2.Laplacian(cv2.cvtColor(large, cv2.COLOR_BGR2GRAY), cv2.CV_32F).var() < 0.05 * facts_of(small).sharpness


# Products


def test_rare_and_missing_products_are_named(shelf: Path) -> None:
    for number in (5, 6):
        (shelf / "train" / KIWI / f"000{number}.jpg").unlink()
    shutil.rmtree(shelf / "val" / PLUM)
    findings = found(shelf)
    assert (findings["too-few"].serious, findings["missing"].serious) == (True, False)
    assert [case.remark for case in findings["too-few"].cases] == [f"{KIWI}: 4"]
    assert [case.remark for case in findings["missing"].cases] == [f"val: {PLUM}"]


def test_imbalance_names_the_rare_products(tmp_path: Path, rng: np.random.Generator) -> None:
    for folder, count in (("train/Milk", 66), ("train/Juice", 6), ("train/Oats", 7), ("val/Milk", 1)):
        (tmp_path / folder).mkdir(parents=True)
        for number in range(count):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), rng.integers(0, 256, (64, 64), np.uint8))
    imbalance = found(tmp_path)["imbalance"]
    assert imbalance.sentence.startswith("the most frequent product has 11 times the train photos of the rarest")
    assert [case.remark for case in imbalance.cases] == ["Juice: 6"]


# The command


class Page(HTMLParser):
    """What a browser would show, load and link."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.loaded, self.open_tags = "", list[str](), list[str]()
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object")
        self.loaded += [value or "" for name, value in attrs if name in ("src", "srcset", "data", "poster")]
        if tag not in ("meta", "img"):
            self.open_tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def plant_faults(shelf: Path) -> None:
    """One fault of each kind that a good shelf lacks."""
    train = shelf / "train" / KIWI
    changed_copy(train / "0001.jpg", shelf / "test" / KIWI / "again.jpg")
    changed_copy(train / "0002.jpg", shelf / "train" / PLUM / "again.jpg")
    changed_copy(train / "0003.jpg", train / "again.jpg")
    (train / "<b>&.jpg").write_bytes(b"no photo")
    cv2.imwrite(str(train / "0005.jpg"), cv2.GaussianBlur(read_photo(train / "0005.jpg"), (0, 0), 3))
    cv2.imwrite(str(train / "0006.jpg"), read_photo(train / "0006.jpg") // 5)
    cv2.imwrite(str(train / "0004.jpg"), np.hstack([read_photo(train / "0004.jpg")] * 3))
    shutil.rmtree(shelf / "val" / PLUM)


def test_the_page_holds_every_finding_and_loads_nothing(shelf: Path) -> None:
    plant_faults(shelf)
    result = typed(shelf.parent, "data", "inspect", shelf, "--html", "report.html")
    assert result.exit_code == 0, result.stderr
    page = Page((shelf.parent / "report.html").read_text())
    assert page.open_tags == []
    inspection = inspected(shelf)
    kinds = {finding.kind for finding in inspection.findings}
    assert {"unreadable", "leak", "two-labels", "repeats", "missing", "blurred", "exposure", "elongated"} <= kinds
    for finding in inspection.findings:
        assert finding.sentence in page.text
        assert finding.advice in page.text
        for case in finding.cases:
            assert case.remark in page.text
            assert all(inspection.name_of(photo) in page.text for photo in case.photos)
    assert page.loaded
    assert all(address.startswith("data:image/jpeg;base64,") for address in page.loaded)


def test_the_terminal_shows_the_serious_first_each_with_an_example_and_advice(shelf: Path) -> None:
    plant_faults(shelf)
    shown = typed(shelf.parent, "data", "inspect", shelf).stdout
    findings = inspected(shelf).findings
    assert [finding.serious for finding in findings] == sorted((f.serious for f in findings), reverse=True)
    places = [shown.index(finding.sentence) for finding in findings]
    assert places == sorted(places)
    assert all(finding.cases[0].remark in shown and finding.advice in shown for finding in findings)
    assert "pictures:  add --html FILE" in shown


def test_strict_has_an_exit_code_of_its_own(drawn: Path, shelf: Path) -> None:
    assert typed(drawn, "data", "inspect", drawn, "--strict").exit_code == 0
    plant_faults(shelf)
    result = typed(shelf, "data", "inspect", shelf, "--strict")
    assert result.exit_code == 12
    assert "has serious findings (unreadable, leak, two-labels)" in result.stderr
    assert "1 pair of near-duplicates" in result.stdout


def test_json_holds_every_case(shelf: Path) -> None:
    plant_faults(shelf)
    for folder in (shelf / "train" / KIWI, shelf / "train"):
        (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"a name that is no text")
    document = json.loads(typed(shelf.parent, "data", "inspect", shelf, "--json").stdout)
    findings = {finding["kind"]: finding for finding in document["findings"]}
    named = {photo for case in findings["unreadable"]["cases"] for photo in case["photos"]}
    assert named == {f"train/{KIWI}/<b>&.jpg", f"train/{KIWI}/caf\\xe9.jpg"}
    assert findings["small"]["count"] == len(findings["small"]["cases"]) > 150
    assert document["photos"]["val"][PLUM] == 0
    assert any("ignored photos" in note and note.endswith(os.fsdecode(b"caf\xe9.jpg")) for note in document["notes"])


def test_inspect_reads_list_files(shelf: Path) -> None:
    assert typed(shelf.parent, "data", "split", shelf, "--output", "lists").exit_code == 0
    assert typed(shelf.parent, "data", "inspect", "lists", "--strict").exit_code == 0


@pytest.mark.slow
@pytest.mark.shared
def test_the_grocery_set_has_no_leak(shared: Path) -> None:
    assert inspected(shared / "data" / "grocery-store").serious == ()
