"""`edgebcnn review`: a person's word on each frame, on the disk at once, and photos that train reads."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from edgebcnn.errors import DataError, EdgebcnnError, MissingExtraError, StorageError
from edgebcnn.field.answers import Answer, AnswersFile, write_answers
from edgebcnn.field.record import Record, encoded
from edgebcnn.field.review import DECISIONS_NAME, Review
from edgebcnn.field.sample import SampleFolder
from edgebcnn.images.layouts import read_layout
from edgebcnn.preprocessing import read_photo
from tests.chromium import wait_for_picture
from tests.typing_in import typed

BUNDLE = "b" * 64
LABELS = ("Milk 1 %", "Milk 3 %", "Soja <1 l>", "Äpfel")
MB = 1 << 20

# edge, full, margin of the full model
SAID = (
    ("Milk 1 %", "Milk 1 %", 0.9),
    ("Milk 1 %", "Milk 3 %", 0.5),
    ("Soja <1 l>", "Äpfel", 0.1),
    ("Äpfel", "Äpfel", 0.2),
    ("Milk 3 %", "Milk 3 %", 0.6),
    ("Milk 1 %", "Milk 1 %", 0.8),
)
ORDER = ["a-2", "a-1", "a-3", "a-4", "a-5", "a-0"]


def write_sample(path: Path, *, bundle: str = BUNDLE) -> None:
    rng = np.random.default_rng(3)
    folder = SampleFolder(path, bundle_digest=bundle, max_bytes=MB)
    for number, (edge, _, _) in enumerate(SAID):
        record = Record(
            id=f"a-{number}",
            bundle=bundle,
            precision="int8",
            rate=1,
            boost=1,
            draw=0.5,
            class_id=LABELS.index(edge),
            label=edge,
            score=0.6,
            time="2026-11-20T08:00:00.000Z",
            source="0",
            frame=number,
            photo=None,
            truth=None,
        )
        folder.add(record, encoded(record, rng.integers(0, 256, (32, 32, 3), np.uint8)))
    folder.close()


def answers(*, bundle: str = BUNDLE) -> AnswersFile:
    return AnswersFile(
        bundle=bundle,
        labels=LABELS,
        answers=tuple(
            Answer(
                id=f"a-{number}",
                edge=edge,
                edge_score=0.6,
                full=full,
                full_score=0.7,
                full_margin=margin,
                time="2026-11-20T08:00:00.000Z",
                source="0",
                photo=None,
                truth=None,
            )
            for number, (edge, full, margin) in enumerate(SAID)
        ),
    )


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with a sample and its audit."""
    write_sample(tmp_path / "sample")
    write_answers(tmp_path / "sample-audit", answers())
    return tmp_path


def opened(kept: Path) -> Review:
    return Review(kept / "sample", kept / "sample-audit", output=kept / "labelled")


def labelled(folder: Path) -> dict[str, str]:
    """Product of each labelled photo."""
    return {file.stem: file.parent.name for file in folder.glob("*/*.png")}


def test_what_teaches_most_comes_first(kept: Path) -> None:
    with opened(kept) as review:
        assert [each.id for each in review.answers] == ORDER


def test_photos_lie_as_train_takes_them_and_follow_a_changed_mind(kept: Path) -> None:
    with opened(kept) as review:
        for frame, label in (("a-2", "Soja <1 l>"), ("a-1", "Milk 3 %"), ("a-3", None), ("a-4", "Milk 1 %")):
            review.decide(frame, label)
        assert str(review.counts()) == "4 of 6 frames decided: 1 kept, 2 fixed, 1 skipped"
        review.decide("a-4", None)
        review.decide("a-2", "Äpfel")
        assert str(review.counts()) == "4 of 6 frames decided: 2 kept, 0 fixed, 2 skipped"
    assert labelled(kept / "labelled") == {"a-2": "Äpfel", "a-1": "Milk 3 %"}
    listing = read_layout(kept / "labelled")
    assert [label.name for label in listing.labels] == ["Milk 3 %", "Äpfel"]
    for photo in listing.splits["train"]:
        assert np.array_equal(read_photo(photo.path), read_photo(kept / "sample" / photo.path.name))


