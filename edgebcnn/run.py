"""Assembles a run of the camera loop from its parts, opened in the order in which their errors are reported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import cv2

from edgebcnn.bundle import Bundle, Precision
from edgebcnn.camera_view import View
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.delegate import Policy, open_classifier
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.field.blur import face_blur
from edgebcnn.field.sample import SampleFolder
from edgebcnn.field.sampler import Redact, Sampler
from edgebcnn.loop.loop import CameraLoop
from edgebcnn.loop.quality import EVERY_FRAME, FrameLimits
from edgebcnn.loop.shelf_choices import ShelfChoices
from edgebcnn.loop.shelf_reading import ShelfReader
from edgebcnn.loop.supervise import Watchdog, watched
from edgebcnn.monitor.health import Health, HealthChoices, open_health
from edgebcnn.progress import Reporter
from edgebcnn.shelf.slots import MIN_SCORE
from edgebcnn.shelf.watch import ShelfWatch
from edgebcnn.sinks.choices import MB, SinkChoices, open_sinks
from edgebcnn.sinks.fan_out import EventSinks
from edgebcnn.sinks.outlet import EventSink
from edgebcnn.sinks.terminal import ProgressSink
from edgebcnn.sinks.window import Window
from edgebcnn.sources.open import Source, open_source
from edgebcnn.sources.reconnect import Patience
from edgebcnn.web.board import LiveRun
from edgebcnn.web.choices import WebChoices


@dataclass(frozen=True)
class RunChoices:
    """The flags of `edgebcnn run`, as they were given; its help says what each means."""

    camera: str | None
    view: View
    precision: Precision | None
    threads: int | None
    sinks: SinkChoices
    web: WebChoices
    show: bool
    shelf: ShelfChoices
    sample: Path | None
    sample_rate: float
    sample_mb: float
    blur_faces: Path | None
    max_frames: int | None
    duration: float | None
    max_age: float | None
    frozen_after: float | None
    min_sharpness: float | None
    every_frame: bool
    max_outage: float | None
    health: HealthChoices

    def limits(self) -> FrameLimits:
        """What a frame must keep to be classified."""
        asked = {"max_age_s": self.max_age, "frozen_after_s": self.frozen_after, "min_sharpness": self.min_sharpness}
        given: dict[str, Any] = {name: limit for name, limit in asked.items() if limit is not None}
        return replace(EVERY_FRAME if self.every_frame else FrameLimits(), **given)

    def patience(self) -> Patience:
        """How long a lost live source is retried."""
        return Patience() if self.max_outage is None else Patience(max_outage_s=self.max_outage)


@dataclass(frozen=True)
class Basis:
    """What every other part of a run is opened with."""

    choices: RunChoices
    bundle: Bundle
    profile: DeviceProfile
    classifier: Classifier
    watch: ShelfWatch | None
    source: Source
    stop: Event
    watchdog: Watchdog
    reporter: Reporter


@dataclass(frozen=True)
class Run:
    """A run that is ready to begin; its figures can be asked for however it ends."""

    basis: Basis
    loop: CameraLoop
    events: EventSinks
    checks: Health
    sampler: Sampler | None

    def begin(self) -> None:
        """Runs the loop to its end; raises what `CameraLoop.run` does."""
        choices = self.basis.choices
        self.loop.run(stop=self.basis.stop, max_frames=choices.max_frames, duration_s=choices.duration)

    def as_json(self) -> dict[str, Any]:
        """The summary, and what became of slots, checks, events and sample."""
        watch, document = self.basis.watch, self.loop.summary().as_json()
        document |= (watch.as_json() if watch else {}) | self.checks.as_json()
        document["sinks"] = [each.as_json() for each in self.events.counts()]
        return document | ({"sample": self.sampler.counts().as_json()} if self.sampler else {})

    def __str__(self) -> str:
        """The same in lines; of lines on the terminal only that some were left out."""
        told = [str(each) for each in (self.loop.summary(), self.basis.watch, self.checks) if each and str(each)]
        counts = [each for each in self.events.counts() if each.sink != "terminal" or each.dropped]
        told += [f"{'events':<10}{each}" for each in counts]
        return "\n".join([*told, *([f"{'sample':<10}{self.sampler.counts()}"] if self.sampler else [])])


@contextmanager
def open_run(
    choices: RunChoices,
    bundle: Bundle,
    *,
    profile: DeviceProfile,
    policy: Policy,
    lines: bool,
    stopping: Callable[[], AbstractContextManager[Event]],
    reporter: Reporter,
) -> Iterator[Run]:
    """Opens every part of a run, so that what cannot work is said before the first frame; the source is closed again.

    Args:
        choices: What was asked for.
        bundle: What names the products.
        profile: The device.
        policy: What its delegate may leave to the CPU.
        lines: Whether to print a line for each event; otherwise there is a progress bar, where the end is known.
        stopping: Yields what ends the run; entered once the source is open, because nothing heeds it before.
        reporter: Told what a user must know meanwhile.
    """
    classifier = open_classifier(bundle, profile, precision=choices.precision, threads=choices.threads, policy=policy)
    if classifier.receipt.fallback:
        reporter.say(f"Going on with the CPU: {classifier.receipt.fallback}")
    watch = choices.shelf.watch(bundle, classifier)
    redact = face_blur(choices.blur_faces) if choices.blur_faces else None  # before there is a folder to keep faces in
    opened = open_source(
        profile.camera.source if choices.camera is None else choices.camera,
        labels={label.name for label in classifier.labels},
        reporter=reporter,
        patience=choices.patience(),
        view=choices.view,
        usual=profile.camera.view,
    )
    with opencv_on_one_thread(), closing(opened) as source, stopping() as stop, watched(source) as watchdog:
        if watch and (size_px := source.size_px()):
            watch.fit(*size_px)  # what does not fit is said before anything is written
        max_bytes, digest = round(choices.sample_mb * MB), bundle.digest
        folder = SampleFolder(choices.sample, bundle_digest=digest, max_bytes=max_bytes) if choices.sample else None
        basis = Basis(choices, bundle, profile, classifier, watch, source, stop, watchdog, reporter)
        yield _wired(basis, folder, redact, lines=lines)


@contextmanager
def opencv_on_one_thread() -> Iterator[None]:
    """Keeps OpenCV to the thread that calls it.

    The loop prepares the next frame while the model is busy: more threads of OpenCV's would take the model's cores, and
    would not be done sooner with so little as one frame (measured on two cores).
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _wired(basis: Basis, folder: SampleFolder | None, redact: Redact | None, *, lines: bool) -> Run:
    choices, watch, source, reporter = basis.choices, basis.watch, basis.source, basis.reporter
    frame_rate, reader = choices.shelf.frame_rate(source), ShelfReader(watch, source) if watch else None
    page = choices.web.open(reporter=reporter, in_a_hurry=basis.stop.is_set)
    window = Window(source.name, watch=watch, stop=basis.stop, reporter=reporter) if choices.show else None
    events = _sinks(basis, [page.news] if page else [], lines=lines)
    checks = open_health(
        choices.health,
        basis.bundle,
        classifier=basis.classifier,
        profile=basis.profile,
        source=source,
        sinks=events,
        watchdog=basis.watchdog,
        reporter=reporter,
    )
    told: list[EventSinks | ProgressSink] = [events]
    if not lines and source.total is not None:
        told.append(ProgressSink(reporter, source.total))
    sampler = _sampler(basis, folder, redact, events.stamp.run) if folder else None
    seen_by = [each for each in (sampler, page, window, checks.shadow, checks.replay) if each]
    loop = CameraLoop(
        source,
        basis.classifier,
        [] if reader else told,
        frame_sinks=[] if reader else seen_by,
        shelf=reader,
        shelf_sinks=[*told, *seen_by] if reader else [],
        frame_rate=frame_rate,
        limits=choices.limits(),
        watchdog=basis.watchdog,
    )
    if page:
        page.start(
            LiveRun(
                events.stamp,
                loop.summary,
                source.status,
                events.counts,
                lost_s=source.lost_s,
                loop_s=basis.watchdog.stage_s,
                pace_s=frame_rate.longest_pause_s,
                min_score=scores.min_score if (scores := basis.bundle.manifest.scores) else MIN_SCORE,
                watch=watch,
                agreements=checks.agreements,
            )
        )
    return Run(basis, loop, events, checks, sampler)


def _sinks(basis: Basis, others: Sequence[EventSink], *, lines: bool) -> EventSinks:
    return open_sinks(
        basis.choices.sinks,
        bundle_digest=basis.bundle.digest,
        terminal=sys.stdout if lines else None,
        keep_every_line=basis.source.total is not None,
        reporter=basis.reporter,
        in_a_hurry=basis.stop.is_set,
        slots=basis.watch.names if basis.watch else (),
        others=others,
    )


def _sampler(basis: Basis, folder: SampleFolder, redact: Redact | None, run: str) -> Sampler:
    return Sampler(
        folder,
        rate=basis.choices.sample_rate,
        run=run,
        precision=basis.classifier.receipt.precision,
        classes=len(basis.classifier.labels),
        preprocessing=basis.bundle.manifest.preprocessing,
        reporter=basis.reporter,
        at_once=len(basis.watch.names) if basis.watch else 1,
        redact=redact,
        may_wait=basis.source.total is not None,
        in_a_hurry=basis.stop.is_set,
    )
