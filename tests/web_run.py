"""A web page without a camera: the frames, figures and events are the test's own."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.classifier import Receipt
from edgebcnn.loop.summary import Summary
from edgebcnn.progress import Silent
from edgebcnn.report.agreement import Proportion
from edgebcnn.sinks.outlet import Counts
from edgebcnn.sources.frames import Frame
from edgebcnn.web.board import LiveRun
from edgebcnn.web.listening import Listening, listen
from edgebcnn.web.server import HANG_S, WebPage
from tests.readings import reading, stamp

TOKEN = "a-token-of-24-characters"
RECEIPT = Receipt("LiteRT", "2.3.0", "XNNPACK", None, 2, 3, 1, {"QUANTIZE": 1}, "int8")
SUMMARY = Summary(
    source="camera 0",
    dropped=5,
    unreadable=1,
    classified=90,
    refused={"black": 4},
    restarts=2,
    outage_s=3.25,
    elapsed_s=0.0,
    latency_p50_ms=1.5,
    latency_p95_ms=2.5,
    age_p50_ms=10.0,
    age_p95_ms=20.0,
    receipt=RECEIPT,
    accuracy=Proportion(45, 50),
)


class Told(Silent):
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)


def frame(number: int, image: NDArray[np.uint8] | None = None) -> Frame:
    """A frame of noise, which no other resembles."""
    if image is None:
        image = np.random.default_rng(number).integers(0, 256, (96, 128, 3), np.uint8)
    return Frame(number, image, time.monotonic())


@contextmanager
def web_page(
    at: str = "127.0.0.1:0",
    *,
    token: str | None = None,
    told: Told | None = None,
    agreements: Callable[[], Mapping[str, Proportion]] = dict,
    hang_s: float = HANG_S,
    origin: str | None = None,
) -> Iterator[tuple[WebPage, Listening]]:
    """Yields a page that answers until the block ends."""
    listening = listen(at, token, origin=origin)
    page = WebPage(listening, reporter=told or Told(), hang_s=hang_s)
    page.start(
        LiveRun(
            stamp=stamp(),
            summary=lambda: SUMMARY,
            status=lambda: "camera 0 gives frames",
            counts=lambda: [Counts("events.jsonl", delivered=7)],
            agreements=agreements,
        )
    )
    page.write(frame(0), reading(0))
    try:
        yield page, listening
    finally:
        page.close()


def asked(port: int, path: str, method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    """The answer to one request, of which nothing was read yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers=headers)
    return connection.getresponse()
