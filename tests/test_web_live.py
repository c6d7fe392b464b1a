"""The web page of a live `edgebcnn run`, in Chromium and from the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from click.testing import CliRunner

from benchmarks import web_clients
from edgebcnn.cli import main
from edgebcnn.errors import MissingExtraError, SinkError
from edgebcnn.web.listening import listen
from tests.broker import wait_until
from tests.mjpeg_server import network_camera
from tests.shelf_video import SLOTS, make_shelf, picture
from tests.typing_in import keys

TOKEN = "a-token-of-24-characters"
MARKUP = "<b id=told>A&2</b>"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_shelf(tmp_path_factory.mktemp("shelf"))
    (folder / "slots.toml").write_text(SLOTS.replace('name = "A2"', f'name = "{MARKUP}"'))
    return folder


class LiveRun:
    """A run in a process of its own, and the camera that it looks at.

    Attributes:
        shown: The pack at the right: what a person puts there.
        address: Of its page.
        films: Set while its camera gives frames.
        errors: What it wrote to stderr after that address, once it has ended.
    """

    def __init__(self, process: subprocess.Popen[str], events: Path) -> None:
        self.process, self.shown, self.address, self.errors = process, "Green", "", ""
        self.films = threading.Event()
        self.films.set()
        self._events = events

    def events(self) -> list[dict[str, Any]]:
        """What its JSONL holds by now."""
        lines = self._events.read_text().splitlines(keepends=True) if self._events.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]


@contextmanager
def live(shelf: Path, folder: Path, *flags: str, **environment: str) -> Iterator[LiveRun]:
    """Yields a run whose page answers, and ends it with the block."""
    over = threading.Event()
    with network_camera() as camera:
        command = [
            sys.executable,
            "-m",
            "edgebcnn",
            "run",
            "--bundle",
            str(shelf / "bundle"),
            "--camera",
            camera.address,
        ]
        command += ["--jsonl", str(folder / "events.jsonl"), "--quiet", *flags]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        run = LiveRun(process, folder / "events.jsonl")

        def film() -> None:
            seed = 0
            while not over.wait(0.05):
                run.films.wait(30)
                seed += 1
                camera.send(picture(run.shown, seed))

        filming = threading.Thread(target=film)
        filming.start()
        try:
            assert process.stderr is not None
            run.address = _said(process.stderr, r"the page is at (\S+)")
            yield run
        finally:
            process.send_signal(signal.SIGTERM)
            _, run.errors = process.communicate(timeout=30)
            over.set()
            run.films.set()
            filming.join()
            assert "Traceback" not in run.errors


def _said(stream: IO[str], pattern: str) -> str:
    for line in stream:
        if found := re.search(pattern, line):
            return found[1]
    raise AssertionError(f"the run ended without saying {pattern!r}")


def opened(browser: Any, address: str, *, width_px: int = 1200, **options: Any) -> tuple[Any, list[str], list[str]]:
    """A tab, the addresses that it asked for, and what it had to say."""
    asked: list[str] = []
    said: list[str] = []
    tab = browser.new_page(viewport={"width": width_px, "height": 800}, **options)
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(address)
    return tab, asked, said


PIXELS = """() => {
    const image = document.getElementById("picture"), canvas = document.createElement("canvas");
    canvas.width = canvas.height = 16;
    canvas.getContext("2d").drawImage(image, 0, 0, 16, 16);
    return image.naturalWidth ? [...canvas.getContext("2d").getImageData(0, 0, 16, 16).data].join() : "";
}"""


def test_in_chromium_the_picture_moves_and_the_tables_are_those_of_the_jsonl(
    shelf: Path, browser: Any, tmp_path: Path
) -> None:
    with live(
        shelf, tmp_path, "--web", "0", "--slots", str(shelf / "slots.toml"), *keys(monitoring__golden_every=0)
    ) as run:
        tab, asked, said = opened(browser, run.address)
        tab.wait_for_selector("#headline:text-is('✓ All 2 slots right')", timeout=30_000)
        run.shown = "Blue"
        tab.wait_for_selector("#headline:text-is('✗ 1 of 2 slots right · 1\u00a0wrong')", timeout=30_000)
        tab.wait_for_selector("#changes li:nth-child(3)", timeout=30_000)
        wait_until(lambda: len(run.events()) == 3)
        assert tab.inner_text("#problems li span") == "Blue where Green belongs"

        seen = set()
        for _ in range(8):
            seen.add(tab.evaluate(PIXELS))
            time.sleep(0.3)
        assert len(seen - {""}) >= 4

        events = run.events()
        lines = "[...document.querySelectorAll('#changes li')].map(line => line.querySelector('b').innerText)"
        assert tab.evaluate(lines) == [
            f"{'✓' if event['state'] == 'right' else '✗'} Top {event['slot']} {event['state']}"
            for event in reversed(events)
        ]
        pictures = "[...document.querySelectorAll('#changes li:first-child img')].map(image => image.alt)"
        assert tab.evaluate(pictures) == ["before", "after"]
        tab.select_option("#of-state", "wrong")
        wait_until(lambda: tab.locator("#changes li").count() == 1)
        states = {event["slot"]: event for event in events}  # the last of each
        cards = tab.evaluate("[...document.querySelectorAll('.slot')].map(card => card.innerText)")
        for card, (name, event) in zip(cards, states.items(), strict=True):
            assert card.startswith(name)
            assert event["state"] in card and event["product"] in card
            assert f"{100 * event['score']:.0f}\u00a0%" in card
        assert "1 of 2 right" in tab.inner_text("#shelves h2")
        assert [event["state"] for event in states.values()] == ["right", "wrong"]
        assert tab.query_selector("#told") is None, "a name is text, whatever it is"
        drawn = tab.evaluate("[...document.querySelectorAll('#overlay g')].map(each => each.getAttribute('class'))")
        assert drawn == ["right", "wrong"]
        assert tab.evaluate("document.querySelectorAll('#drawn path').length") == 3

        assert asked
        assert all(url.startswith((run.address, "data:")) for url in asked), asked
        assert said == []
        began_s = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        run.process.wait(30)
        assert time.monotonic() - began_s < 3, "one second, and what a busy machine takes"
        tab.wait_for_selector("#verdict.stale >> text=The run has ended", timeout=10_000)
        tab.close()


def test_on_a_phone_the_page_is_readable_in_light_and_dark_and_a_hidden_one_rests(
    shelf: Path, browser: Any, tmp_path: Path
) -> None:
    with live(shelf, tmp_path, "--web", "0") as run:
        for scheme in ("light", "dark"):
            tab, _, said = opened(browser, run.address, width_px=360, color_scheme=scheme)
            tab.wait_for_selector("#top3 li", timeout=30_000)
            tab.wait_for_selector("text=Agreement: golden photos", timeout=30_000)
            tab.wait_for_selector("#events >> text=golden photos match the export", timeout=30_000)
            assert tab.evaluate("document.documentElement.scrollWidth") == 360
            cut = (
                "[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)"
            )
            assert tab.evaluate(f"{cut}.map(e => e.outerHTML.slice(0, 80))") == []
            sizes = "[...document.querySelectorAll('p, td, dd, dt, li, small')].map(e => getComputedStyle(e).fontSize)"
            assert min(float(size.removesuffix("px")) for size in tab.evaluate(sizes)) >= 11
            paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (paper == "rgb(246, 247, 248)") == (scheme == "light")
            label = tab.evaluate("document.querySelector('#top3 span').textContent")
            assert label in {product["label"] for product in run.events()[-1]["top3"]}
            rows = tab.evaluate("[...document.querySelectorAll('#events tbody tr')].map(row => row.dataset.id)")
            assert set(rows) <= {event["id"] for event in run.events()}
            assert said == []
            tab.evaluate("rest()")
            assert tab.get_attribute("#picture", "src") is None
            tab.close()


def test_a_lost_camera_turns_the_page_gray_within_three_seconds_and_the_last_frame_stays(
    shelf: Path, browser: Any, tmp_path: Path
) -> None:
    with live(
        shelf, tmp_path, "--web", "0", "--slots", str(shelf / "slots.toml"), *keys(monitoring__golden_every=0)
    ) as run:
        tab, _, said = opened(browser, run.address, width_px=400)
        tab.wait_for_selector("#verdict.right", timeout=30_000)
        run.films.clear()
        began_s = time.monotonic()
        tab.wait_for_selector("#verdict.stale", timeout=10_000)
        assert time.monotonic() - began_s < 3
        assert "Last seen at" in tab.inner_text("#detail") and "All 2 slots right" in tab.inner_text("#detail")
        assert "Picture of" in tab.inner_text("#gone")
        assert tab.evaluate(PIXELS) != "", "the last frame stays"
        assert (
            tab.evaluate(
                "new Set([...document.querySelectorAll('.slot .state')].map(e => getComputedStyle(e).color)).size"
            )
            == 1
        )
        state = tab.evaluate("fetch('api/state').then(answer => answer.json())")
        assert state["verdict"]["level"] == "stale" and state["live"]["status"] in {"lost", "silent"}
        assert state["verdict"]["last_known"] == "All 2 slots right"
        run.films.set()
        tab.wait_for_selector("#verdict.right", timeout=30_000)
        assert said == []
        tab.close()


def test_on_a_phone_the_verdict_and_what_is_wrong_need_no_scrolling_and_axe_finds_nothing(
    shelf: Path, browser: Any, tmp_path: Path
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    with live(shelf, tmp_path, "--web", "0", "--slots", str(shelf / "slots.toml")) as run:
        run.shown = "Blue"
        for scheme in ("light", "dark"):
            tab, _, _ = opened(browser, run.address, width_px=400, color_scheme=scheme)
            tab.wait_for_selector("#verdict.problem", timeout=30_000)
            tab.wait_for_selector("#changes li")
            for part in ("#headline", "#problems"):
                box = tab.locator(part).bounding_box()
                assert box["y"] + box["height"] < 400, "in the upper half of the screen"
            assert tab.evaluate("document.documentElement.scrollWidth") == 400
            found = axe.run(tab).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []
            tab.close()


def test_beyond_this_machine_a_browser_needs_the_token(shelf: Path, browser: Any, tmp_path: Path) -> None:
    with live(shelf, tmp_path, "--web", "0.0.0.0:0", EDGEBCNN_WEB_TOKEN=TOKEN) as run:
        port = re.search(r":(\d+)/", run.address)
        assert port and TOKEN not in run.address
        page = f"http://127.0.0.1:{port[1]}/"
        context = browser.new_context()
        tab = context.new_page()
        assert tab.goto(page).status == 401
        assert tab.goto(f"{page}?token={TOKEN[:-1]}").status == 401
        assert tab.goto(f"{page}api/state").status == 401
        tab.goto(f"{page}?token={TOKEN}")
        assert tab.url == page, "the token does not stay in the address"
        tab.wait_for_selector("#top3 li", timeout=30_000)
        assert tab.evaluate("document.cookie") == "", "no script reads the cookie"
        context.close()


def test_what_cannot_work_is_said_before_the_loop_starts(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*flags: str) -> tuple[int, str]:
        bundle = ["--bundle", str(shelf / "bundle"), "--camera", str(shelf / "shelf.avi")]
        result = CliRunner().invoke(main, ["run", *bundle, *flags])
        assert result.stdout == ""
        return result.exit_code, result.stderr

    taken = listen("0", None)
    code, sentence = said("--web", str(taken.port))
    assert code == SinkError.exit_code
    assert re.fullmatch(rf"Error: --web cannot listen on 127.0.0.1:{taken.port} \(.+\): give another port\n", sentence)
    code, sentence = said("--web", "shop:door")
    assert (code, sentence.count("\n")) == (SinkError.exit_code, 1)
    assert sentence.startswith("Error: --web shop:door is not a port: ")
    code, sentence = said("--web", "0", *keys(screen__web_token="short"))
    assert (code, sentence.count("\n")) == (SinkError.exit_code, 1)
    assert sentence.startswith("Error: --web-token has 5 characters, which can be guessed: ")
    code, sentence = said(*keys(screen__web_token=TOKEN))
    assert code == 2
    assert "screen.web_token is for --web" in sentence
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, sentence = said("--web", "0")
    assert code == MissingExtraError.exit_code
    assert "edgebcnn run --web needs packages that are not installed: pip install 'edgebcnn[web]'" in sentence


def test_what_clients_cost_the_loop_is_measured_in_one_run(shelf: Path) -> None:
    flags = ["--clients", "3", "--turns", "1", "--turn-s", "0.5"]
    result = CliRunner().invoke(web_clients.main, [str(shelf / "bundle"), *flags])
    measured = json.loads(result.stdout)
    assert result.exit_code == (measured["ratio"] < web_clients.LEAST_RATIO)
    assert min(measured["fps_alone"], measured["fps_with_clients"]) > 0
    assert measured["read_mb_per_client_and_s"] > 0.01, "clients had pictures"
