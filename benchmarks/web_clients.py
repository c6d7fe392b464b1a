"""Measures whether clients of the web page slow the loop down.

    python benchmarks/web_clients.py demo/runs/latest/bundle

Runs the loop as fast as it can on 1280×720 frames from memory, with its page open, while 20 clients, in a process of
their own, look at picture and state and look away again, some seconds each, in turns. Prints JSON: frames a second
without and with clients, the median of the ratios of neighbouring turns, and how much of a core the page's own threads
take meanwhile, which other work on the machine does not blur; exit code 1 where the ratio is below 0.95.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import click
import cv2
import numpy as np

from edgebcnn.bundle import open_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.quality import FrameLimits
from edgebcnn.progress import Silent
from edgebcnn.sinks.event import Stamp
from edgebcnn.sources.frames import Done, Frame, Source
from edgebcnn.web.board import LiveRun
from edgebcnn.web.listening import listen
from edgebcnn.web.server import WebPage

LEAST_RATIO = 0.95
WIDTH_PX, HEIGHT_PX = 1280, 720
LOOKED_AT = ("/picture.mjpg", "/api/stream")
SETTLE_S = 0.5  # after clients came or went
PICTURES = 12


class Unhurried(Source):
    """A camera that always has a new frame at once."""

    is_live = True

    def __init__(self) -> None:
        super().__init__("frames from memory", Silent())
        rng = np.random.default_rng(20)
        coarse = (rng.integers(0, 256, (18, 32, 3), np.uint8) for _ in range(PICTURES))
        size = (WIDTH_PX, HEIGHT_PX)
        blocks = [cv2.resize(each, size, interpolation=cv2.INTER_NEAREST).astype(np.int16) for each in coarse]
        grain = rng.normal(0, 6, (HEIGHT_PX, WIDTH_PX, 3)).astype(np.int16)
        self._images = [np.clip(each + grain, 0, 255).astype(np.uint8) for each in blocks]

    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields them again and again."""
        for index, image in enumerate(cycle(self._images)):
            if done():
                return
            yield Frame(index, image, time.monotonic())


def look(port: int, clients: int) -> None:
    """The process of the clients: looks for a byte on stdin and looks away for the next; says what it read."""
    os.nice(5)  # in a shop they are other machines
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    looking: list[socket.socket] = []
    read = 0
    while True:
        for key, _ in selector.select():
            if isinstance(key.fileobj, socket.socket):
                read += len(key.fileobj.recv(1 << 20))
                continue
            if not os.read(sys.stdin.fileno(), 1):
                return
            if looking:
                for each in looking:
                    selector.unregister(each)
                    each.close()
                looking = []
            else:
                looking = [_asking(port, path) for path in LOOKED_AT for _ in range(clients)]
                for each in looking:
                    selector.register(each, selectors.EVENT_READ)
            print(read, flush=True)
            read = 0
            break  # what else was ready may be closed by now


def _asking(port: int, path: str) -> socket.socket:
    asking = socket.create_connection(("127.0.0.1", port))
    asking.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return asking


class Clients:
    """Looks and looks away, in a process of its own."""

    def __init__(self, port: int, count: int) -> None:
        command = [sys.executable, __file__, "unused", "--look", str(port), "--clients", str(count)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def turn(self) -> int:
        """Looks, or looks away, and gives the bytes that were read before."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


@dataclass(frozen=True)
class Turn:
    """Frames a second, and how many cores the page's threads took."""

    fps: float
    cores: float


def measure(loop: CameraLoop, clients: Clients, *, turns: int, turn_s: float) -> tuple[list[Turn], list[Turn], int]:
    """Turns without and with clients, which begin and end with one without, and the bytes that clients read."""

    def turn() -> Turn:
        time.sleep(SETTLE_S)
        before, cpu_s, begun_s = loop.summary().classified, _page_cpu_s(), time.monotonic()
        time.sleep(turn_s)
        took_s = time.monotonic() - begun_s
        return Turn((loop.summary().classified - before) / took_s, (_page_cpu_s() - cpu_s) / took_s)

    alone, looked_at, read = [turn()], [], 0
    for _ in range(turns):
        clients.turn()
        looked_at.append(turn())
        read += clients.turn()
        alone.append(turn())
    return alone, looked_at, read


def _page_cpu_s() -> float:
    """Processor time of the page's threads so far; OpenCV's own, which help to shrink a picture, are not among them."""
    ids = [thread.ident for thread in threading.enumerate() if thread.name.startswith("web ")]
    return sum(time.clock_gettime(time.pthread_getcpuclockid(each)) for each in ids if each is not None)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--clients", default=20, type=click.IntRange(min=1))
@click.option("--turns", default=15, type=click.IntRange(min=1), help="How often all of them look.")
@click.option("--turn-s", default=2.0, help="How long.")
@click.option("--threads", type=int, help="Of the model.")
@click.option("--look", "port", type=int, hidden=True)
def main(bundle: Path, clients: int, turns: int, turn_s: float, threads: int | None, port: int | None) -> None:
    """Measures how much clients of the page slow the loop down."""
    if port is not None:
        look(port, clients)
        return
    source, listening, stop = Unhurried(), listen("0", None), threading.Event()
    page = WebPage(listening, reporter=Silent())
    classifier = Classifier.from_bundle(open_bundle(bundle), threads=threads)
    loop = CameraLoop(source, classifier, frame_sinks=[page], limits=FrameLimits())
    stamp = Stamp(device="benchmark", bundle_digest="")
    page.start(LiveRun(stamp=stamp, summary=loop.summary, status=source.status, counts=lambda: []))
    running = threading.Thread(target=loop.run, kwargs={"stop": stop})
    running.start()
    looking = Clients(listening.port, clients)
    try:
        alone, looked_at, read = measure(loop, looking, turns=turns, turn_s=turn_s)
    finally:
        looking.close()
        stop.set()
        running.join()
    # A machine that becomes busier over the minutes weighs on both neighbours of a turn.
    neighbours = zip(looked_at, alone, alone[1:], strict=False)
    ratios = [2 * each.fps / (before.fps + after.fps) for each, before, after in neighbours]
    ratio = statistics.median(ratios)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratio] * 3
    document = {
        "clients": clients,
        "fps_alone": round(statistics.median(each.fps for each in alone), 2),
        "fps_with_clients": round(statistics.median(each.fps for each in looked_at), 2),
        "ratio": round(ratio, 4),
        "quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "page_cores_alone": round(statistics.median(each.cores for each in alone), 4),
        "page_cores_with_clients": round(statistics.median(each.cores for each in looked_at), 4),
        "turns": turns,
        "read_mb_per_client_and_s": round(read / 1e6 / clients / (turns * (turn_s + SETTLE_S)), 3),
        "receipt": str(classifier.receipt),
    }
    print(json.dumps(document, indent=2))
    sys.exit(ratio < LEAST_RATIO)


if __name__ == "__main__":
    main()
