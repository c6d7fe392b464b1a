"""Does `edgebcnn run` live through a camera that drops, stalls, corrupts and comes back, again and again?

    python benchmarks/soak.py --minutes 30

Serves MJPEG over HTTP and breaks it on a schedule while `edgebcnn run` reads it in a process of its own. Good pictures
are red or green, those that are spoilt were blue, so that a product other than Red and Green betrays a bad picture that
became a reading. Prints JSON; exit code 1 where a check fails.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, get_args

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.camera.quality import Fault
from tests.tiny_bundle import coloured, make_tiny_bundle

FRAMES_PER_S = 25
WIDTH_PX, HEIGHT_PX = 640, 360
FROZEN_AFTER_S = 1.0
FAULTS = ("stopped", "stalled", "garbage", "holes", "cut", "black", "overexposed", "blurred", "frozen")
LOSSES = frozenset({"stopped", "stalled", "garbage", "holes", "cut"})  # no picture arrives whole
HEADER = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
SLACK_S = 0.5  # what is on its way when a fault begins

MAX_RECOVERY_S = 3.0
MAX_SLOPE_MB = 1.0  # in ten minutes
WARM_UP_SHARE = 0.2
MIN_SLOPE_MINUTES = 5.0  # in a shorter run, a single allocation is a slope


@dataclass(frozen=True)
class Phase:
    """What the camera did from when to when, by the wall clock, which readings are stamped by."""

    mode: str
    start_s: float
    end_s: float


class FlakyCamera:
    """An HTTP MJPEG server whose `mode` is `good` or one of `FAULTS`."""

    def __init__(self) -> None:
        self.mode = "good"
        self._listener: socket.socket | None = self._listening(0)
        self._port: int = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}/shelf.mjpg"
        self._clients: list[socket.socket] = []
        self._pictures = _pictures()
        self._good = cycle(self._pictures["good"])
        self._last = next(self._good)
        self._rng = np.random.default_rng(3)

    @contextmanager
    def filming(self) -> Iterator[None]:
        """Films until the block ends."""
        over = threading.Event()
        thread = threading.Thread(target=self._film, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self._stop()

    def _film(self, over: threading.Event) -> None:
        while not over.wait(1 / FRAMES_PER_S):
            mode = self.mode
            if mode == "stopped":
                self._stop()
            elif mode != "stalled":
                self._accept()
                self._send(self._part(mode))

    def _part(self, mode: str) -> bytes:
        if mode == "garbage":
            return self._rng.bytes(20_000)
        if mode == "good":
            self._last = next(self._good)
        picture = self._last if mode in ("good", "frozen") else self._pictures[mode][0]
        promised = len(picture) * (2 if mode == "cut" else 1)
        header = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {promised}\r\n\r\n"
        return header.encode() + picture + b"\r\n"

    def _accept(self) -> None:
        self._listener = self._listener or self._listening(self._port)
        with suppress(BlockingIOError):
            while True:
                client, _ = self._listener.accept()
                client.settimeout(1)
                with suppress(OSError):
                    client.recv(4096)
                    client.sendall(
                        b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
                    )
                    self._clients.append(client)

    def _send(self, part: bytes) -> None:
        for client in list(self._clients):
            try:
                client.sendall(part)
            except OSError:  # it went away
                client.close()
                self._clients.remove(client)

    def _stop(self) -> None:
        for connection in [*self._clients, *([self._listener] if self._listener else [])]:
            connection.close()
        self._clients, self._listener = [], None

    @staticmethod
    def _listening(port: int) -> socket.socket:
        listener = socket.create_server(("127.0.0.1", port))
        listener.setblocking(False)
        return listener


def _pictures() -> dict[str, list[bytes]]:
    """JPEGs of each mode that has some of its own; good ones differ from each other, as a sensor's do."""
    rng = np.random.default_rng(2)

    def drawn(label: str) -> NDArray[np.uint8]:
        return coloured(label, rng, height_px=HEIGHT_PX, width_px=WIDTH_PX)

    blue = drawn("Blue")
    jpeg = _jpeg(blue)
    middle = len(jpeg) // 2
    return {
        "good": [_jpeg(drawn(label)) for label in ["Red"] * 10 + ["Green"] * 10],
        "holes": [jpeg[:middle] + jpeg[middle + 3000 :]],
        "cut": [jpeg[:middle]],
        "black": [_jpeg(blue // 10)],
        "overexposed": [_jpeg(np.maximum(blue, 251))],
        "blurred": [_jpeg(np.asarray(cv2.GaussianBlur(blue, (0, 0), 9), np.uint8))],
    }


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


def soak(folder: Path, *, seconds: float, good_s: float, fault_s: float) -> dict[str, Any]:
    """Runs the loop against a flaky camera, and says how it went."""
    bundle = make_tiny_bundle(folder / "bundle", ["int8"])
    events = folder / "events.jsonl"
    camera = FlakyCamera()
    limits = ["--frozen-after", str(FROZEN_AFTER_S), "--max-age", "2", "--threads", "1"]
    command = [sys.executable, "-m", "edgebcnn", "run", "--bundle", bundle.path, "--camera", camera.address, *limits]
    with camera.filming(), (folder / "stderr.txt").open("w") as errors:
        process = subprocess.Popen(
            [*map(str, command), "--jsonl", str(events), "--json"], stdout=subprocess.PIPE, stderr=errors, text=True
        )
        with _memory_of(process) as memory:
            phases = _break_on_schedule(camera, process, seconds=seconds, good_s=good_s, fault_s=fault_s)
        asked_s = time.monotonic()
        process.terminate()
        stdout, _ = process.communicate(timeout=30)
    ended_in_s = time.monotonic() - asked_s
    readings = [json.loads(line) for line in events.read_text().splitlines()]
    document = {
        "faults": sum(phase.mode != "good" for phase in phases),
        "exit_code": process.returncode,
        "ended_in_s": round(ended_in_s, 3),
        "products": sum(reading["label"] is not None for reading in readings),
        "false_products": len(false_products(phases, readings)),
        "recovery_s": [round(taken_s, 2) for taken_s in recoveries(phases, readings)],
        "memory_mb_per_10_min": memory_slope(memory),
        "stderr": (folder / "stderr.txt").read_text().splitlines()[-5:],
        "summary": json.loads(stdout) if stdout else None,
    }
    failed = failures(document, minutes=seconds / 60)
    return {"passed": not failed, "failures": failed} | document


def failures(document: dict[str, Any], *, minutes: float) -> list[str]:
    """Which checks a run failed."""
    refused = (document["summary"] or {}).get("refused", {})
    slope_mb = document["memory_mb_per_10_min"]
    checks = {
        "it crashed": document["exit_code"] != 0,
        "a bad picture became a product": document["false_products"] > 0,
        "a return took too long": not document["recovery_s"] or max(document["recovery_s"]) > MAX_RECOVERY_S,
        "memory grows": minutes >= MIN_SLOPE_MINUTES and slope_mb > MAX_SLOPE_MB,
        "a kind of bad frame was not seen": not set(get_args(Fault)) - {"stale"} <= set(refused),
    }
    return [failure for failure, failed in checks.items() if failed]


def false_products(phases: Sequence[Phase], readings: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Readings whose product no good picture showed, or that came from a picture frozen for longer than allowed."""
    frozen = [phase for phase in phases if phase.mode == "frozen"]

    def is_false(reading: dict[str, Any]) -> bool:
        at_s = _seconds(reading)
        thawed = any(phase.start_s + FROZEN_AFTER_S + SLACK_S < at_s < phase.end_s for phase in frozen)
        return reading["label"] not in (None, "Red", "Green") or (reading["label"] is not None and thawed)

    return [reading for reading in readings if is_false(reading)]


def recoveries(phases: Sequence[Phase], readings: Sequence[dict[str, Any]]) -> list[float]:
    """Seconds from each return of the source to its first product; infinity where none came before the next fault."""
    products_s = [_seconds(reading) for reading in readings if reading["label"] is not None]
    taken_s = []
    for before, phase in pairwise(phases):
        if before.mode in LOSSES and phase.mode == "good":
            within = (at_s for at_s in products_s if phase.start_s <= at_s < phase.end_s)
            taken_s.append(next(within, float("inf")) - phase.start_s)
    return taken_s


def memory_slope(samples: Sequence[tuple[float, float]]) -> float:
    """Growth of the resident memory after warm-up, in MB per ten minutes, by least squares."""
    after = np.array(samples[int(WARM_UP_SHARE * len(samples)) :])
    return round(float(np.polyfit(after[:, 0], after[:, 1], 1)[0]) * 600, 2)


def _break_on_schedule(
    camera: FlakyCamera, process: subprocess.Popen[str], *, seconds: float, good_s: float, fault_s: float
) -> list[Phase]:
    phases, faults = [], cycle(FAULTS)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s and process.poll() is None:
        for mode, length_s in (("good", good_s), (next(faults), fault_s)):
            start_s, camera.mode = time.time(), mode
            time.sleep(length_s)
            phases.append(Phase(mode, start_s, time.time()))
    start_s, camera.mode = time.time(), "good"
    time.sleep(good_s)
    return [*phases, Phase("good", start_s, time.time())]


@contextmanager
def _memory_of(process: subprocess.Popen[str]) -> Iterator[list[tuple[float, float]]]:
    """Seconds and resident MB, each second until the block ends."""
    samples: list[tuple[float, float]] = []
    over = threading.Event()

    def sample() -> None:
        while not over.wait(1):
            with suppress(OSError, IndexError):
                kib = Path(f"/proc/{process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]
                samples.append((time.monotonic(), int(kib) / 1024))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _seconds(reading: dict[str, Any]) -> float:
    return datetime.fromisoformat(reading["time"].replace("Z", "+00:00")).timestamp()


@click.command()
@click.option("--minutes", type=float, default=2, show_default=True, help="How long.")
@click.option("--good", "good_s", type=float, default=2, show_default=True, help="Seconds between faults.")
@click.option("--fault", "fault_s", type=float, default=3, show_default=True, help="Seconds that a fault lasts.")
def main(minutes: float, good_s: float, fault_s: float) -> None:
    """Breaks a camera on a schedule while edgebcnn run reads it."""
    with tempfile.TemporaryDirectory() as folder:
        document = soak(Path(folder), seconds=60 * minutes, good_s=good_s, fault_s=fault_s)
    click.echo(json.dumps(document, indent=2))
    sys.exit(not document["passed"])


if __name__ == "__main__":
    main()
