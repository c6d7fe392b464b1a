"""`edgebcnn slots`: slots drawn on a page, by mouse, finger and keyboard, and the file that `run --slots` takes."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import cv2
import pytest
from click.testing import Result

from edgebcnn.errors import CameraError, DataError, EdgebcnnError, MissingExtraError, SinkError
from edgebcnn.shelf.slots import load_slots
from edgebcnn.web.listening import listen
from tests.broker import wait_until
from tests.chromium import wait_for_picture
from tests.mjpeg_server import network_camera
from tests.shelf_video import SLOTS, make_shelf, picture
from tests.typing_in import typed
from tests.web_run import TOKEN, asked

LARGE_PX = (1600, 600)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_shelf(tmp_path_factory.mktemp("shelf"))
    large = cv2.resize(picture("Blue", 0), LARGE_PX, interpolation=cv2.INTER_CUBIC)
    assert cv2.imwrite(str(folder / "large.png"), large)
    return folder


@pytest.fixture
def shelf(made: Path, tmp_path: Path) -> Path:
    """A folder of one test's own, with the shelf in it."""
    for each in made.iterdir():
        (tmp_path / each.name).symlink_to(each)
    (tmp_path / "slots.toml").unlink()
    return tmp_path


@contextmanager
def drawn(folder: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`edgebcnn slots` in a process of its own, and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgebcnn", "slots", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        yield process, process.stderr.readline().removeprefix("the page is at ").strip()
    finally:
        process.kill()
        process.communicate()


class Tab:
    """A page on which somebody draws, in pixels of the camera's picture."""

    def __init__(self, context: Any, address: str) -> None:
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page = context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.goto(address)
        wait_for_picture(self.page)

    def screen(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the picture is shown."""
        box = self.page.locator("#picture").bounding_box()
        width = self.page.evaluate("document.getElementById('picture').naturalWidth")
        return box["x"] + x * box["width"] / width, box["y"] + y * box["width"] / width

    def pull(self, *points: tuple[float, float]) -> None:
        """Drags the mouse along some pixels."""
        mouse = self.page.mouse
        mouse.move(*self.screen(*points[0]))
        mouse.down()
        for point in points[1:]:
            mouse.move(*self.screen(*point), steps=3)
        mouse.up()

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.screen(x, y))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)

    def fill(self, **values: str) -> None:
        for name, value in values.items():
            self.page.locator(f"[name={name}]").fill(value)
            self.page.locator(f"[name={name}]").blur()

    def value(self, name: str) -> str:
        return str(self.page.locator(f"[name={name}]").input_value())

    def told(self, text: str) -> None:
        self.page.locator("#told", has_text=text).wait_for()

    def listed(self) -> list[str]:
        return [" ".join(each.split("\n")) for each in self.page.locator("#slots button").all_inner_texts()]

    def save(self) -> None:
        self.press("Control+s")
        self.told("Saved: ")


def test_in_chromium_slots_are_drawn_by_mouse_and_keyboard_and_the_printed_command_watches_them(
    browser: Any, shelf: Path
) -> None:
    with drawn(shelf, "--camera", "shelf.avi", "--bundle", "bundle") as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        tab = Tab(browser.new_context(viewport={"width": 1200, "height": 700}), address)
        tab.pull((60, 47.8), (2, 3))  # to the left and up
        assert tab.value("corners") == "2, 3, 60, 48"
        tab.press("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowUp", "Shift+ArrowUp", "Shift+ArrowLeft")
        assert tab.value("corners") == "0, 2, 57, 46", "no further than the edge"
        tab.fill(corners="0, 0, 60, 48", shelf="Top", name="A1", product="red")
        tab.page.locator("[name=product]").focus()
        assert tab.page.locator("#products li").all_inner_texts() == ["Red (00000000000017)"]
        tab.press("Enter")
        wait_until(lambda: tab.listed() == ["Top · A1 Red"])
        tab.press("p")
        for corner in ((68, 0.2), (127.8, 0.2), (127, 47), (68, 47.8)):
            tab.click(*corner)
        tab.press("Enter")
        wait_until(lambda: tab.listed() == ["Top · A1 Red", "Top · A2 no product yet"])
        tab.press("b")
        tab.pull((127, 47), (140, 60))  # a corner of the polygon, beyond the edge
        tab.button("What does the model see?").click()
        tab.page.locator("#seen").get_by_role("button", name="Green").click()
        assert tab.listed()[1] == "Top · A2 Green; the model sees Green 100\u00a0%"
        tab.press("n", "Delete", "Control+z", "Control+y")
        wait_until(lambda: len(tab.listed()) == 2)
        tab.save()
        tab.button("Done").click()
        tab.page.get_by_text("You can close this page").wait_for()
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        assert tab.said == []
        assert tab.asked
        assert all(url.startswith((address, "data:")) for url in tab.asked)
    slots = load_slots(shelf / "slots.toml").file
    assert (slots.units, slots.frame_px, [each.name for each in slots.shelf]) == ("px", (128, 48), ["Top"])
    assert [slot.corners for slot in slots.shelf[0].slot] == [
        ((0, 0), (60, 0), (60, 48), (0, 48)), ((68, 0), (128, 0), (128, 48), (68, 48))
    ]  # fmt: skip
    assert out == "edgebcnn run --camera shelf.avi --bundle bundle --slots slots.toml\n"
    result = typed(shelf, *shlex.split(out)[1:], "--json")
    assert [slot["state"] for slot in json.loads(result.stdout)["slots"]] == ["right", "wrong"], result.stderr


def test_in_chromium_a_finger_draws_on_a_phone_in_pixels_of_the_camera(browser: Any, shelf: Path) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800}, has_touch=True, device_scale_factor=2)
    with drawn(shelf, "--camera", "large.png", "--rotate", "180") as (process, address):
        tab = Tab(context, address)
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 400
        finger = context.new_cdp_session(tab.page)
        for kind, at in (("Start", (100, 40)), ("Move", (500, 300)), ("Move", (740, 560)), ("End", None)):
            x, y = tab.screen(*at) if at else (0, 0)
            points = [{"x": x, "y": y}] if at else []
            finger.send("Input.dispatchTouchEvent", {"type": f"touch{kind}", "touchPoints": points})
        tab.page.locator("#slots li").wait_for()
        box = [float(each) for each in tab.value("corners").split(",")]
        assert box == pytest.approx([100, 40, 740, 560], abs=4), "a pixel of the screen is 4 of the picture"
        tab.fill(corners="100, 40, 740, 560", product="00000000000017")
        tab.button("Polygon").click()
        for corner in ((840, 40), (1500, 60), (1400, 560), (840, 40)):  # the last on the first closes it
            tab.click(*corner)  # synthetic taps get lost on a busy machine
        wait_until(lambda: len(tab.listed()) == 2)
        tab.fill(product="Anything")
        tab.save()
        assert tab.page.evaluate("document.documentElement.scrollWidth") == 400
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err) == (0, "")
        tab.press("ArrowUp", "Control+s")
        tab.told("start edgebcnn slots again")
    assert out == "edgebcnn run --camera large.png --rotate 180 --slots slots.toml\n"
    slots = load_slots(shelf / "slots.toml").file
    assert slots.frame_px == LARGE_PX
    first, second = slots.shelf[0].slot
    assert (first.gtin, first.product, first.box) == ("00000000000017", None, (100, 40, 740, 560))
    assert second.product == "Anything" and second.polygon is not None and len(second.polygon) == 3


def test_in_chromium_what_cannot_be_saved_says_which_field_and_what_others_wrote_is_not_lost(
    browser: Any, shelf: Path
) -> None:
    file = shelf / "slots.toml"
    settings = 'empty_product = "Grey"\n[rules]  # ours\nsettle_s = 2.5\n'
    file.write_text(SLOTS.replace("[[shelf]]", f"{settings}[[shelf]]"))
    with drawn(shelf, "--camera", "still.png", "--bundle", "bundle") as (process, address):
        tab = Tab(browser.new_context(), address)
        wait_until(lambda: tab.listed() == ["Top · A1 Red", "Top · A2 Green"])
        assert tab.page.locator("#comments").is_visible()
        for values, sentence in (
            ({"name": "A1"}, "Not saved. Top A1: another slot of this shelf is called 'A1'; rename one"),
            ({"name": "A2", "product": "Gren"}, "Not saved. Top A2: the bundle has no product 'Gren'; the nearest is"),
            ({"product": "Green", "corners": "68,0; 128,48; 128,0; 68,48"}, "Not saved. Top A2: its edges cross"),
        ):
            tab.page.locator("#slots button").nth(1).click()
            tab.fill(**values)
            tab.press("Control+s")
            tab.told(sentence)
            assert tab.page.locator("[aria-invalid=true]").get_attribute("name") == list(values)[-1]
        assert 'Gren"' not in file.read_text()
        tab.fill(corners="68, 0; 128, 0; 128, 48; 68, 48")
        file.write_text(file.read_text().replace("2.5", "4.5"))
        tab.fill(product="Blue")
        tab.press("Control+s")
        tab.told("slots.toml has changed since it was loaded, and is left as it is: load it again")
        assert "4.5" in file.read_text() and "Blue" not in file.read_text()
        tab.button("Load again").click()
        tab.page.locator("#slots li", has_text="Green").wait_for()
        tab.button("Undo").click()
        tab.page.locator("#slots li", has_text="Blue").wait_for()
        tab.button("Done").click()
        tab.told("There are changes that are not saved")
        tab.save()
        tab.button("Done").click()
        assert process.wait(60) == 0
    after = load_slots(file).file
    assert (after.rules.settle_s, after.empty_product) == (4.5, "Grey")
    assert [slot.product for slot in after.shelf[0].slot] == ["Red", "Blue"]


def test_in_chromium_another_picture_of_a_stream_is_one_that_was_taken_since(browser: Any, shelf: Path) -> None:
    shown, over = ["Green"], threading.Event()

    def film() -> None:
        for seed in count():
            camera.send(picture(shown[0], seed))
            if over.wait(0.05):
                return

    with network_camera() as camera:
        threading.Thread(target=film, daemon=True).start()
        with drawn(shelf, "--camera", camera.address, "--bundle", "bundle") as (process, address):
            tab = Tab(browser.new_context(), address)
            tab.pull((68, 0.2), (128, 48))
            for product in ("Green", "Blue"):
                if product == "Blue":
                    shown[0] = product
                    tab.page.wait_for_timeout(500)  # until what was sent before has arrived
                    with tab.page.expect_response("**/picture.jpg?*"):
                        tab.button("Another picture").click()
                tab.button("What does the model see?").click()
                tab.page.locator("#slots li", has_text=f"the model sees {product}").wait_for()
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (0, "", "nothing was saved\n")
        over.set()


def test_the_page_is_guarded_as_that_of_a_run_and_changes_nothing_for_another_page(shelf: Path) -> None:
    with drawn(shelf, "--camera", "still.png") as (_, address):
        port = int(address.rstrip("/").rpartition(":")[2])
        own = {"Origin": f"http://127.0.0.1:{port}"}
        assert asked(port, "/api/slots", "POST", **own).status == asked(port, "/api/slots", "POST").status == 200
        assert asked(port, "/api/slots", "POST", Origin="http://shop.example").status == 403
        assert asked(port, "/api/done", "POST", Origin="null").status == 403
        assert asked(port, "/", Host="shop.example").status == 403
        assert asked(port, "/api/slots").status == 405
        assert asked(port, "/draw.js").getheader("Content-Security-Policy")
    with drawn(shelf, "--camera", "still.png", "--web", "0.0.0.0:0", EDGEBCNN_WEB_TOKEN=TOKEN) as (_, address):
        port = int(address.partition("/?")[0].rpartition(":")[2])
        assert TOKEN not in address
        assert asked(port, "/api/slots", "POST").status == asked(port, "/picture.jpg").status == 401
        assert asked(port, "/picture.jpg", Authorization=f"Bearer {TOKEN}").status == 200


def test_a_request_that_is_too_large_is_refused_and_one_that_never_comes_is_given_up(shelf: Path) -> None:
    with drawn(shelf, "--camera", "still.png") as (_, address):
        port = int(address.rstrip("/").rpartition(":")[2])
        head = b"POST /api/see HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(head % 9 + b"{")
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", port), timeout=20) as large:
            large.sendall(
                b"POST /api/see HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000000\r\n\r\n" + bytes(4300000)
            )
            assert large.recv(100).startswith(b"HTTP/1.1 413 ")


def test_in_chromium_the_page_for_drawing_has_no_fault_that_axe_finds(browser: Any, shelf: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    (shelf / "slots.toml").write_text(SLOTS)
    with drawn(shelf, "--camera", "still.png", "--bundle", "bundle") as (_, address):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": 400, "height": 800}, color_scheme=scheme)
            tab = Tab(context, address)
            wait_until(lambda tab=tab: len(tab.listed()) == 2)  # type: ignore[misc]
            tab.page.locator("#slots button").first.click()
            found = axe.run(tab.page).response["violations"]
            assert [(each["id"], each["nodes"][0]["html"][:200]) for each in found] == []
            assert tab.page.evaluate("document.documentElement.scrollWidth") == 400


def test_what_cannot_be_drawn_is_one_sentence(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(error: type[EdgebcnnError], *arguments: object) -> str:
        result: Result = typed(shelf, "slots", *arguments)
        assert (result.exit_code, result.stdout) == (error.exit_code, ""), result.output
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1, result.stderr
        return result.stderr

    still = ("--camera", "still.png")
    assert "there is no file or folder 'gone.png'" in said(CameraError, "--camera", "gone.png")
    taken = listen("0", None)
    assert "in use" in said(SinkError, *still, "--web", taken.port)
    (shelf / "slots.toml").write_text("units = 3")
    assert "slots.toml, line 1, field units: " in said(DataError, *still)
    (shelf / "slots.toml").write_text(SLOTS.replace("[128, 48]", "[128, 128]"))
    assert "slots were drawn on 128 × 128, and frames of 128 × 48 have another aspect" in said(DataError, *still)
    assert "is a directory" in said(DataError, *still, "--slots", "bundle").lower()
    result = typed(shelf, "slots", *still, "check", "slots.toml", "--photo", "still.png")
    assert (result.exit_code, "--camera stands before check" in result.stderr) == (2, True)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "pip install 'edgebcnn[web]'" in said(MissingExtraError, *still)
