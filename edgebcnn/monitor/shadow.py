"""Compares the edge model's predictions with those of the full model on the same frames, during a run.

The full model runs in a background process with idle priority (`edgebcnn.monitor.background`), and rests after each
inference until its CPU budget allows the next. When it is free, it gets the newest frame, or the slot that has waited
longest, one per scene (`edgebcnn.monitor.shadow_turns`); the loop never waits for it.
"""

from __future__ import annotations

import time
import zipfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgebcnn.backoff import Backoff
from edgebcnn.bundle import REPORT_NAME, Bundle, Label, Precision
from edgebcnn.device.selftest import GoldenFile
from edgebcnn.errors import BundleError, EdgebcnnError
from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.monitor.background import BackgroundModel
from edgebcnn.monitor.shadow_turns import SceneImage, SceneQueue
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Reporter
from edgebcnn.report.agreement import CONFIDENCE, Proportion
from edgebcnn.report.sequential import AgreementAlarm, SequentialShare, confidence_sequence
from edgebcnn.sources.frames import Frame
from edgebcnn.untrusted.files import read_json
from edgebcnn.worker import Worker

REPORT_EVERY_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0  # before an ended process is restarted
HEALTHY_S = 60.0  # a process that ran for this long is restarted without a long pause
LABELS_FILE = "labels.txt"  # in the metadata of a model file


@dataclass(frozen=True)
class LiveAgreement:
    """Agreement of edge and full model so far.

    Attributes:
        model: Name of the full model's file.
        agreed: Scenes on which both predicted the same product.
        scenes: Scenes compared.
        floor: Agreement below which an alarm is raised.
        alarm: Whether it was raised.
        restarts: How often the full model's process was restarted.
        problem: Why the full model does not run now; None where it does.
        cpu_s: CPU time that the full model took.
    """

    model: str
    agreed: int
    scenes: int
    floor: float
    alarm: bool
    restarts: int
    problem: str | None
    cpu_s: float

    @property
    def value(self) -> float | None:
        """Share of the scenes on which both agreed; None before the first scene."""
        return self.agreed / self.scenes if self.scenes else None

    @property
    def interval(self) -> tuple[float, float]:
        """Its `confidence_sequence`, which is valid at any time, however often it is looked at."""
        return confidence_sequence(self.agreed, self.scenes)

    @property
    def share(self) -> SequentialShare | None:
        """Share and interval; None before the first scene."""
        return SequentialShare(self.agreed, self.scenes) if self.scenes else None

    def as_json(self) -> dict[str, Any]:
        """Every figure by name."""
        low, high = self.interval
        return {
            "model": self.model,
            "agreement": {
                "value": self.value,
                "low": low,
                "high": high,
                "confidence": CONFIDENCE,
                "successes": self.agreed,
                "n": self.scenes,
            },
            "floor": self.floor,
            "alarm": self.alarm,
            "restarts": self.restarts,
            "problem": self.problem,
            "cpu_s": round(self.cpu_s, 3),
        }

    def __str__(self) -> str:
        """`agreement 93.1 % with full.tflite (at any time 95 % CI 82.0-98.0, n=58)`."""
        if self.value is None:
            figures = f"no result of {self.model} yet"
        else:
            low, high = self.interval
            interval = f"at any time {100 * CONFIDENCE:.0f} % CI {100 * low:.1f}-{100 * high:.1f}, n={self.scenes}"
            figures = f"agreement {100 * self.value:.1f} % with {self.model} ({interval})"
        parts = [figures]
        if self.alarm:
            parts.append(f"ALARM: it fell below {100 * self.floor:.1f} %")
        if self.restarts:
            parts.append(f"{self.restarts} restart{'s' if self.restarts != 1 else ''}")
        if self.problem:
            parts.append(self.problem)
        return " · ".join(parts)


