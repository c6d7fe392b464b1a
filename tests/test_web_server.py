"""The web page's server: who is let in, what is told, and that it costs the loop nothing, not even when it breaks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray

from edgebcnn.errors import SinkError
from edgebcnn.report.agreement import Proportion
from edgebcnn.web import guard, server
from edgebcnn.web.board import SHOWN_EVENTS, Board, jpeg_of
from edgebcnn.web.listening import listen
from edgebcnn.web.server import PICTURES_PER_S
from edgebcnn.web.state import json_schema
from tests.broker import wait_until
from tests.readings import reading, stamp
from tests.web_run import TOKEN, Told, asked, frame, web_page

PATHS = (
    "/",
    "/page.css",
    "/live.css",
    "/page.js",
    "/api/state",
    "/api/history",
    "/api/stream",
    "/picture.jpg",
    "/picture.mjpg",
)
SCHEMA = Path(__file__).parents[1] / "docs" / "web.schema.json"


# ---- where it listens


def test_only_this_machine_may_look_without_a_token() -> None:
    own, all_of_them = listen("0", None), listen("0.0.0.0:0", None)
    assert own.token is None
    assert str(own) == f"the page is at http://127.0.0.1:{own.port}/"
    assert all_of_them.token is not None and len(all_of_them.token) >= 32
    assert str(all_of_them).endswith(f"/?token={all_of_them.token}")
    assert all_of_them.token != listen("0.0.0.0:0", None).token


def test_a_token_of_the_users_own_is_used_and_never_printed() -> None:
    for at in ("0", "0.0.0.0:0"):
        listening = listen(at, TOKEN)
        assert listening.token == TOKEN
        assert TOKEN not in str(listening)


@pytest.mark.parametrize(
    ("at", "token", "sentence"),
    [
        ("shop", None, "--web shop is not a port: give PORT, or HOST:PORT to listen beyond this machine"),
        ("70000", None, "--web 70000 is not a port"),
        ("no-such-host.invalid:0", None, r"--web cannot listen on no-such-host.invalid:0 \(.+\): give another port"),
        ("192.0.2.1:0", None, r"--web cannot listen on 192.0.2.1:0 \(.+\): give another port"),
        ("0", "fifteen-letters", "--web-token has 15 characters, which can be guessed: give 16 or more"),
        ("0", "a token with spaces in it", "--web-token has characters that do not fit into an address"),
    ],
)
def test_what_cannot_work_is_one_sentence(at: str, token: str | None, sentence: str) -> None:
    with pytest.raises(SinkError, match=sentence):
        listen(at, token)


def test_a_port_that_is_taken_is_one_sentence() -> None:
    taken = listen("0", None)
    with pytest.raises(SinkError, match=rf"--web cannot listen on 127.0.0.1:{taken.port} \(.*in use.*\): give another"):
        listen(str(taken.port), None)


# ---- who is let in


def test_nothing_is_told_to_who_does_not_know_the_token() -> None:
    with web_page(token=TOKEN) as (_, at):
        attempts: list[dict[str, str]] = [
            {},
            {"Authorization": "Bearer a-token-of-24-character"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer"},
            {"Cookie": f"edgebcnn_{at.port}={TOKEN}"},
            {"Cookie": f"edgebcnn_{at.port}="},
        ]
        for path in (*PATHS, "/?token=", "/?token=a-token-of-24-characterz", "/nowhere"):
            for headers in attempts:
                answer = asked(at.port, path, **headers)
                assert (answer.status, b"needs its token" in answer.read()) == (401, True), (path, headers)


def test_the_token_in_a_header_lets_in() -> None:
    with web_page(token=TOKEN) as (_, at):
        assert asked(at.port, "/api/state", Authorization=f"Bearer {TOKEN}").status == 200


def test_the_token_in_the_address_becomes_a_cookie_that_does_not_tell_it() -> None:
    with web_page(token=TOKEN) as (_, at):
        answer = asked(at.port, f"/?token={TOKEN}")
        cookie = answer.headers["Set-Cookie"]
        assert (answer.status, answer.headers["Location"]) == (303, "./")
        assert "HttpOnly" in cookie and "SameSite=lax" in cookie and TOKEN not in cookie
        given = {"Cookie": cookie.partition(";")[0]}
        assert asked(at.port, "/picture.jpg", **given).status == 200
    with web_page(token=TOKEN[::-1]) as (_, at):
        given = {"Cookie": f"edgebcnn_{at.port}={given['Cookie'].partition('=')[2]}"}
        assert asked(at.port, "/", **given).status == 401, "another token has another cookie"


def test_without_a_token_only_the_machines_own_names_are_answered() -> None:
    own = ("127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080")
    others = ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost:8080:1", "")
    with web_page() as (_, at):
        assert {asked(at.port, "/page.css", Host=name).status for name in own} == {200}
        for path in PATHS:
            assert {asked(at.port, path, Host=name).status for name in others} == {403}


def test_every_answer_forbids_to_keep_share_and_embed_it() -> None:
    with web_page(token=TOKEN) as (_, at):
        for path in (*PATHS, "/nowhere"):
            for headers in ({}, {"Authorization": f"Bearer {TOKEN}", "Origin": "http://evil.example"}):
                given = asked(at.port, path, **headers).headers
                assert {name: given[name] for name in guard.HEADERS} == guard.HEADERS
                assert not any(name.lower().startswith("access-control") for name in given)


def test_only_reading_is_allowed() -> None:
    with web_page() as (_, at):
        assert {asked(at.port, path, "POST").status for path in PATHS} == {405}
        assert {asked(at.port, path, "HEAD").status for path in PATHS} == {200}


# ---- what is told


def test_the_state_is_what_the_run_says_and_agreement_comes_with_its_interval() -> None:
    shares = {"int8 with float32": Proportion(99, 100)}
    with web_page(agreements=lambda: shares) as (page, at):
        page.write(frame(41), reading(41))
        page.news.write(stamp().reading(reading(41)))
        state = json.loads(asked(at.port, "/api/state").read())
    assert state["frame"]["frame"] == 41
    assert [product["label"] for product in state["frame"]["top3"]] == ["Oatly-Oat-Milk", "Oatly-Natural-Oatghurt"]
    assert state["events"][0]["label"] == "Oatly-Oat-Milk"
    assert (state["accuracy"]["value"], state["accuracy"]["n"]) == (0.9, 50)
    known = state["agreement"]["int8 with float32"]
    assert known["low"] < known["value"] == 0.99 < known["high"]
    assert state["receipt"]["left"] == {"QUANTIZE": 1}
    health = state["health"]
    assert (health["restarts"], health["refused"], health["sinks"][0]["delivered"]) == (2, {"black": 4}, 7)
    assert set(json_schema()["required"]) == set(state), "the schema names every field"


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    assert json.loads(SCHEMA.read_text()) == json_schema(), "python -m edgebcnn.web.state > docs/web.schema.json"


def test_of_readings_those_are_events_that_say_something_else() -> None:
    board, stamped = Board(), stamp()
    labels = ["A", "A", "B", "B", None, None, "A"]
    events = [
        stamped.reading(reading(number, label=label, reason=None if label else "black"))
        for number, label in enumerate(labels)
    ]
    for event in events:
        board.note(event)
    kept = [event.frame for event in board.events() if event.kind == "reading"]  # type: ignore[attr-defined]
    assert kept == [6, 4, 2, 0]
    for number in range(100):
        board.note(stamped.reading(reading(number, label=str(number))))
    assert len(board.events()) == SHOWN_EVENTS


def test_the_stream_tells_each_second() -> None:
    with web_page() as (page, at):
        stream = asked(at.port, "/api/stream")
        states = []
        for number in (5, 6):
            page.write(frame(number), reading(number))
            line = stream.readline()
            assert line.startswith(b"data: {") and stream.readline() == b"\n"
            states.append(json.loads(line[6:]))
    assert states[1]["time"] > states[0]["time"]
    assert states[1]["frame"]["frame"] == 6


def size_shown(port: int) -> tuple[int, ...]:
    shown = cv2.imdecode(np.frombuffer(asked(port, "/picture.jpg").read(), np.uint8), cv2.IMREAD_COLOR)
    assert shown is not None
    height_px, width_px = shown.shape[:2]
    return height_px, width_px


def test_a_large_frame_is_made_smaller_and_a_small_one_is_not() -> None:
    with web_page() as (page, at):
        for size, expected in (((1080, 1920), (450, 800)), ((48, 64), (48, 64))):
            image = np.zeros((*size, 3), np.uint8)
            page.write(frame(1, image), reading(1))
            wait_until(lambda size=expected: size_shown(at.port) == size)  # type: ignore[misc]


# ---- what it costs


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The sizes of the frames that were encoded."""
    sizes = []

    def counting(image: NDArray[np.uint8]) -> bytes:
        sizes.append(image.shape)
        return jpeg_of(image)

    monkeypatch.setattr(server, "jpeg_of", counting)
    return sizes


