"""Measures what the classifier costs on top of the runtime's own work, on a camera frame that is already in memory.

    python benchmarks/device_overhead.py BUNDLE

A frame of 1280 × 720 goes through `Classifier.classify` on one thread of the runtime, and a clock inside that call
times the runtime's `invoke`. All else is overhead: crop, resize and colours, copying the input in and the output out,
and scores. Both times come from the same call, so that a noisy minute hits both.

Ways to resize take turns, and so do two ways to measure: CPU time with OpenCV on one thread, which other work on the
machine stretches least, and wall time with OpenCV on all its threads, which is what a user waits for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import Bundle, open_bundle
from edgebcnn.cli.console import TerminalReporter
from edgebcnn.device.classifier import Classifier, preferred_precision
from edgebcnn.device.interpreter import InterpreterRuntime, find_package
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import EdgebcnnError
from edgebcnn.preprocessing import Interpolation
from edgebcnn.progress import Reporter

HEIGHT_PX, WIDTH_PX = 720, 1280
WARM_UP = 10  # calls before the first that counts


@dataclass(frozen=True)
class Calls:
    """Milliseconds of every call: `(rounds, calls)` float64.

    Attributes:
        invoke_ms: Of the runtime's `invoke`.
        prepare_ms: Of crop, resize and colours.
        rest_ms: Of everything else.
    """

    invoke_ms: NDArray[np.float64]
    prepare_ms: NDArray[np.float64]
    rest_ms: NDArray[np.float64]

    def as_json(self) -> dict[str, Any]:
        """Medians, and overhead over invoke: of all calls, and its lowest and highest in a round."""
        overhead_ms = self.prepare_ms + self.rest_ms
        of_rounds = np.median(overhead_ms, axis=1) / np.median(self.invoke_ms, axis=1)
        return {
            "invoke_ms": round(float(np.median(self.invoke_ms)), 3),
            "prepare_ms": round(float(np.median(self.prepare_ms)), 3),
            "rest_ms": round(float(np.median(self.rest_ms)), 3),
            "ratio": round(float(np.median(overhead_ms) / np.median(self.invoke_ms)), 4),
            "ratio_of_rounds": [round(float(of_rounds.min()), 4), round(float(of_rounds.max()), 4)],
        }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path), default=Path("runs/latest/bundle"))
@click.option("--rounds", default=10, type=click.IntRange(1), help="Rounds of each way to measure.")
@click.option("--calls", default=50, type=click.IntRange(1), help="Frames in a round.")
@click.option(
    "--interpolation",
    "interpolations",
    type=click.Choice(get_args(Interpolation)),
    multiple=True,
    show_default="the bundle's",
    help="A way to resize, and again for another: for its time alone, where the model was not trained with it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def main(bundle: Path, rounds: int, calls: int, interpolations: tuple[Interpolation, ...], as_json: bool) -> None:
    """Measures the overhead over one invoke."""
    try:
        opened = open_bundle(bundle)
        chosen = interpolations or (opened.manifest.preprocessing.interpolation,)
        rows = measured(opened, rounds, calls, interpolations=chosen, reporter=TerminalReporter())
    except EdgebcnnError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(json_bytes({"rounds": rounds, "calls": calls, "rows": rows}).decode(), nl=False)
        return
    for row in rows:
        low, high = row["ratio_of_rounds"]
        click.echo(
            f"{row['interpolation']}, {row['time']} time, OpenCV on {row['opencv_threads']}: "
            f"invoke {row['invoke_ms']:.2f} ms · "
            f"crop, resize, colours {row['prepare_ms']:.2f} ms · rest {row['rest_ms']:.2f} ms · "
            f"overhead {100 * row['ratio']:.0f} % (rounds {100 * low:.0f}-{100 * high:.0f} %)"
        )


def measured(
    bundle: Bundle, rounds: int, calls: int, *, interpolations: Sequence[Interpolation], reporter: Reporter
) -> list[dict[str, Any]]:
    """The figures of each way to resize, in CPU time and in wall time."""
    clock = _Clock()
    classifiers = {each: clock.classifier(resized_by(bundle, each)) for each in interpolations}
    frame_bgr = _frame(bundle)
    for classifier in classifiers.values():
        for _ in range(WARM_UP):
            classifier.classify(frame_bgr)
    all_threads = cv2.getNumThreads()
    ways = {"CPU": (time.thread_time, 1), "wall": (time.monotonic, all_threads)}
    found: dict[tuple[Interpolation, str], list[Any]] = {turn: [] for turn in product(interpolations, ways)}
    with reporter.progress("Measuring", rounds * len(found)) as advance:
        for _ in range(rounds):
            for (interpolation, way), times in found.items():
                clock.now, threads = ways[way]
                cv2.setNumThreads(threads)
                times.append([clock.call(classifiers[interpolation], frame_bgr) for _ in range(calls)])
                advance(1)
    cv2.setNumThreads(all_threads)
    return [
        {"interpolation": interpolation, "time": way, "opencv_threads": ways[way][1]}
        | Calls(*np.moveaxis(np.array(times), -1, 0)).as_json()
        for (interpolation, way), times in found.items()
    ]


def resized_by(bundle: Bundle, interpolation: Interpolation) -> Bundle:
    """The bundle, with another way to resize: for its time alone, where the model was not trained with it."""
    preprocessing = bundle.manifest.preprocessing.model_copy(update={"interpolation": interpolation})
    return replace(bundle, manifest=bundle.manifest.model_copy(update={"preprocessing": preprocessing}))


class _Clock:
    """Times a classifier from inside, through a runtime and a preprocessing that note how long they took."""

    def __init__(self) -> None:
        self.now = time.monotonic
        self.invoke_ms = self.prepare_ms = 0.0

    def classifier(self, bundle: Bundle) -> Classifier:
        """The bundle's classifier on one thread, under this clock."""
        clock, package = self, find_package("any")

        class Interpreter(package.module.Interpreter):  # type: ignore[misc, name-defined]
            def invoke(self) -> None:
                started_s = clock.now()
                super().invoke()
                clock.invoke_ms = 1000 * (clock.now() - started_s)

        class Preprocessing(type(bundle.manifest.preprocessing)):  # type: ignore[misc]
            def apply(self, photo_bgr: NDArray[np.uint8]) -> NDArray[np.uint8]:
                started_s = clock.now()
                pixels: NDArray[np.uint8] = super().apply(photo_bgr)
                clock.prepare_ms = 1000 * (clock.now() - started_s)
                return pixels

        module: Any = SimpleNamespace(Interpreter=Interpreter, OpResolverType=package.module.OpResolverType)
        precision = preferred_precision(bundle)
        runtime = InterpreterRuntime(replace(package, module=module), bundle.model_path(precision), threads=1)
        preprocessing = Preprocessing(**bundle.manifest.preprocessing.model_dump())
        return Classifier(runtime, bundle.labels, preprocessing=preprocessing, precision=precision)

    def call(self, classifier: Classifier, frame_bgr: NDArray[np.uint8]) -> tuple[float, float, float]:
        """Milliseconds of invoke, of preparing, and of the rest of one call."""
        started_s = self.now()
        classifier.classify(frame_bgr)
        whole_ms = 1000 * (self.now() - started_s)
        return self.invoke_ms, self.prepare_ms, whole_ms - self.invoke_ms - self.prepare_ms


def _frame(bundle: Bundle) -> NDArray[np.uint8]:
    """`(720, 1280, 3)` uint8 BGR: a golden photo, enlarged."""
    golden = read_golden(bundle, preferred_precision(bundle))
    frame_bgr = cv2.resize(cv2.cvtColor(golden.pixels[0], cv2.COLOR_RGB2BGR), (WIDTH_PX, HEIGHT_PX))
    return np.asarray(frame_bgr, np.uint8)


if __name__ == "__main__":
    main()
