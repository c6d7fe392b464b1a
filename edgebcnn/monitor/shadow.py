"""How often does the model in the loop say what the full model says of the same frame, here and now?

The full model runs beside the loop, in a process that gets what nobody else wants (`edgebcnn.monitor.background`) and
rests
after each answer until its budget allows the next. When it is free it is shown the newest frame, or the slot whose turn
it is, one a scene (`edgebcnn.monitor.shadow_turns`), and the loop never waits for it.
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
from edgebcnn.monitor.background import Aside
from edgebcnn.monitor.shadow_turns import Question, Turns
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Reporter
from edgebcnn.report.agreement import CONFIDENCE, Proportion
from edgebcnn.report.sequential import AgreementAlarm, SequentialShare, confidence_sequence
from edgebcnn.sources.frames import Frame
from edgebcnn.untrusted.files import read_json
from edgebcnn.worker import Worker

TELL_EVERY_S = 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 300.0  # before a process that ended is started again
HEALTHY_S = 60.0  # what lived for so long may be started again soon
LABELS_FILE = "labels.txt"  # in the metadata of a model file


@dataclass(frozen=True)
class LiveAgreement:
    """How often edge and full model agreed so far.

    Attributes:
        model: Name of the full model's file.
        agreed: Scenes on which they did.
        looks: Scenes.
        floor: Agreement below which there is an alarm.
        alarm: Whether it was raised.
        restarts: How often the full model's process had to be started again.
        problem: Why it does not answer now; None where it does.
        cpu_s: Processor time that the full model took.
    """

    model: str
    agreed: int
    looks: int
    floor: float
    alarm: bool
    restarts: int
    problem: str | None
    cpu_s: float

    @property
    def value(self) -> float | None:
        """Share of the scenes on which they agreed; None before the first look."""
        return self.agreed / self.looks if self.looks else None

    @property
    def interval(self) -> tuple[float, float]:
        """`confidence_sequence`: holds at all times at once, so that one may look whenever one likes."""
        return confidence_sequence(self.agreed, self.looks)

    @property
    def share(self) -> SequentialShare | None:
        """Both; None before the first look."""
        return SequentialShare(self.agreed, self.looks) if self.looks else None

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
                "n": self.looks,
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
            figures = f"no answer of {self.model} yet"
        else:
            low, high = self.interval
            interval = f"at any time {100 * CONFIDENCE:.0f} % CI {100 * low:.1f}-{100 * high:.1f}, n={self.looks}"
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
    """Who is told of the agreement."""

    def agreement(self, agreement: LiveAgreement) -> None:
        """What it has come to."""
        ...

    def alarm(self, about: str, problem: str) -> None:
        """It has fallen; `problem` is one sentence."""
        ...


class Shadow:
    """What the loop hands each frame to, with its reading.

    Args:
        aside: The full model; ended by this shadow.
        opener: Starts it again.
        name: Name of its file.
        preprocessing: What turns a frame into its input.
        floor: Agreement below which there is an alarm, 0-1.
        scene_s: Seconds that count as one scene, of which one picture is shown; None for what suits frames and slots.
        cpu_share: How much of one core's time the full model may take, 0-1.
        listener: Who is told, in the loop's thread.
        reporter: Told when the full model ends.
    """

    def __init__(
        self,
        aside: Aside,
        opener: Callable[[], Aside],
        *,
        name: str,
        preprocessing: Preprocessing,
        floor: float,
        scene_s: float | None,
        cpu_share: float,
        listener: ShadowListener,
        reporter: Reporter,
    ) -> None:
        self._aside, self._opener, self._name, self._preprocessing = aside, opener, name, preprocessing
        self._turns, self._cpu_share = Turns(scene_s), cpu_share
        self._listener, self._reporter = listener, reporter
        self._alarm = AgreementAlarm(floor)
        self._agreed = self._looks = self._restarts = 0
        self._problem: str | None = None
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self._started_s, self._cpu_s = time.monotonic(), aside.cpu_s
        self._told_s = -float("inf")
        self._told: LiveAgreement | None = None
        self._answers: deque[bool] = deque()
        self._worker: Worker[Question] = Worker("shadow", self._ask, capacity=1, drain_s=0.0)

    def write(self, frame: Frame, reading: Reading) -> None:
        """Takes the answers that came, and shows this frame where the full model is free and the last scene over."""
        self._attend()
        if self._worker.is_idle:
            self._offer(frame, reading)
            self._show()

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Takes the answers that came, and shows a slot where the full model is free and the slot's last scene over."""
        self._attend()
        for image, slot_reading in reading.classified_slots(frame):
            self._offer(image, slot_reading)
        self._show()

    def close(self) -> None:
        """Ends the full model; an answer that it still owes is not waited for."""
        self._worker.start_to_close()
        self._aside.end()
        self._worker.finish()
        self._take_answers()

    def agreement(self) -> LiveAgreement:
        """What it has come to so far; any thread may ask."""
        return LiveAgreement(
            model=self._name,
            agreed=self._agreed,
            looks=self._looks,
            floor=self._alarm.threshold,
            alarm=self._alarm.raised,
            restarts=self._restarts,
            problem=self._problem,
            cpu_s=self._cpu_s,
        )

    def _attend(self) -> None:
        self._worker.raise_failure()
        was_raised = self._alarm.raised
        self._take_answers()
        self._tell(at_once=self._alarm.raised and not was_raised)

    def _offer(self, frame: Frame, reading: Reading) -> None:
        if reading.class_id is not None:
            self._turns.offer(Question(frame, reading.class_id), at_s=time.monotonic())

    def _show(self) -> None:
        if self._worker.is_idle and (question := self._turns.next(at_s=time.monotonic())):
            self._worker.put(question)

    def _take_answers(self) -> None:
        while self._answers:
            agrees = self._answers.popleft()
            self._looks += 1
            self._agreed += agrees
            self._alarm.look(agrees)

    def _tell(self, *, at_once: bool) -> None:
        now_s, now, told = time.monotonic(), self.agreement(), self._told
        is_news = told is None or (now.restarts, now.problem) != (told.restarts, told.problem)
        is_due = now_s - self._told_s >= TELL_EVERY_S and told is not None and now.looks > told.looks
        if (now.looks or now.problem) and (at_once or is_news or is_due):
            self._told, self._told_s = now, now_s
            self._listener.agreement(now)
        if at_once:
            self._listener.alarm("agreement", self._said_of_alarm(now))

    def _said_of_alarm(self, now: LiveAgreement) -> str:
        return (
            f"the model agrees with {now.model} on {now.agreed} of {now.looks} scenes, and no longer on "
            f"{100 * now.floor:.1f} % of them: keep frames with --sample, and ask edgebcnn audit what has changed"
        )

    def _ask(self, question: Question) -> None:
        began_s, own_cpu_s = time.monotonic(), time.thread_time()
        try:
            answer = self._aside.ask(self._preprocessing.apply(question.frame.image_bgr))
        except EdgebcnnError as error:
            self._restart(str(error))
            return
        self._answers.append(answer.class_id == question.class_id)
        self._rest(answer.cpu_s + time.thread_time() - own_cpu_s, began_s)

    def _rest(self, cpu_s: float, since_s: float) -> None:
        self._cpu_s += cpu_s
        self._worker.pause(max(0.0, cpu_s / self._cpu_share - (time.monotonic() - since_s)))

    def _start(self) -> None:
        self._aside = self._opener()
        self._started_s = time.monotonic()
        self._cpu_s += self._aside.cpu_s

    def _restart(self, problem: str) -> None:
        """Starts it again, ever more slowly where it ends again and again."""
        if self._worker.is_stopping:
            return
        self._problem = problem
        self._reporter.say(f"shadow: {problem}; the loop goes on, and it is started again")
        self._aside.end()
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
            self._worker.pause(self._aside.cpu_s / self._cpu_share)
            break
        if self._worker.is_stopping:
            self._aside.end()


def full_model(bundle: Bundle, given: Path | None = None) -> Path:
    """The full model's file: what `export --with-full` put into the bundle, or a file of the user's.

    Raises:
        BundleError: the bundle has none; or the file is not there, does not say which products it knows, or knows
            others than the bundle.
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
    """How often a model file agreed with the full model on held-out photos, or else on the typical golden photos.

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
            f"{model} does not say which products it knows: give the file that edgebcnn export --with-full wrote"
        ) from error
    known = [label.name for label in labels]
    if names != known:
        differ = sorted({*names} ^ {*known}) or ["their order"]
        raise BundleError(
            f"{model} knows other products than the bundle ({differ[0]}, for one): "
            "give the full model of the run that the bundle was exported from"
        )
