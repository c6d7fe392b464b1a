"""Measures how many frames per second the background model and the golden photos cost.

    python benchmarks/shadow_cost.py BUNDLE --full full.tflite --rate 30

A camera that gives the bundle's golden photos at a fixed rate is read by the loop, which takes turns in one run: with
neither, with the full model beside it (as many frames as its budget allows), with golden photos between the frames (all
the time). Prints JSON: frames a second and latency of each, and the change against the neighbouring turns with neither.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from itertools import count
from pathlib import Path
from statistics import mean, stdev

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.profile import load_profile
from edgebcnn.device.selftest import GoldenFile, read_golden
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.reading import Reading
from edgebcnn.monitor.background import BackgroundModel
from edgebcnn.monitor.golden import GoldenReplay, GoldenResult
from edgebcnn.monitor.shadow import LiveAgreement, Shadow, full_model
from edgebcnn.progress import Silent
from edgebcnn.sources.capture import Picture
from edgebcnn.sources.frames import Frame
from edgebcnn.sources.live import LiveStream
from edgebcnn.sources.reconnect import Patience

ARMS = ("neither", "shadow", "golden")
TURN_S = 4.0
SETTLING_S = 0.5  # of each turn, which is not counted


class Paced:
    """An open camera that gives a picture at each tick, and drops those that nobody read."""

    def __init__(self, pictures: list[NDArray[np.uint8]], rate: float) -> None:
        self._pictures, self._rate = pictures, rate
        self._start_s, self._tick = time.monotonic(), 0

    def read(self) -> Picture:
        """Waits for the next tick."""
        before, self._tick = self._tick, int((time.monotonic() - self._start_s) * self._rate) + 1
        time.sleep(max(0.0, self._start_s + self._tick / self._rate - time.monotonic()))
        picture = self._pictures[self._tick % len(self._pictures)]
        return Picture(picture, time.monotonic(), passed_over=max(0, self._tick - before - 1))

    def abort(self) -> None:
        """A tick ends by itself."""

    def release(self) -> None:
        """Holds nothing."""


class Turns:
    """Hands frames to whose turn it is, and counts them."""

    def __init__(self, writers: dict[str, Callable[[Frame, Reading], None]]) -> None:
        self._writers = writers
        self._start_s = time.monotonic()
        self.frames: dict[int, int] = {}
        self.latencies_ms: dict[str, list[float]] = {arm: [] for arm in ARMS}

    def write(self, frame: Frame, reading: Reading) -> None:
        """Takes one frame."""
        turn, within_s = divmod(time.monotonic() - self._start_s, TURN_S)
        arm = ARMS[int(turn) % len(ARMS)]
        if within_s >= SETTLING_S:
            self.frames[int(turn)] = self.frames.get(int(turn), 0) + 1
            self.latencies_ms[arm].append(reading.latency_ms or 0.0)
        self._writers[arm](frame, reading)

    def close(self) -> None:
        """Holds nothing."""


class Nobody(Silent):
    """Is told, and keeps nothing."""

    def golden(self, result: GoldenResult) -> None:
        """Drops it."""

    def agreement(self, agreement: LiveAgreement) -> None:
        """Drops it."""

    def alarm(self, about: str, problem: str) -> None:
        """Drops it."""


def pictures_of(bundle: Bundle, classifier: Classifier) -> list[NDArray[np.uint8]]:
    """The golden photos as a camera of 640 × 480 would give them."""
    pixels = read_golden(bundle, classifier.receipt.precision).pixels
    return [np.asarray(cv2.resize(photo[..., ::-1], (640, 480)), np.uint8) for photo in pixels[:32]]


def change_percent(fps: dict[int, float], arm: str) -> dict[str, float | int]:
    """Change of one arm against the turn with neither before and after it, in percent, and its standard error."""
    place = ARMS.index(arm)
    changes = []
    for first in count(0, len(ARMS)):
        around = (first, first + len(ARMS))
        if around[1] not in fps:
            break
        changes.append(100 * (fps[first + place] / mean(fps[turn] for turn in around) - 1))
    return {
        "turns": len(changes),
        "mean": round(mean(changes), 2),
        "se": round(stdev(changes) / len(changes) ** 0.5, 2),
    }


@click.command()
@click.argument("bundle_path", metavar="BUNDLE", type=click.Path(path_type=Path))
@click.option("--full", type=click.Path(path_type=Path), show_default="the bundle's", help="The full model's file.")
@click.option("--rate", type=float, default=30, show_default=True, help="Frames a second that the camera gives.")
@click.option("--cpu", type=float, default=0.25, show_default=True, help="Share of a core for the full model.")
@click.option("--seconds", type=float, default=112, show_default=True, help="How long.")
@click.option("--threads", type=int, show_default="the cores, at most 4", help="CPU threads of the loop.")
def main(bundle_path: Path, full: Path | None, rate: float, cpu: float, seconds: float, threads: int | None) -> None:
    """Measures what watching over the model costs the loop."""
    bundle, nobody = open_bundle(bundle_path), Nobody()
    classifier, profile = Classifier.from_bundle(bundle, threads=threads), load_profile("cpu")
    model, size = full_model(bundle, full), bundle.manifest.preprocessing
    pictures = pictures_of(bundle, classifier)
    start = partial(BackgroundModel, model, preprocessing=size, classes=len(bundle.labels))
    shadow = Shadow(
        start(),
        start,
        name=model.name,
        preprocessing=size,
        floor=0.01,
        scene_s=0,
        cpu_share=cpu,
        listener=nobody,
        reporter=nobody,
    )
    golden = GoldenFile(bundle, classifier.receipt.precision)
    replay = GoldenReplay(classifier, profile, golden, every_s=0, listener=nobody)
    stream = LiveStream("paced", lambda timeout_s: Paced(pictures, rate), reporter=nobody, patience=Patience())
    with closing(stream) as source, closing(shadow), closing(replay):
        turns = Turns({"neither": lambda frame, reading: None, "shadow": shadow.write, "golden": replay.write})
        loop = CameraLoop(source, classifier, frame_sinks=[turns])
        loop.run(duration_s=seconds)
        fps = {turn: frames / (TURN_S - SETTLING_S) for turn, frames in turns.frames.items()}
        fps.pop(max(fps))  # cut short
        document = {
            "rate": rate,
            "receipt": str(classifier.receipt),
            "fps": {arm: round(mean(fps[turn] for turn in fps if turn % 3 == at), 3) for at, arm in enumerate(ARMS)},
            "latency_p50_ms": {arm: round(float(np.median(each)), 2) for arm, each in turns.latencies_ms.items()},
            "latency_p95_ms": {
                arm: round(float(np.quantile(each, 0.95)), 2) for arm, each in turns.latencies_ms.items()
            },
            "change_percent": {arm: change_percent(fps, arm) for arm in ARMS[1:]},
            "shadow": shadow.agreement().as_json(),
            "golden": {"replays": replay.replays, "failed": replay.failed},
        }
    click.echo(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
