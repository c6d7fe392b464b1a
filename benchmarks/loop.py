"""Measures the frame rate of the camera loop, compared with bare invokes of its model and with MediaPipe.

    python -m benchmarks.loop BUNDLE --mediapipe PYTHON

A camera of 1280 × 720 that is faster than the model gives frames that lie in memory. Three take turns, round by round.
The model alone is invoked again and again on the same input. The loop reads the camera with the checks of
`edgebcnn run`, with OpenCV on one thread as there, and writes JSONL. MediaPipe Tasks' ImageClassifier in video mode
takes the same frames one after the other, on threads that it chooses itself, under the PYTHON of an environment with
mediapipe, whose OpenCV clashes with ours.

Exit code 1 where the loop is too slow, or its frames too old.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, get_args

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.device_overhead import HEIGHT_PX, WIDTH_PX, resized_by
from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.cli.console import TerminalReporter
from edgebcnn.device.classifier import Classifier, preferred_precision
from edgebcnn.device.interpreter import find_package
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import EdgebcnnError
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.quality import FrameLimits
from edgebcnn.loop.summary import Summary
from edgebcnn.preprocessing import Interpolation
from edgebcnn.progress import Reporter, Silent
from edgebcnn.run import opencv_on_one_thread
from edgebcnn.sinks.choices import SinkChoices, open_sinks
from edgebcnn.sources.capture import Picture
from edgebcnn.sources.live import LiveStream
from edgebcnn.sources.reconnect import Patience

FRAMES = 8
NOISE_LEVELS = 4  # of a sensor
MEDIAPIPE = Path(__file__).with_name("mediapipe_video.py")

MIN_SHARE = 0.95  # of the bare invokes
MAX_AGE = 1.5  # of frame interval and invoke
FASTER = 1.5  # than the model, so that it never waits for the camera


class Camera:
    """Gives frames that lie in memory, at a steady rate."""

    def __init__(self, frames_bgr: Sequence[NDArray[np.uint8]], rate: float) -> None:
        self._frames, self._interval_s = cycle(frames_bgr), 1 / rate
        self._next_s = time.monotonic()

    def read(self) -> Picture:
        """Waits for the next frame."""
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        captured_s = time.monotonic()
        self._next_s = max(self._next_s, captured_s - self._interval_s) + self._interval_s
        return Picture(next(self._frames), captured_s)

    def abort(self) -> None:
        """Does nothing: a read is short."""

    def release(self) -> None:
        """Does nothing: the frames are the caller's."""


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), default=Path("runs/latest/bundle"))
@click.option("--threads", default=1, type=click.IntRange(1), help="CPU threads of the model.")
@click.option("--rounds", default=5, type=click.IntRange(1), help="Rounds of each.")
@click.option("--seconds", default=4.0, type=click.FloatRange(0.1), help="Length of each in a round.")
@click.option("--rate", type=click.FloatRange(1), show_default="1.5 times the model's", help="Of the camera.")
@click.option(
    "--interpolation",
    type=click.Choice(get_args(Interpolation)),
    show_default="the bundle's",
    help="The way to resize: for its time alone, where the model was not trained with it.",
)
@click.option(
    "--mediapipe", type=click.Path(path_type=Path), metavar="PYTHON", help="Of an environment with mediapipe."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(
    bundle: Path,
    threads: int,
    rounds: int,
    seconds: float,
    rate: float | None,
    interpolation: Interpolation | None,
    mediapipe: Path | None,
    as_json: bool,
) -> None:
    """Measures the camera loop beside bare invokes."""
    try:
        opened = open_bundle(bundle)
        found = measured(
            resized_by(opened, interpolation) if interpolation else opened,
            threads,
            rounds=rounds,
            seconds=seconds,
            rate=rate,
            mediapipe=mediapipe,
            reporter=TerminalReporter(),
        )
    except EdgebcnnError as error:
        raise click.ClickException(str(error)) from error
    click.echo(json_bytes(found).decode() if as_json else told(found), nl=as_json is False)
    sys.exit(not found["passed"])


def told(found: dict[str, Any]) -> str:
    """The figures in words."""
    low, high = found["share_of_rounds"]
    lines = [
        f"bare invokes  {found['invokes_per_s']:.1f} per second, {found['threads']} thread(s)",
        f"loop          {found['loop_per_s']:.1f} frames per second of {found['camera_per_s']:.1f}: "
        f"{100 * found['share']:.1f} % of the invokes (rounds {100 * low:.1f}-{100 * high:.1f} %)",
        f"age, p95      {found['age_p95_ms']:.2f} ms, {found['age_share']:.2f} × (frame interval + invoke)",
    ]
    if found["mediapipe_per_s"] is not None:
        lines.append(f"MediaPipe     {found['mediapipe_per_s']:.1f} frames per second")
    return "\n".join(lines)


def measured(
    bundle: Bundle,
    threads: int,
    *,
    rounds: int,
    seconds: float,
    rate: float | None = None,
    mediapipe: Path | None = None,
    reporter: Reporter,
) -> dict[str, Any]:
    """All figures: medians over the rounds."""
    frames = frames_of(bundle)
    model = bundle.model_path(preferred_precision(bundle))
    classifier, invoke = Classifier.from_bundle(bundle, threads=threads), bare(model, threads)
    camera_rate = rate or max(30.0, FASTER * per_second(invoke, seconds / 4))
    rows: list[tuple[float, ...]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        theirs = stack.enter_context(mediapipe_video(mediapipe, model, frames, folder)) if mediapipe else None
        advance = stack.enter_context(reporter.progress("Measuring", rounds))
        for number in range(rounds):
            invokes = per_second(invoke, seconds)
            loop = looped(classifier, bundle, Camera(frames, camera_rate), seconds, folder / f"{number}.jsonl")
            camera = loop.seen / loop.elapsed_s
            limit_ms = 1000 * (1 / camera + 1 / invokes)
            age_ms = loop.age_p95_ms or float("inf")
            rows.append((invokes, loop.fps, camera, loop.fps / invokes, age_ms, age_ms / limit_ms))
            rows[-1] += (theirs(seconds),) if theirs else ()
            advance(1)
    columns = np.array(rows).T
    invokes, fps, camera, share, age_ms, age_share = np.median(columns[:6], axis=1)
    return {
        "threads": threads,
        "interpolation": bundle.manifest.preprocessing.interpolation,
        "rounds": rounds,
        "camera_per_s": round(camera, 1),
        "invokes_per_s": round(invokes, 2),
        "loop_per_s": round(fps, 2),
        "share": round(share, 4),
        "share_of_rounds": [round(float(end(columns[3])), 4) for end in (np.min, np.max)],
        "age_p95_ms": round(age_ms, 3),
        "age_share": round(age_share, 3),
        "mediapipe_per_s": round(float(np.median(columns[6])), 2) if theirs else None,
        "passed": bool(share >= MIN_SHARE and age_share < MAX_AGE),
    }


def frames_of(bundle: Bundle) -> list[NDArray[np.uint8]]:
    """Golden photos as a camera would film them, each `(720, 1280, 3)` uint8 BGR."""
    rng = np.random.default_rng(0)
    golden = read_golden(bundle, preferred_precision(bundle)).pixels
    pixels = golden[np.linspace(0, len(golden) - 1, FRAMES).astype(int)]
    large = [cv2.resize(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR), (WIDTH_PX, HEIGHT_PX)) for photo in pixels]
    return [np.clip(frame + rng.normal(0, NOISE_LEVELS, frame.shape), 0, 255).astype(np.uint8) for frame in large]


def bare(model: Path, threads: int) -> Callable[[], object]:
    """The runtime's invoke of a model, and nothing else."""
    interpreter = find_package("any").module.Interpreter(model_path=str(model), num_threads=threads)
    interpreter.allocate_tensors()
    details = interpreter.get_input_details()[0]
    noise = np.random.default_rng(0).integers(0, 256, details["shape"])
    interpreter.set_tensor(details["index"], noise.astype(details["dtype"]))
    invoke: Callable[[], object] = interpreter.invoke
    return invoke


def per_second(call: Callable[[], object], seconds: float) -> float:
    """How often a second `call` returns, after it was called once."""
    call()
    started_s, calls = time.monotonic(), 0
    while time.monotonic() - started_s < seconds:
        call()
        calls += 1
    return calls / (time.monotonic() - started_s)


def looped(classifier: Classifier, bundle: Bundle, camera: Camera, seconds: float, events: Path) -> Summary:
    """What the loop of `edgebcnn run --jsonl` says of that camera."""
    stream = LiveStream("camera", lambda timeout_s: camera, reporter=Silent(), patience=Patience())
    with opencv_on_one_thread(), closing(stream) as source:
        sinks = open_sinks(
            SinkChoices(jsonl=events),
            bundle_digest=bundle.digest,
            terminal=None,
            keep_every_line=False,
            reporter=Silent(),
            in_a_hurry=lambda: False,
        )
        loop = CameraLoop(source, classifier, [sinks], limits=FrameLimits())
        loop.run(duration_s=seconds)
    return loop.summary()


@contextmanager
def mediapipe_video(
    python: Path, model: Path, frames_bgr: Sequence[NDArray[np.uint8]], folder: Path
) -> Iterator[Callable[[float], float]]:
    """Yields what measures the frames a second that MediaPipe classifies, in so many seconds."""
    np.save(folder / "frames.npy", np.stack([frame[..., ::-1] for frame in frames_bgr]))
    command = [python, MEDIAPIPE, model, folder / "frames.npy"]
    with subprocess.Popen(
        [*map(str, command)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def frames_per_s(seconds: float) -> float:
            asked.write(f"{seconds}\n")
            asked.flush()
            answer = answers.readline()
            if not answer:
                raise click.ClickException(f"{python} cannot run MediaPipe: try {' '.join(map(str, command))}")
            return float(answer)

        yield frames_per_s


if __name__ == "__main__":
    main()