class ShadowListener(Protocol):
    """Receives the agreement and its alarm."""

    def agreement(self, agreement: LiveAgreement) -> None:
        """Takes the agreement so far."""
        ...

    def alarm(self, about: str, problem: str) -> None:
        """Takes an alarm: the agreement has fallen; `problem` is one sentence."""
        ...


class Shadow:
    """A frame sink that lets the full model classify some frames in the background.

    Args:
        model: The full model's process; ended by this shadow.
        opener: Starts the process again.
        name: Name of the model file.
        preprocessing: Turns a frame into the model's input.
        floor: Agreement below which an alarm is raised, 0-1.
        scene_s: Seconds that count as one scene, of which one image is used; None for the defaults of frames and slots.
        cpu_share: Share of one core's time that the full model may take, 0-1.
        listener: Receives agreement and alarm, in the loop's thread.
        reporter: Informed when the process of the full model ends.
    """

    def __init__(
        self,
        model: BackgroundModel,
        opener: Callable[[], BackgroundModel],
        *,
        name: str,
        preprocessing: Preprocessing,
        floor: float,
        scene_s: float | None,
        cpu_share: float,
        listener: ShadowListener,
        reporter: Reporter,
    ) -> None:
        self._model, self._opener, self._name, self._preprocessing = model, opener, name, preprocessing
        self._queue, self._cpu_share = SceneQueue(scene_s), cpu_share
        self._listener, self._reporter = listener, reporter
        self._alarm = AgreementAlarm(floor)
        self._agreed = self._scenes = self._restarts = 0
        self._problem: str | None = None
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._started_s, self._cpu_s = time.monotonic(), model.cpu_s
        self._reported_s = -float("inf")
        self._reported: LiveAgreement | None = None
        self._agreements: deque[bool] = deque()
        self._worker: Worker[SceneImage] = Worker("shadow", self._compare, capacity=1, drain_s=0.0)

    def write(self, frame: Frame, reading: Reading) -> None:
        """Counts new results, and passes this frame on if the full model is free and the last scene is over."""
        self._catch_up()
        if self._worker.is_idle:
            self._offer(frame, reading)
            self._start_next()

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Counts new results, and passes a slot on if the full model is free and the slot's last scene is over."""
        self._catch_up()
        for image, slot_reading in reading.classified_slots(frame):
            self._offer(image, slot_reading)
        self._start_next()

    def close(self) -> None:
        """Ends the full model, without waiting for an inference that runs."""
        self._worker.start_to_close()
        self._model.end()
        self._worker.finish()
        self._take_results()

    def agreement(self) -> LiveAgreement:
        """Returns the agreement so far; safe to call from any thread."""
        return LiveAgreement(
            model=self._name,
            agreed=self._agreed,
            scenes=self._scenes,
            floor=self._alarm.threshold,
            alarm=self._alarm.raised,
            restarts=self._restarts,
            problem=self._problem,
            cpu_s=self._cpu_s,
        )

    def _catch_up(self) -> None:
        self._worker.raise_failure()
        was_raised = self._alarm.raised
        self._take_results()
        self._report(at_once=self._alarm.raised and not was_raised)

    def _offer(self, frame: Frame, reading: Reading) -> None:
        if reading.class_id is not None:
            self._queue.offer(SceneImage(frame, reading.class_id), at_s=time.monotonic())

    def _start_next(self) -> None:
        if self._worker.is_idle and (image := self._queue.next(at_s=time.monotonic())):
            self._worker.put(image)

    def _take_results(self) -> None:
        while self._agreements:
            agrees = self._agreements.popleft()
            self._scenes += 1
            self._agreed += agrees
            self._alarm.look(agrees)

    def _report(self, *, at_once: bool) -> None:
        now_s, now, last = time.monotonic(), self.agreement(), self._reported
        is_news = last is None or (now.restarts, now.problem) != (last.restarts, last.problem)
        is_due = now_s - self._reported_s >= REPORT_EVERY_S and last is not None and now.scenes > last.scenes
        if (now.scenes or now.problem) and (at_once or is_news or is_due):
            self._reported, self._reported_s = now, now_s
            self._listener.agreement(now)
        if at_once:
            self._listener.alarm("agreement", self._alarm_sentence(now))

    def _alarm_sentence(self, now: LiveAgreement) -> str:
        return (
            f"the model agrees with {now.model} on {now.agreed} of {now.scenes} scenes, and no longer on "
            f"{100 * now.floor:.1f} % of them: keep frames with --sample, and run edgebcnn audit to see what changed"
        )

    def _compare(self, image: SceneImage) -> None:
        began_s, own_cpu_s = time.monotonic(), time.thread_time()
        try:
            result = self._model.infer(self._preprocessing.apply(image.frame.image_bgr))
        except EdgebcnnError as error:
            self._restart(str(error))
            return
        self._agreements.append(result.class_id == image.class_id)
        self._rest(result.cpu_s + time.thread_time() - own_cpu_s, began_s)

    def _rest(self, cpu_s: float, since_s: float) -> None:
        self._cpu_s += cpu_s
        self._worker.pause(max(0.0, cpu_s / self._cpu_share - (time.monotonic() - since_s)))

    def _start(self) -> None:
        self._model = self._opener()
        self._started_s = time.monotonic()
        self._cpu_s += self._model.cpu_s

    def _restart(self, problem: str) -> None:
        """Restarts the process, after growing pauses while it keeps ending."""
        if self._worker.is_stopping:
            return
        self._problem = problem
        self._reporter.say(f"shadow: {problem}; the run continues, and the full model is restarted")
        self._model.end()
        if time.monotonic() - self._started_s > HEALTHY_S:
            self._backoff.reset()
        while not self._worker.pause(self._backoff.pause_s()):
            try:
                self._start()
            except EdgebcnnError as error:
                self._problem = str(error)
                continue
            self._restarts += 1
            self._problem = None
            self._worker.pause(self._model.cpu_s / self._cpu_share)
            break
        if self._worker.is_stopping:
            self._model.end()


