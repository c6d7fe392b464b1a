"""The Python API: what `import edgebcnn` offers beside the errors.

    classifier = edgebcnn.load("runs/latest/bundle")       # a device: no TensorFlow needed
    classifier.classify("shelf.jpg").top(5)
    for reading in edgebcnn.readings("0", classifier): ...

    run = edgebcnn.train("photos", output="runs/first")    # needs edgebcnn[train]
    bundle = edgebcnn.export(run)
    edgebcnn.evaluate(bundle, "more-photos").figures.top1

Each function has the defaults of the command of its name, and raises an `EdgebcnnError` whose message is one sentence.
Notices and progress bars go to stderr; `reporter=edgebcnn.Silent()` keeps them away. What TensorFlow and LiteRT print
on their own is dropped. What only training needs is imported when it is called.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from edgebcnn.bundle import Precision, open_bundle
from edgebcnn.camera_view import Rotation, View
from edgebcnn.device.auto import AUTO, Wanted, recall
from edgebcnn.device.classifier import Classifier, Prediction, RankedProduct
from edgebcnn.device.delegate import Policy, open_classifier
from edgebcnn.device.profile import DEFAULT_PROFILE, load_profile
from edgebcnn.errors import MissingExtraError
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.quality import EVERY_FRAME, FrameLimits
from edgebcnn.loop.reading import Reading
from edgebcnn.native import muted_native_stderr
from edgebcnn.progress import Reporter, Silent, TerminalReporter
from edgebcnn.sources.frames import Source
from edgebcnn.sources.open import open_source as open_any_source
from edgebcnn.sources.reconnect import MAX_OUTAGE_S, Patience

if TYPE_CHECKING:
    from edgebcnn.evaluation.evaluate import EvaluationResult
    from edgebcnn.evaluation.labelled import Split
    from edgebcnn.model.bcnn import Role
    from edgebcnn.quantize.export import ExportResult
    from edgebcnn.train.steps import TrainResult

__all__ = [
    "Classifier",
    "Prediction",
    "RankedProduct",
    "Reading",
    "Reporter",
    "Silent",
    "Source",
    "evaluate",
    "export",
    "load",
    "open_source",
    "readings",
    "train",
]

StrPath = str | os.PathLike[str]

LATEST_RUN = "runs/latest"
LATEST_BUNDLE = "runs/latest/bundle"


@muted_native_stderr()
def load(
    bundle: StrPath = LATEST_BUNDLE,
    *,
    device: str = DEFAULT_PROFILE,
    precision: Precision | None = None,
    threads: int | None = None,
    allow_cpu_fallback: bool = False,
    reporter: Reporter | None = None,
) -> Classifier:
    """Loads a bundle's model, ready to classify images.

    Args:
        bundle: Folder or packed file that `export` wrote, or what `export` returned.
        device: Device profile: a name that `edgebcnn devices` lists, the path of your own `.toml` file, or `auto` for
            the fastest that passes the golden photos here.
        precision: Which of the bundle's models; by default the profile's, else the smallest and fastest.
        threads: CPU threads; by default the profile's, else the cores, at most 4.
        allow_cpu_fallback: Use the CPU where the profile's delegate is missing, partial or wrong.
        reporter: Receives notices; by default they are printed to stderr.

    Raises:
        BundleError: no bundle there, changed, of another version, or without that precision.
        DeviceError: no such profile, no runtime, or the delegate is missing, partial or wrong.
        ValueError: `threads` is less than 1.
    """
    reporter = reporter or TerminalReporter()
    if threads is not None and threads < 1:
        raise ValueError(f"threads={threads}: give 1 or more")
    opened = open_bundle(Path(bundle))
    chosen = recall(opened, Wanted(precision, threads), reporter=reporter).chosen if device == AUTO else None
    profile = chosen or load_profile(device)
    policy = Policy(allow_cpu_fallback=allow_cpu_fallback)
    classifier = open_classifier(opened, profile, precision=precision, threads=threads, policy=policy)
    if classifier.receipt.fallback:
        reporter.say(f"Running on the CPU: {classifier.receipt.fallback}")
    return classifier


def open_source(
    source: str | int | os.PathLike[str],
    *,
    size_px: tuple[int, int] | None = None,
    fps: float | None = None,
    rotate: Rotation = 0,
    max_outage_s: float = MAX_OUTAGE_S,
    reporter: Reporter | None = None,
) -> Source:
    """Opens a camera, video, folder of photos or network stream; close it, or use it in a `with` block.

    Args:
        source: Camera index (`0`), device (`/dev/video0`), CSI camera (`csi:0`), video file, photo, folder or pattern
            of photos (`shelf/*.jpg`), or an http(s) MJPEG or RTSP address.
        size_px: Width and height to request of a camera.
        fps: Frames per second to request of a camera.
        rotate: Degrees clockwise to rotate each frame.
        max_outage_s: How long to reconnect to a camera or stream that is lost, before that is an error.
        reporter: Receives notices; by default they are printed to stderr.

    Raises:
        CameraError: nothing is there or it cannot be read, or a file is requested in another size or rate.
    """
    return open_any_source(
        os.fspath(source) if not isinstance(source, int) else str(source),
        reporter=reporter or TerminalReporter(),
        patience=Patience(max_outage_s=max_outage_s),
        view=View(size_px, fps, rotate),
    )


def readings(
    source: str | int | os.PathLike[str] | Source,
    classifier: Classifier,
    *,
    every_frame: bool = False,
    max_age_s: float = math.inf,
    max_frames: int | None = None,
    duration_s: float | None = None,
    reporter: Reporter | None = None,
) -> Generator[Reading]:
    """Yields a reading of each frame: its product, or the reason why it has none.

    This is the loop of `edgebcnn run`. A live source gives its newest frame, and reconnects when it is lost. A frame
    that is frozen, black, overexposed, blurred or too old has a `reason` in place of a `label`.

    Args:
        source: What `open_source` returned, which stays open, or what it takes, which is closed at the end.
        classifier: What `load` returned.
        every_frame: Classify frozen, black, overexposed and blurred frames too.
        max_age_s: Oldest that a frame may be when its reading is yielded.
        max_frames: Stop after so many classified frames.
        duration_s: Stop after so many seconds.
        reporter: Receives notices; by default they are printed to stderr.

    Raises:
        CameraError: nothing can be read there, or a live source was lost for good.
        DeviceError: the model failed again and again.
    """
    limits = replace(EVERY_FRAME if every_frame else FrameLimits(), max_age_s=max_age_s)
    with ExitStack() as held:
        if not isinstance(source, Source):
            source = held.enter_context(open_source(source, reporter=reporter))
        loop = CameraLoop(source, classifier, limits=limits)
        found = held.enter_context(closing(loop.readings(max_frames=max_frames, duration_s=duration_s)))
        yield from cast("Generator[Reading]", found)


@muted_native_stderr()
def train(
    data: StrPath = "data",
    *,
    output: StrPath | None = None,
    reporter: Reporter | None = None,
    stop: threading.Event | None = None,
    **options: Any,
) -> TrainResult:
    """Trains the full B-CNN on labeled photos, then its compact replacement.

    A call that was interrupted is resumed by `edgebcnn train --resume`.

    Args:
        data: Folder of the photos, one folder per product; `edgebcnn train --help` lists other layouts.
        output: Folder of the run to create; by default `runs/` and the time.
        reporter: Receives notices and progress; by default they are printed to stderr.
        stop: Set it in another thread to stop after the current batch; that raises `Interrupted`.
        options: Any option of `edgebcnn train` by the name of its flag or configuration key, such as
            `streams="mobilenet_v2"`, `epochs=8`, `input_px=384`, `flip=True`.

    Returns:
        The run and the accuracy of its models; `export`, `evaluate` and `os.fspath` take it as its folder.

    Raises:
        DataError: the photos cannot be used.
        RunError: `output` exists.
        TrainingError: training cannot continue.
        MissingExtraError: the packages of edgebcnn[train] are not installed.
        TypeError: no option has that name.
        ValueError: an option has an impossible value.
    """
    reporter = reporter or TerminalReporter()
    with _needing_train_extra("edgebcnn.train", reporter):
        from edgebcnn.train import steps
        from edgebcnn.train.claim import new_name
        from edgebcnn.train.config import config_of

    config = config_of(data=os.fspath(data), **options)
    run = Path(output) if output is not None else Path(LATEST_RUN).with_name(new_name())
    return steps.train(config, run, reporter=reporter, stop=stop or threading.Event())


@muted_native_stderr()
def export(
    run: StrPath = LATEST_RUN,
    *,
    output: StrPath | None = None,
    precisions: Sequence[Precision] = ("int8",),
    recipe: str = "balanced",
    calibration_photos: StrPath | None = None,
    qat_epochs: int = 0,
    with_full: bool = False,
    allow_float: bool = False,
    accept_drop: bool = False,
    reporter: Reporter | None = None,
) -> ExportResult:
    """Turns a trained run into a bundle, and measures on held-out photos what that cost.

    Args:
        run: Folder that `train` made, or what `train` returned.
        output: Folder of the bundle, in place of a bundle that is there; by default `bundle` in the run.
        precisions: Model files to make: int8, mixed, int16, dynamic, fp16, float32.
        recipe: Calibration recipe and limits: `balanced`, `quick`, or the path of your own `.toml` file.
        calibration_photos: Photos to calibrate on; by default training photos of the run.
        qat_epochs: Epochs of quantization-aware training of int8 and mixed models.
        with_full: Put the full model into the bundle too, for `edgebcnn run --shadow`.
        allow_float: Accept an int8 model that keeps ops in float.
        accept_drop: Export even where accuracy drops by more than the recipe's limits.
        reporter: Receives notices and progress; by default they are printed to stderr.

    Returns:
        The bundle and its figures; `load`, `evaluate` and `os.fspath` take it as its folder.

    Raises:
        GateError: a model lost too much accuracy; its report lies beside `output`.
        RunError: there is no run that can be exported.
        DataError: a photo is missing, or there are too few.
        QuantizationError: an int8 model would keep ops in float.
        BundleError: `output` holds something that is not a bundle.
        MissingExtraError: the packages of edgebcnn[train] are not installed.
    """
    reporter = reporter or TerminalReporter()
    with _needing_train_extra("edgebcnn.export", reporter):
        from edgebcnn.quantize import export as exporting
        from edgebcnn.quantize.calibration.recipe import load_recipe
        from edgebcnn.quantize.choices import ExportChoices
        from edgebcnn.train.run_folder import open_run

    opened = open_run(Path(run))
    choices = ExportChoices(
        precisions=tuple(precisions),
        recipe=load_recipe(recipe),
        captured=None if calibration_photos is None else Path(calibration_photos),
        qat_epochs=qat_epochs,
        with_full=with_full,
        allow_float=allow_float,
        accept_drop=accept_drop,
    )
    return exporting.export(
        opened, opened.path / "bundle" if output is None else Path(output), choices=choices, reporter=reporter
    )


@muted_native_stderr()
def evaluate(
    model: StrPath = LATEST_RUN,
    photos: StrPath | None = None,
    *,
    split: Split | None = None,
    role: Role | None = None,
    precision: Precision | None = None,
    against: StrPath | None = None,
    output: StrPath | None = None,
    allow_unreadable: bool = False,
    reporter: Reporter | None = None,
) -> EvaluationResult:
    """Measures a model's accuracy on labeled photos, or compares two models on the same photos.

    Args:
        model: Run or bundle, or what `train` or `export` returned.
        photos: Folder of labeled photos; by default the held-out photos of the run.
        split: `train`, `val` or `test`; by default test, or val where there is none.
        role: Which model of a run, `compact` or `full`; compact by default.
        precision: Which model of a bundle.
        against: Another run or bundle, to compare with on the same photos.
        output: Folder for the report, the list of wrong predictions and a contact sheet of the worst.
        allow_unreadable: Continue even if more than 1 % of the photos cannot be read.
        reporter: Receives notices and progress; by default they are printed to stderr.

    Returns:
        All figures; `figures.top1` is the accuracy with its 95 % interval.

    Raises:
        DataError: the photos cannot be used, or show products that the model does not know.
        RunError: there is no model there.
        BundleError: the bundle cannot be used.
        MissingExtraError: the packages of edgebcnn[train] are not installed.
    """
    reporter = reporter or TerminalReporter()
    with _needing_train_extra("edgebcnn.evaluate", reporter):
        from edgebcnn.evaluation import evaluate as evaluating
        from edgebcnn.evaluation.models import open_model

    return evaluating.evaluate(
        open_model(Path(model), role=role, precision=precision),
        data=None if photos is None else Path(photos),
        split=split,
        against=None if against is None else open_model(Path(against)),
        output=None if output is None else Path(output),
        allow_unreadable=allow_unreadable,
        reporter=reporter,
    )


@contextmanager
def _needing_train_extra(feature: str, reporter: Reporter) -> Iterator[None]:
    """Imports what training needs, with a bar that says why it takes seconds."""
    try:
        with reporter.progress("starting TensorFlow", 0):
            yield
    except ModuleNotFoundError as error:
        if missing := MissingExtraError.behind(error, feature):
            raise missing from error
        raise