def test_a_frame_without_a_product_lies_apart_from_the_photos_of_products(kept: Path) -> None:
    apart = kept / "labelled-no-product"
    with opened(kept) as review:
        review.decide("a-2", "Äpfel")
        review.decide("a-2", None, no_product=True)
        review.decide("a-1", None, no_product=True)
        assert str(review.counts()) == "2 of 6 frames decided: 0 kept, 0 fixed, 0 skipped, 2 without a product"
        with pytest.raises(DataError, match="cannot show 'Äpfel' and no product"):
            review.decide("a-3", "Äpfel", no_product=True)
    assert (labelled(kept / "labelled"), sorted(each.stem for each in apart.glob("*.png"))) == ({}, ["a-1", "a-2"])
    (apart / "a-1.png").unlink()  # as after a kill between a decision and its photo
    with opened(kept) as review:
        assert (apart / "a-1.png").exists()
        review.decide("a-2", "Milk 1 %")
    assert labelled(kept / "labelled") == {"a-2": "Milk 1 %"}
    assert not (apart / "a-2.png").exists()


def test_a_review_goes_on_after_a_kill_between_any_two_bytes(kept: Path) -> None:
    with opened(kept) as review:
        review.decide("a-2", "Äpfel")
        review.decide("a-1", "Milk 1 %")
    file = kept / "sample-audit" / DECISIONS_NAME
    content = file.read_bytes()
    first = content.index(b"\n") + 1
    for end in range(first, len(content)):
        file.write_bytes(content[:end])
        with opened(kept) as review:
            assert list(review.decisions) == ["a-2"]
    (kept / "labelled" / "Äpfel" / "a-2.png").unlink()  # as after a kill between a decision and its photo
    with opened(kept) as review:
        assert labelled(kept / "labelled")["a-2"] == "Äpfel"
        review.decide("a-1", "Milk 3 %")
    assert labelled(kept / "labelled") == {"a-2": "Äpfel", "a-1": "Milk 3 %"}


@pytest.mark.parametrize("small_disk", ["64k"], indirect=True)
def test_a_full_disk_decides_nothing(small_disk: Path, tmp_path: Path) -> None:
    write_sample(tmp_path / "sample")
    write_answers(small_disk / "audit", answers())
    with Review(tmp_path / "sample", small_disk / "audit", output=tmp_path / "labelled") as review:
        review.decide("a-2", "Äpfel")
        filler = small_disk / "filler"
        with pytest.raises(OSError), filler.open("wb") as stream:
            while True:
                stream.write(bytes(64))
                stream.flush()
        before = (small_disk / "audit" / DECISIONS_NAME).read_bytes()
        with pytest.raises(StorageError, match="no space left"):
            for _ in range(100):  # its last block has room for some
                review.decide("a-1", "Milk 3 %")
                before = (small_disk / "audit" / DECISIONS_NAME).read_bytes()
        assert (small_disk / "audit" / DECISIONS_NAME).read_bytes() == before
        filler.unlink()
        review.decide("a-3", None)
    with Review(tmp_path / "sample", small_disk / "audit", output=tmp_path / "labelled") as review:
        assert review.decisions["a-3"].label is None


def refused(result: Result, error: type[EdgebcnnError]) -> str:
    """The one sentence of a command that failed as it should."""
    assert (result.exit_code, result.stdout) == (error.exit_code, ""), result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: "), result.stderr
    return lines[0]


def test_what_cannot_be_reviewed_is_one_sentence(kept: Path, tmp_path: Path) -> None:
    def said(error: type[EdgebcnnError], *arguments: object) -> str:
        return refused(typed(kept, "review", "sample", *arguments), error)

    assert "run edgebcnn audit first" in said(DataError, "--audit", "gone")
    assert "is not a whole sample" in refused(typed(kept, "review", "gone", "--audit", "sample-audit"), DataError)
    write_answers(kept / "other", answers(bundle="c" * 64))
    assert "of a sample of another bundle" in said(DataError, "--audit", "other")
    (kept / "damaged").mkdir()
    (kept / "damaged" / "answers.json").write_text("{")
    assert "is damaged" in said(DataError, "--audit", "damaged")
    (kept / "full").mkdir()
    (kept / "full" / "holiday.jpg").write_text("")
    assert "holds other things" in said(StorageError, "--output", "full")
    assert "is not a folder" in said(StorageError, "--output", kept / "full" / "holiday.jpg")
    write_answers(kept / "slash", answers().model_copy(update={"labels": (*LABELS, "1/2 Brot")}))
    assert "'1/2 Brot' cannot be the name of a folder" in said(DataError, "--audit", "slash")
    (kept / "sample-audit" / DECISIONS_NAME).write_text("nothing\n")
    assert f"{DECISIONS_NAME}, line 1 is no decision" in said(DataError)
    (kept / "sample-audit" / DECISIONS_NAME).unlink()
    with opened(kept):
        assert "another review writes" in said(StorageError)
    assert not (kept / "sample-labelled").exists()


