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
"""Held-out photos that the old runtime is asked about: its int8 is twenty times as slow."""

Name = TypeVar("Name", bound=str)
Probabilities = NDArray[np.float32]


@dataclass(frozen=True)
class HeldOutAnswers:
    """Probabilities `(n, k)` on the held-out photos.

    Attributes:
        references: Of the full and the compact model, by these names.
        edges: Of the model files, from the device's own classifier.
        untuned: Of the int8 file before fine-tuning; None where nothing was fine-tuned.
    """

    references: Mapping[str, Probabilities]
    edges: Mapping[Precision, Probabilities]
    untuned: Probabilities | None


def ask(
    run: TrainedRun,
    references: Mapping[str, Probabilities],
    manifest: Manifest,
    files: Mapping[str, bytes],
    *,
    untuned: MadeFile | None,
    output: Path,
    reporter: Reporter,
) -> HeldOutAnswers:
    """Asks every model about every held-out photo.

    Args:
        run: The run.
        references: Probabilities of its full and compact model, by these names.
        manifest: Of the bundle that is to be judged.
        files: What that holds so far.
        untuned: The int8 file before fine-tuning, where there was one.
        output: Folder of the bundle; drafts of it lie beside it for that long.
        reporter: Who is told.

    Raises:
        QuantizationError: the full model's file says something else than the full model.
        StorageError: the disk is full, or a draft cannot be written.
    """
    with _draft(output, manifest, run, files) as draft:
        edges = _edges(run, draft, reporter)
        if manifest.full:
            check_full_file(run, draft, references["full"], reporter)
    before = None if untuned is None else _untuned(run, untuned, manifest, output, reporter)
    return HeldOutAnswers(references, edges, before)


def ask_old_runtime(
    run: TrainedRun, made: Mapping[Precision, MadeFile], *, python: Path, reporter: Reporter
) -> dict[Precision, OldRuntimeResult]:
    """Asks each model file about some held-out photos in tflite-runtime 2.14 as well.

    Args:
        run: The run.
        made: The model files.
        python: The Python of an environment with that runtime.
        reporter: Who is told.

    Raises:
        DeviceError: there is no such runtime, or it cannot run a file.
    """
    held_out = run.dataset.held_out
    photos = held_out[:: -(-len(held_out) // MAX_COMPARED)]
    pixels = PreparedPhotos(photos, run.preprocessing)[:]
    said = {}
    for precision, file in made.items():
        with reporter.progress(f"{precision} model in {OLD_RUNTIME}", len(photos)) as advance:
            said[precision] = compared(
                file.content, pixels, preprocessing=run.preprocessing, python=python, advance=advance
            )
    return said


def _said(
    run: TrainedRun,
    models: Iterable[tuple[Name, Callable[[PreparedPhotos, Advance], Probabilities]]],
    reporter: Reporter,
) -> dict[Name, Probabilities]:
    photos = PreparedPhotos(run.dataset.held_out, run.preprocessing)
    said = {}
    for name, probabilities_of in models:
        with reporter.progress(f"{name} model on {run.dataset.held_out_name} photos", len(photos)) as advance:
            said[name] = probabilities_of(photos, advance)
    return said


@contextmanager
def _draft(output: Path, manifest: Manifest, run: TrainedRun, files: Mapping[str, bytes]) -> Iterator[Bundle]:
    """A bundle without report and golden photos, beside where the whole one will be, for the time of the block."""
    path = output.with_name(f".{output.name}.draft")
    try:
        yield write_bundle(path, manifest, run.dataset.labels, files)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _edges(run: TrainedRun, draft: Bundle, reporter: Reporter) -> dict[Precision, Probabilities]:
    classifiers = ((name, Classifier.load_untried(draft, precision=name)) for name in draft.manifest.models)
    return _said(run, ((name, partial(run_through, each.probabilities)) for name, each in classifiers), reporter)


def _untuned(run: TrainedRun, untuned: MadeFile, manifest: Manifest, output: Path, reporter: Reporter) -> Probabilities:
    entry = untuned.audit.model_file("model.int8.tflite")
    alone = manifest.model_copy(update={"models": {"int8": entry}, "full": None})
    with _draft(output, alone, run, {entry.file: untuned.content}) as draft:
        reporter.say("and the int8 model as it was before fine-tuning:")
        return _edges(run, draft, reporter)["int8"]