def test_a_frame_is_encoded_once_for_all_and_only_while_somebody_looks(encoded: list[tuple[int, ...]]) -> None:
    with web_page() as (page, at):
        for number in range(20):
            page.write(frame(number), reading(number))
        time.sleep(0.5)
        assert encoded == [], "nobody looks"
        streams = [asked(at.port, "/picture.mjpg") for _ in range(8)]
        begun_s = time.monotonic()
        while (took_s := time.monotonic() - begun_s) < 1.5:
            page.write(frame(1000 + int(1000 * took_s)), reading(1))
            time.sleep(0.01)
        assert 2 <= len(encoded) <= PICTURES_PER_S * took_s + 1
        for stream in streams:
            assert stream.read(60_000).count(b"Content-Type: image/jpeg") >= 2
            stream.close()
        page.write(frame(5000), reading(1))
        time.sleep(0.5)
        before = len(encoded)
        page.write(frame(5001), reading(1))
        time.sleep(0.5)
        assert len(encoded) == before, "all of them have gone"


def test_a_frame_that_stays_is_not_encoded_again_and_still_shown(encoded: list[tuple[int, ...]]) -> None:
    with web_page() as (_, at):
        pictures = {asked(at.port, "/picture.jpg").read() for _ in range(3)}
    assert (len(pictures), len(encoded)) == (1, 1)