def full_model(bundle: Bundle, given: Path | None = None) -> Path:
    """Returns the full model's file: the one that `export --with-full` put into the bundle, or the given one.

    Raises:
        BundleError: the bundle has none; or the file is missing, does not name its products, or names others than the
            bundle.
    """
    if given is None:
        if bundle.manifest.full is None:
            raise BundleError(
                f"{bundle.given} holds no full model: export it again with --with-full, or give --shadow a .tflite file"
            )
        return bundle.path / bundle.manifest.full.file
    _check_products(given, bundle.labels)
    return given


def agreement_at_export(bundle: Bundle, precision: Precision) -> Proportion:
    """Returns how often a model file agreed with the full model on held-out photos, or else on typical golden photos.

    Raises:
        BundleError: the bundle has neither.
    """
    try:
        pairs = read_json(bundle.path / REPORT_NAME)["models"][precision]["pairs"]
        found = next(pair["agreement"] for pair in pairs if {pair["first"], pair["second"]} == {"edge", "full"})
        return Proportion(found["successes"], found["n"])
    except (OSError, ValueError, LookupError, TypeError, StopIteration):
        file = GoldenFile(bundle, precision)
        file.close()
        return file.answers.agreement(file.answers.edge)


def _check_products(model: Path, labels: Sequence[Label]) -> None:
    try:
        with zipfile.ZipFile(model) as archive:
            names = archive.read(LABELS_FILE).decode().splitlines()
    except OSError as error:
        raise BundleError(f"{model} cannot be read ({error.strerror}): give the path of the full model") from error
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{model} does not name its products: give the file that edgebcnn export --with-full wrote"
        ) from error
    known = [label.name for label in labels]
    if names != known:
        differ = sorted({*names} ^ {*known}) or ["their order"]
        raise BundleError(
            f"{model} has other products than the bundle ({differ[0]}, for one): "
            "give the full model of the run that the bundle was exported from"
        )
