"""Runs `edgebcnn run` through cameras that drop, stall, corrupt and come back, and a broker that restarts.

    python -m benchmarks.soak --minutes 30

One `edgebcnn run` reads MJPEG over HTTP and another H.264 over RTSP, each in a process of its own; both cameras are
broken on a schedule, and so is the MQTT broker that both send their events to. A product that no good picture showed
betrays a bad picture that became a reading; what a subscriber received is compared with the lines of the event files.
Prints JSON; exit code 1 where a check fails. Needs mosquitto, and for RTSP GStreamer (tests/test_rtsp.py says how).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, get_args

import click
import numpy as np

from benchmarks.flaky_cameras import LOSSES, FlakyCamera, FlakyHttpCamera, FlakyRtspCamera
from edgebcnn.loop.quality import Fault
from tests.broker import Broker, Listener, running_broker, wait_until
from tests.tiny_bundle import make_tiny_bundle

CAMERAS: dict[str, Callable[[], FlakyCamera]] = {"http": FlakyHttpCamera, "rtsp": FlakyRtspCamera}
FROZEN_AFTER_S = 1.0
SLACK_S = 0.5  # what is on its way when a fault begins
ENDS_WITHIN_S = 30.0

MAX_RECOVERY_S = 3.0
MAX_SLOPE_MB = 1.0  # in ten minutes
WARM_UP_SHARE = 0.2
MIN_SLOPE_MINUTES = 5.0  # in a shorter run, a single allocation is a slope


@dataclass(frozen=True)
class Schedule:
    """How long each thing is well and broken, in seconds."""

    seconds: float
    good_s: float = 4.0
    fault_s: float = 3.0
    broker_up_s: float = 20.0
    broker_down_s: float = 4.0


@dataclass(frozen=True)
class Phase:
    """What the camera did from when to when, by the wall clock, which readings are stamped by."""

    mode: str
    start_s: float
    end_s: float


def soak(folder: Path, cameras: Sequence[str], schedule: Schedule) -> dict[str, Any]:
    """Runs the loop against each flaky camera and one flaky broker, and says how it went."""
    bundle = make_tiny_bundle(folder / "bundle", ["int8"])
    runs = [Run(folder / name, name, CAMERAS[name](), bundle.path) for name in cameras]
    with running_broker(folder) as broker, ExitStack() as filming:
        listener = Listener(broker)
        for run in runs:
            filming.enter_context(run.camera.filming())
        threads = [threading.Thread(target=run.go_on, args=(schedule, broker.address)) for run in runs]
        for thread in threads:
            thread.start()
        restarts = _restart(broker, schedule, while_alive=threads)
        for thread in threads:
            thread.join()
        received = _received(listener, sum(len(run.readings()) for run in runs))
        listener.close()
    documents = {run.name: run.document(received, minutes=schedule.seconds / 60) for run in runs}
    failed = [f"{name}: {failure}" for name, each in documents.items() for failure in each["failures"]]
    return {"passed": not failed, "failures": failed, "broker_restarts": restarts, "runs": documents}


class Run:
    """One `edgebcnn run` on a camera that breaks."""

    def __init__(self, folder: Path, name: str, camera: FlakyCamera, bundle: Path) -> None:
        folder.mkdir()
        self.name, self.camera = name, camera
        self._folder, self._bundle = folder, bundle
        self._phases: list[Phase] = []
        self._memory: list[tuple[float, float]] = []
        self._exit_code, self._ended_in_s, self._stdout = 0, 0.0, ""

    def go_on(self, schedule: Schedule, broker: str) -> None:
        """Breaks the camera on a schedule while it is read, and ends the run as a service manager does."""
        limits = ["--config", f"frames.frozen_after = {FROZEN_AFTER_S}", "--max-age", 2, "--threads", 1]
        sinks = [
            "--jsonl",
            self._events,
            "--mqtt",
            broker,
            *("--config", f"events.spool = '{self._folder}/spool'"),
            *("--config", f"events.device_id = '{self.name}'"),
        ]
        command = ["run", "--bundle", self._bundle, "--camera", self.camera.address, *limits, *sinks, "--json"]
        with (self._folder / "stderr.txt").open("w") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "edgebcnn", *map(str, command)], stdout=subprocess.PIPE, stderr=errors, text=True
            )
            with _memory_of(process) as self._memory:
                self._phases = _break_on_schedule(self.camera, process, schedule)
            asked_s = time.monotonic()
            process.terminate()
            self._stdout, _ = process.communicate(timeout=ENDS_WITHIN_S)
        self._exit_code, self._ended_in_s = process.returncode, time.monotonic() - asked_s

    @property
    def _events(self) -> Path:
        return self._folder / "events.jsonl"

    def readings(self) -> list[dict[str, Any]]:
        """Every reading that the run wrote to its file."""
        events = map(json.loads, self._events.read_text().splitlines())
        return [event for event in events if event["kind"] == "reading"]

    def document(self, received: Counter[str], *, minutes: float) -> dict[str, Any]:
        """How it went; `received` counts the events of all runs by id, as the broker delivered them."""
        readings = self.readings()
        document = {
            "faults": sum(phase.mode != "good" for phase in self._phases),
            "exit_code": self._exit_code,
            "ended_in_s": round(self._ended_in_s, 3),
            "products": sum(reading["label"] is not None for reading in readings),
            "false_products": len(false_products(self._phases, readings, shows=self.camera.shows)),
            "recovery_s": [round(taken_s, 2) for taken_s in recoveries(self._phases, readings)],
            "memory_mb_per_10_min": memory_slope(self._memory),
            "readings": len(readings),
            "readings_lost": sum(received[reading["id"]] == 0 for reading in readings),
            "readings_twice": sum(received[reading["id"]] > 1 for reading in readings),
            "stderr": (self._folder / "stderr.txt").read_text().splitlines()[-5:],
            "summary": json.loads(self._stdout) if self._stdout else None,
        }
        sees_every_fault = "frozen" in self.camera.faults
        return document | {"failures": failures(document, minutes=minutes, sees_every_fault=sees_every_fault)}


def failures(document: dict[str, Any], *, minutes: float, sees_every_fault: bool) -> list[str]:
    """Which checks a run failed."""
    refused = (document["summary"] or {}).get("refused", {})
    slope_mb = document["memory_mb_per_10_min"]
    checks = {
        "it crashed": document["exit_code"] != 0,
        "a bad picture became a product": document["false_products"] > 0,
        "a return took too long": not document["recovery_s"] or max(document["recovery_s"]) > MAX_RECOVERY_S,
        "memory grows": minutes >= MIN_SLOPE_MINUTES and slope_mb > MAX_SLOPE_MB,
        "a kind of bad frame was not seen": sees_every_fault and not set(get_args(Fault)) - {"stale"} <= set(refused),
        "a reading was lost": document["readings_lost"] > 0,
        "a reading came twice": document["readings_twice"] > 0,
    }
    return [failure for failure, failed in checks.items() if failed]


def false_products(
    phases: Sequence[Phase], readings: Sequence[dict[str, Any]], *, shows: frozenset[str]
) -> list[dict[str, Any]]:
    """Readings whose product no good picture showed, or that came from a picture frozen for longer than allowed."""
    frozen = [phase for phase in phases if phase.mode == "frozen"]

    def is_false(reading: dict[str, Any]) -> bool:
        at_s = _seconds(reading)
        thawed = any(phase.start_s + FROZEN_AFTER_S + SLACK_S < at_s < phase.end_s for phase in frozen)
        return reading["label"] is not None and (reading["label"] not in shows or thawed)

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


def _break_on_schedule(camera: FlakyCamera, process: subprocess.Popen[str], schedule: Schedule) -> list[Phase]:
    phases, faults = [], cycle(camera.faults)
    end_s = time.monotonic() + schedule.seconds
    while time.monotonic() < end_s and process.poll() is None:
        for mode, length_s in (("good", schedule.good_s), (next(faults), schedule.fault_s)):
            start_s, camera.mode = time.time(), mode
            time.sleep(length_s)
            phases.append(Phase(mode, start_s, time.time()))
    start_s, camera.mode = time.time(), "good"
    time.sleep(schedule.good_s)
    return [*phases, Phase("good", start_s, time.time())]


def _restart(broker: Broker, schedule: Schedule, *, while_alive: Sequence[threading.Thread]) -> int:
    """Stops and starts the broker until the runs have ended; it is up when this returns."""
    restarts = 0
    while any(thread.is_alive() for thread in while_alive):
        time.sleep(schedule.broker_up_s)
        broker.stop()
        time.sleep(schedule.broker_down_s)
        broker.start()
        restarts += 1
    return restarts


def _received(listener: Listener, expected: int) -> Counter[str]:
    """How often each event came, once no more are due."""
    with suppress(AssertionError):  # that some did not come is a finding
        wait_until(lambda: sum(topic.endswith("/reading") for topic, *_ in list(listener.messages)) >= expected)
    return Counter(event["id"] for event in listener.events())


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
@click.option("--camera", "cameras", multiple=True, type=click.Choice([*CAMERAS]), help="All of them if left out.")
@click.option("--good", "good_s", type=float, default=4, show_default=True, help="Seconds between faults.")
@click.option("--fault", "fault_s", type=float, default=3, show_default=True, help="Seconds that a fault lasts.")
def main(minutes: float, cameras: tuple[str, ...], good_s: float, fault_s: float) -> None:
    """Breaks cameras and a broker on a schedule while edgebcnn run uses them."""
    schedule = Schedule(60 * minutes, good_s=good_s, fault_s=fault_s)
    with tempfile.TemporaryDirectory() as folder:
        document = soak(Path(folder), cameras or [*CAMERAS], schedule)
    click.echo(json.dumps(document, indent=2))
    sys.exit(not document["passed"])


if __name__ == "__main__":
    main()
