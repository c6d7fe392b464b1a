"""Runs inference on the held-out photos with a run's models and its exported model files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgebcnn.bundle import Bundle, Manifest, Precision, write_bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.progress import Advance, Reporter
from edgebcnn.quantize.full_file import check_full_file
from edgebcnn.quantize.model_files import MadeFile
from edgebcnn.quantize.old_runtime.check import OLD_RUNTIME, OldRuntimeResult, compared
from edgebcnn.train.features import PreparedPhotos, run_through
from edgebcnn.train.run_folder import TrainedRun

MAX_COMPARED = 256
"""Held-out photos for the old runtime, whose int8 is twenty times as slow."""

Name = TypeVar("Name", bound=str)
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class HeldOutPredictions:
    """Probabilities `(n, k)` on the held-out photos.

    Attributes:
        references: Of the full and the compact model, by these names.
        edges: Of the model files, from the device's own classifier.
        untuned: Of the int8 file before fine-tuning; None where nothing was fine-tuned.
    """

    references: Mapping[str, Probabilities]
    edges: Mapping[Precision, Probabilities]
    untuned: Probabilities | None


def predict_held_out(
    run: TrainedRun,
    references: Mapping[str, Probabilities],
    manifest: Manifest,
    files: Mapping[str, bytes],
    *,
    untuned: MadeFile | None,
    output: Path,
    reporter: Reporter,
) -> HeldOutPredictions:
    """Runs inference with every model file on every held-out photo.

    Args:
        run: The run.
        references: Probabilities of its full and compact model, by these names.
        manifest: Manifest of the bundle.
        files: What that holds so far.
        untuned: The int8 file before fine-tuning, where there was one.
        output: Folder of the bundle; drafts lie next to it meanwhile.
        reporter: Receives progress and messages.

    Raises:
        QuantizationError: the full model's file predicts something else than the full model.
        StorageError: the disk is full, or a draft cannot be written.
    """
    with _draft(output, manifest, run, files) as draft:
        edges = _edges(run, draft, reporter)
        if manifest.full:
            check_full_file(run, draft, references["full"], reporter)
    before = None if untuned is None else _untuned(run, untuned, manifest, output, reporter)
    return HeldOutPredictions(references, edges, before)


def predict_with_old_runtime(
    run: TrainedRun, made: Mapping[Precision, MadeFile], *, python: Path, reporter: Reporter
) -> dict[Precision, OldRuntimeResult]:
    """Runs inference with each model file in tflite-runtime 2.14, on some held-out photos.

    Args:
        run: The run.
        made: The model files.
        python: The Python of an environment with that runtime.
        reporter: Receives progress and messages.

    Raises:
        DeviceError: there is no such runtime, or it cannot run a file.
    """
    held_out = run.dataset.held_out
    photos = held_out[:: -(-len(held_out) // MAX_COMPARED)]
    pixels = PreparedPhotos(photos, run.preprocessing)[:]
    found = {}
    for precision, file in made.items():
        with reporter.progress(f"{precision} model in {OLD_RUNTIME}", len(photos)) as advance:
            found[precision] = compared(
                file.content, pixels, preprocessing=run.preprocessing, python=python, advance=advance
            )
    return found


def _predicted(
    run: TrainedRun,
    models: Iterable[tuple[Name, Callable[[PreparedPhotos, Advance], Probabilities]]],
    reporter: Reporter,
) -> dict[Name, Probabilities]:
    photos = PreparedPhotos(run.dataset.held_out, run.preprocessing)
    found = {}
    for name, probabilities_of in models:
        with reporter.progress(f"{name} model on {run.dataset.held_out_name} photos", len(photos)) as advance:
            found[name] = probabilities_of(photos, advance)
    return found


@contextmanager
def _draft(output: Path, manifest: Manifest, run: TrainedRun, files: Mapping[str, bytes]) -> Iterator[Bundle]:
    """A bundle without report and golden photos, next to the place of the whole one, for the time of the block."""
    path = output.with_name(f".{output.name}.draft")
    try:
        yield write_bundle(path, manifest, run.dataset.labels, files)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _edges(run: TrainedRun, draft: Bundle, reporter: Reporter) -> dict[Precision, Probabilities]:
    classifiers = ((name, Classifier.load_untried(draft, precision=name)) for name in draft.manifest.models)
    return _predicted(run, ((name, partial(run_through, each.probabilities)) for name, each in classifiers), reporter)


def _untuned(run: TrainedRun, untuned: MadeFile, manifest: Manifest, output: Path, reporter: Reporter) -> Probabilities:
    entry = untuned.audit.model_file("model.int8.tflite")
    int8_only = manifest.model_copy(update={"models": {"int8": entry}, "full": None})
    with _draft(output, int8_only, run, {entry.file: untuned.content}) as draft:
        reporter.say("the int8 model before fine-tuning:")
        return _edges(run, draft, reporter)["int8"]