def test_what_is_not_installed_is_named_with_its_extra(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'edgebcnn[web]'" in refused(typed(kept, "review", "sample"), MissingExtraError)
    assert not (kept / "sample-labelled").exists()


@contextmanager
def served(kept: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`edgebcnn review sample` in a process of its own, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgebcnn", "review", "sample", *arguments],
        cwd=kept,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().removeprefix("open ").strip()
    finally:
        process.kill()
        process.communicate()


def status(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_only_who_knows_the_address_is_answered_and_a_port_that_is_taken_is_named(kept: Path) -> None:
    with served(kept) as (process, address):
        port = address.split(":")[2].partition("/")[0]
        assert address.startswith("http://127.0.0.1:")
        assert status(address) == status(f"{address}frames/a-2") == 200
        assert status(f"http://127.0.0.1:{port}/") == status(f"http://127.0.0.1:{port}/guess/frames") == 404
        assert status(address, Host="shop.example") == 400
        assert status(f"{address}frames/..%2Fsample.json") in {404, 409}
        write_sample(kept / "two")
        write_answers(kept / "two-audit", answers())
        result = typed(kept, "review", "two", "--port", port)
        assert f"cannot listen on port {port} (address already in use)" in refused(result, EdgebcnnError)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert out.startswith("0 of 6 frames decided")


def test_in_chromium_the_arrow_keys_decide_and_a_killed_review_goes_on(browser: Any, kept: Path) -> None:
    asked: list[str] = []
    said: list[str] = []

    def page(address: str) -> Any:
        tab = browser.new_page(viewport={"width": 400, "height": 800})
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.goto(address)
        tab.locator("#frame").wait_for()
        return tab

    def progress(tab: Any, text: str) -> None:
        tab.locator("#progress", has_text=text).wait_for()

    with served(kept) as (process, address):
        tab = page(address)
        progress(tab, "0 of 6 decided")
        assert tab.locator("#full").inner_text() == "Äpfel" and tab.locator("#edge").inner_text() == "Soja <1 l>"
        assert tab.evaluate("document.documentElement.scrollWidth") == 400
        wait_for_picture(tab)
        axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
        assert [(each["id"], each["nodes"][0]["html"]) for each in axe.run(tab).response["violations"]] == []
        tab.keyboard.press("ArrowRight")  # keeps Äpfel
        progress(tab, "1 of 6 decided, 1 of them labelled")
        tab.keyboard.type("milk")
        assert tab.locator("#matches li").all_inner_texts() == ["Milk 1 %", "Milk 3 %"]
        tab.keyboard.press("ArrowDown")
        tab.keyboard.press("ArrowUp")
        tab.keyboard.press("Enter")  # Milk 1 % in place of Milk 3 %
        progress(tab, "2 of 6 decided, 2 of them labelled")
        tab.keyboard.press("ArrowDown")  # skips
        progress(tab, "3 of 6 decided, 2 of them labelled")
        tab.keyboard.press("ArrowLeft")
        tab.locator("#said", has_text="skipped").wait_for()
        assert said == []
        process.kill()
        process.wait()
        tab.keyboard.press("ArrowRight")
        tab.locator("#error", has_text="what was decided is saved").wait_for()
        tab.close()
    assert labelled(kept / "sample-labelled") == {"a-2": "Äpfel", "a-1": "Milk 1 %"}
    # Refused connections, and a picture of which the kill let half through.
    assert [line for line in said if not line.startswith("Failed to load resource: net::ERR_")] == []
    said.clear()

    with served(kept) as (process, address):
        tab = page(address)
        progress(tab, "3 of 6 decided, 2 of them labelled")
        for left in (2, 1):
            tab.get_by_role("button", name=tab.locator("#full").inner_text(), exact=True).click()
            progress(tab, f"{6 - left} of 6 decided")
        tab.keyboard.press("Delete")  # nothing there
        tab.locator("#end", has_text="sample-labelled").wait_for()
        tab.get_by_role("button", name="Finish").click()
        tab.get_by_text("You can close this page").wait_for()
        assert process.wait(60) == 0
        tab.close()
    assert said == []
    assert asked
    assert all(url.startswith(("http://127.0.0.1:", "data:")) for url in asked)
    assert len(labelled(kept / "sample-labelled")) == 4
    assert len(list((kept / "sample-labelled-no-product").glob("*.png"))) == 1
    decisions = (kept / "sample-audit" / DECISIONS_NAME).read_text().splitlines()
    assert [json.loads(line)["label"] for line in decisions][:3] == ["Äpfel", "Milk 1 %", None]