# ---- when it breaks


def test_a_server_that_hangs_is_reported_and_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    told, release = Told(), threading.Event()
    with web_page(told=told, hang_s=0.4) as (page, at):
        assert asked(at.port, "/page.css").status == 200
        monkeypatch.setattr(guard.Guard, "_answer", lambda *_: release.wait(20) and None)
        asking = threading.Thread(target=asked, args=(at.port, "/page.css"))
        asking.start()
        wait_until(lambda: any("hangs: no sign of life for 0.4 s" in sentence for sentence in told.sentences))
        shown, said = frame(1), reading(1)
        began_s = time.monotonic()
        for _ in range(1000):
            page.write(shown, said)
        assert time.monotonic() - began_s < 1
        release.set()
        asking.join()
        wait_until(lambda: "the web page answers again; the run goes on" in told.sentences)
        release.clear()
        asking = threading.Thread(target=asked, args=(at.port, "/page.css"), daemon=True)
        asking.start()
        time.sleep(0.2)
        began_s = time.monotonic()
        page.close()
        assert time.monotonic() - began_s < 1
        release.set()
        asking.join()


def test_a_server_that_dies_is_reported_and_frames_are_still_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async def dies(*_: object, **__: object) -> None:
        raise OSError("out of luck")

    monkeypatch.setattr(uvicorn.Server, "serve", dies)
    told = Told()
    with web_page(told=told) as (page, _):
        wait_until(lambda: len(told.sentences) == 3)
        page.write(frame(1), reading(1))
    assert told.sentences[1:] == [
        "the web page failed (OSError: out of luck), and the run goes on",
        "the web page has ended: the run goes on, start it again to have the page",
    ]


def test_a_figure_that_cannot_be_had_is_reported_once_and_the_picture_goes_on() -> None:
    tries: list[float] = []

    def fails() -> Mapping[str, Proportion]:
        tries.append(time.monotonic())
        raise ValueError("no such figure")

    told = Told()
    with web_page(told=told, agreements=fails) as (_, at):
        stream = asked(at.port, "/api/stream")
        wait_until(lambda: len(tries) >= 2)
        assert asked(at.port, "/picture.jpg").status == 200
        stream.close()
    assert told.sentences[1:] == ["the web page failed (ValueError: no such figure), and the run goes on"]


def test_it_ends_within_a_second_though_clients_look_and_one_does_not_read() -> None:
    with web_page() as (page, at):
        streams = [asked(at.port, path) for path in ("/picture.mjpg", "/api/stream", "/api/stream")]
        stop = threading.Event()

        def film() -> None:
            large = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
            while not stop.wait(0.02):
                page.write(frame(int(1000 * time.monotonic()), large.copy()), reading(1))

        filming = threading.Thread(target=film)
        filming.start()
        time.sleep(2.5)  # more than the buffers between here and a client that does not read hold
        began_s = time.monotonic()
        page.close()
        took_s = time.monotonic() - began_s
        stop.set()
        filming.join()
        assert took_s < 1
        assert streams[1].read().endswith(b"event: end\ndata:\n\n")
