"""The full model is shown frames beside the loop, which never waits for it; agreement is what it says of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from numpy.typing import NDArray

from edgebcnn.atomic import json_bytes
from edgebcnn.bundle import REPORT_NAME, Bundle, Label
from edgebcnn.errors import BundleError, DeviceError
from edgebcnn.monitor.background import BackgroundModel
from edgebcnn.monitor.shadow import LiveAgreement, Shadow, agreement_at_export, full_model
from edgebcnn.monitor.shadow_turns import SceneImage, SceneQueue
from edgebcnn.progress import Silent
from edgebcnn.quantize.tflite.metadata import with_metadata
from edgebcnn.report.sequential import confidence_sequence
from edgebcnn.shelf.watch import SeenSlot
from edgebcnn.sources.frames import Frame
from tests.broker import wait_until
from tests.readings import reading, shelf_reading
from tests.tiny_bundle import COLOURS_BGR, LABELS, coloured, make_tiny_bundle, tiny_model

NAMES = list(COLOURS_BGR)
PATIENCE_S = 60.0  # what runs where nothing else wants to comes late on a busy machine


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny") / "bundle", ["float32"])


@pytest.fixture(scope="module")
def full(bundle: Bundle) -> Path:
    """A model file that says which products it knows."""
    preprocessing = bundle.manifest.preprocessing
    path = bundle.path.with_name("full.tflite")
    path.write_bytes(with_metadata(tiny_model("float32"), name="tiny", labels=LABELS, preprocessing=preprocessing))
    return path


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.agreements: list[LiveAgreement] = []
        self.alarms: list[tuple[str, str]] = []
        self.said: list[str] = []

    def agreement(self, agreement: LiveAgreement) -> None:
        self.agreements.append(agreement)

    def alarm(self, about: str, problem: str) -> None:
        self.alarms.append((about, problem))

    def say(self, sentence: str) -> None:
        self.said.append(sentence)


class Shop:
    """A shadow, what it told, and its processes."""

    def __init__(self, bundle: Bundle, full: Path, *, scene_s: float | None, cpu_share: float) -> None:
        self.told = Told()
        self.processes: list[BackgroundModel] = []
        preprocessing = bundle.manifest.preprocessing

        def opener() -> BackgroundModel:
            self.processes.append(BackgroundModel(full, preprocessing=preprocessing, classes=len(LABELS)))
            return self.processes[-1]

        self.shadow = Shadow(
            opener(),
            opener,
            name=full.name,
            preprocessing=preprocessing,
            floor=0.9,
            scene_s=scene_s,
            cpu_share=cpu_share,
            listener=self.told,
            reporter=self.told,
        )
        self._rng = np.random.default_rng(5)

    def show(self, said: str, *, shown: str = "", photo: str | None = None) -> None:
        """One frame of `shown`, which the loop calls `said`."""
        frame = Frame(0, coloured(shown or said, self._rng), time.monotonic(), photo=photo)
        self.shadow.write(frame, reading(class_id=NAMES.index(said)))

    def show_slots(self, *, shown: Mapping[str, str] = MappingProxyType({}), **said: str) -> None:
        """One frame of slots, in each of which the loop says to see one product, and another is `shown` perhaps."""
        seen = [
            SeenSlot("Top", slot, coloured(shown.get(slot, name), self._rng), _sure_of(name), LABELS)
            for slot, name in said.items()
        ]
        self.shadow.write_shelf(*shelf_reading(seen))

    def show_slots_until(
        self, reached: Callable[[], bool], *, shown: Mapping[str, str] = MappingProxyType({}), **said: str
    ) -> None:
        def is_reached() -> bool:
            self.show_slots(shown=shown, **said)
            return reached()

        wait_until(is_reached, timeout_s=PATIENCE_S)

    def show_until(self, reached: Callable[[], bool], said: str, shown: str = "") -> None:
        def is_reached() -> bool:
            self.show(said, shown=shown)
            return reached()

        wait_until(is_reached, timeout_s=PATIENCE_S)


def _sure_of(name: str) -> NDArray[np.float32]:
    return np.asarray(np.eye(len(NAMES))[NAMES.index(name)], np.float32)


@pytest.fixture
def opened(bundle: Bundle, full: Path) -> Callable[..., AbstractContextManager[Shop]]:
    @contextmanager
    def opened(*, scene_s: float | None = 0.0, cpu_share: float = 1.0) -> Iterator[Shop]:
        shop = Shop(bundle, full, scene_s=scene_s, cpu_share=cpu_share)
        try:
            yield shop
        finally:
            shop.shadow.close()
            assert all(process._process.returncode is not None for process in shop.processes)

    return opened


def test_agreement_is_how_often_both_models_say_the_same(opened: Callable[..., AbstractContextManager[Shop]]) -> None:
    with opened() as shop:
        for number, name in enumerate(NAMES, start=1):
            shop.show_until(lambda wanted=2 * number: shop.shadow.agreement().scenes >= wanted, name)  # type: ignore[misc]
        now = shop.shadow.agreement()
        assert now.agreed == now.scenes >= 8
        assert now.interval == confidence_sequence(now.agreed, now.scenes)
        assert now.cpu_s > 0
        assert shop.told.agreements[0].scenes == 1, "the first answer is told at once, the others each minute"
        assert len(shop.told.agreements) == 1
        assert str(now).startswith("agreement 100.0 % with full.tflite (at any time 95 % CI ")


def test_a_fall_raises_one_alarm(
    opened: Callable[..., AbstractContextManager[Shop]],
) -> None:
    with opened() as shop:
        shop.show_until(lambda: bool(shop.told.alarms), "Red", "Blue")
        at_alarm = shop.shadow.agreement()
        shop.show_until(lambda: shop.shadow.agreement().scenes > at_alarm.scenes + 2, "Red", "Blue")
        ((about, problem),) = shop.told.alarms
        assert about == "agreement"
        assert f"agrees with full.tflite on 0 of {at_alarm.scenes} scenes, and no longer on 90.0 % of them" in problem
        assert shop.told.agreements[-1].alarm
        assert shop.shadow.agreement().as_json()["alarm"] is True


def test_a_process_that_is_killed_is_started_again_and_told(
    opened: Callable[..., AbstractContextManager[Shop]],
) -> None:
    with opened() as shop:
        shop.show_until(lambda: shop.shadow.agreement().scenes >= 1, "Green")
        os.kill(shop.processes[0]._process.pid, signal.SIGKILL)
        shop.show_until(lambda: shop.shadow.agreement().problem is not None, "Green")
        assert "the process of full.tflite ended by SIGKILL" in str(shop.shadow.agreement())
        shop.show_until(lambda: shop.shadow.agreement().restarts == 1, "Green")
        looks = shop.shadow.agreement().scenes
        shop.show_until(lambda: shop.shadow.agreement().scenes > looks, "Green")
        assert shop.told.said == [
            "shadow: the process of full.tflite ended by SIGKILL; the run continues, and the full model is restarted"
        ]
        assert [told.problem is None for told in shop.told.agreements] == [True, False, True]


def test_a_process_that_stands_still_holds_up_no_frame(opened: Callable[..., AbstractContextManager[Shop]]) -> None:
    with opened() as shop:
        os.kill(shop.processes[0]._process.pid, signal.SIGSTOP)
        for _ in range(200):
            shop.show("Red")
        assert shop.shadow.agreement().scenes == 0
        assert len(shop.shadow._worker) == 0, "one frame is on its way, and none waits behind it"
        os.kill(shop.processes[0]._process.pid, signal.SIGCONT)
        shop.show_until(lambda: shop.shadow.agreement().scenes >= 1, "Red")


def test_one_frame_of_a_scene_is_shown_and_every_photo(opened: Callable[..., AbstractContextManager[Shop]]) -> None:
    with opened(scene_s=3600) as shop:
        shop.show_until(lambda: shop.shadow.agreement().scenes == 1, "Grey")
        wait_until(lambda: shop.shadow._worker.is_idle, PATIENCE_S)
        for _ in range(20):
            shop.show("Grey")
        assert shop.shadow._worker.is_idle
        for number in range(3):
            wait_until(lambda: shop.shadow._worker.is_idle, PATIENCE_S)
            shop.show("Grey", photo=f"{number}.png")
        wait_until(lambda: shop.shadow._worker.is_idle, PATIENCE_S)
        shop.show("Grey")
        assert shop.shadow.agreement().scenes == 4


def test_the_full_model_rests_until_its_budget_allows_the_next(
    opened: Callable[..., AbstractContextManager[Shop]],
) -> None:
    with opened(cpu_share=1e-6) as shop:
        shop.show_until(lambda: shop.shadow.agreement().scenes == 1, "Grey")
        until_s = time.monotonic() + 0.3
        while time.monotonic() < until_s:
            shop.show("Grey")
        assert shop.shadow.agreement().scenes == 1


def test_a_frame_without_a_product_is_not_shown(opened: Callable[..., AbstractContextManager[Shop]]) -> None:
    with opened() as shop:
        frame = Frame(0, np.zeros((48, 64, 3), np.uint8), time.monotonic())
        shop.shadow.write(frame, reading(class_id=None, label=None, score=None, reason="black"))
        assert shop.shadow._worker.is_idle
        now = shop.shadow.agreement()
        assert (now.value, now.interval) == (None, (0.0, 1.0))
        assert str(now) == "no result of full.tflite yet"


def test_each_slot_is_shown_once_a_scene_however_often_it_is_classified(
    opened: Callable[..., AbstractContextManager[Shop]],
) -> None:
    """The loop takes the blue pack in A2 for a red one."""
    with opened(scene_s=None) as shop:
        shop.show_slots_until(lambda: shop.shadow.agreement().scenes == 2, A1="Green", A2="Red", shown={"A2": "Blue"})
        assert shop.shadow.agreement().agreed == 1
        wait_until(lambda: shop.shadow._worker.is_idle, PATIENCE_S)
        for _ in range(50):
            shop.show_slots(A1="Green", A2="Red")
        assert shop.shadow._worker.is_idle, "an hour is one scene of a slot"
        shop.show_slots_until(lambda: shop.shadow.agreement().scenes == 3, A3="Grey")
        assert shop.shadow.agreement().agreed == 2


def test_answers_about_slots_are_told_while_no_slot_is_classified(
    opened: Callable[..., AbstractContextManager[Shop]],
) -> None:
    with opened() as shop:
        shop.show_slots(A1="Green")
        shop.show_slots_until(lambda: bool(shop.told.agreements))
        assert shop.told.agreements[0].scenes == 1


def asked_about(slot: str, number: int = 0) -> SceneImage:
    return SceneImage(Frame(number, np.zeros((8, 8, 3), np.uint8), 0.0, shelf="Top", slot=slot), 0)


def slots_shown(*, calm_every_s: int) -> Counter[str | None]:
    """How often three slots are shown in ten minutes to a full model that is free every seven seconds.

    The first of them is classified in each second, the two calm ones every `calm_every_s`.
    """
    turns, shown = SceneQueue(scene_s=0), Counter[str | None]()
    for second in range(1, 601):
        for slot in ("A1", "A2", "A3") if second % calm_every_s == 1 % calm_every_s else ["A1"]:
            turns.offer(asked_about(slot), at_s=float(second))
        if second % 7 == 0 and (question := turns.next(at_s=float(second))):
            shown[question.frame.slot] += 1
    return shown


def test_a_slot_that_changes_all_the_time_does_not_keep_its_calm_neighbours_from_being_shown() -> None:
    assert slots_shown(calm_every_s=60) == {"A1": 600 // 7 - 20, "A2": 10, "A3": 10}, "each time that they can be"
    assert set(slots_shown(calm_every_s=1).values()) == {28, 29}, "in turn, where all change all the time"


def test_a_slot_that_waits_is_shown_as_it_was_classified_last_and_not_twice() -> None:
    turns = SceneQueue(scene_s=10)
    older, newer = asked_about("A1", 1), asked_about("A1", 2)
    turns.offer(older, at_s=0.0)
    turns.offer(newer, at_s=1.0)
    assert turns.next(at_s=2.0) is newer
    turns.offer(older, at_s=11.9)
    assert turns.next(at_s=11.9) is None, "its scene is not over"


@pytest.mark.skipif(sys.platform != "linux", reason="idle scheduling is Linux's own")
def test_the_process_steps_back_and_ends_when_nobody_asks_any_more(bundle: Bundle, full: Path) -> None:
    aside = BackgroundModel(full, preprocessing=bundle.manifest.preprocessing, classes=len(LABELS))
    pid = aside._process.pid
    assert os.sched_getscheduler(pid) == os.SCHED_IDLE
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    assert aside._process.stdin is not None
    aside._process.stdin.close()
    assert aside._process.wait(20) == 0


def test_a_model_of_another_size_is_refused_before_the_loop_begins(bundle: Bundle, full: Path) -> None:
    larger = bundle.manifest.preprocessing.model_copy(update={"height_px": 64})
    with pytest.raises(BundleError, match=r"full\.tflite turns \(1, 32, 32, 3\) into \(1, 4\) and the bundle"):
        BackgroundModel(full, preprocessing=larger, classes=len(LABELS))


def test_a_file_that_is_no_model_is_refused_before_the_loop_begins(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "text.tflite").write_text("no model")
    with pytest.raises(DeviceError, match=r"cannot load .*text\.tflite"):
        BackgroundModel(tmp_path / "text.tflite", preprocessing=bundle.manifest.preprocessing, classes=len(LABELS))


def test_the_full_model_must_know_the_bundles_products(bundle: Bundle, full: Path, tmp_path: Path) -> None:
    assert full_model(bundle, full) == full
    other = [*LABELS[:3], Label(name="White")]
    preprocessing = bundle.manifest.preprocessing
    (tmp_path / "other.tflite").write_bytes(
        with_metadata(tiny_model("float32"), name="other", labels=other, preprocessing=preprocessing)
    )
    (tmp_path / "cut.tflite").write_bytes(full.read_bytes()[:-100])
    sentences = {
        None: "holds no full model: export it again with --with-full, or give --shadow a .tflite file",
        tmp_path / "gone.tflite": r"gone\.tflite cannot be read \(No such file or directory\)",
        tmp_path / "cut.tflite": r"cut\.tflite does not name its products",
        bundle.model_path("float32"): r"model\.float32\.tflite does not name its products",
        tmp_path / "other.tflite": r"other\.tflite has other products than the bundle \(Grey, for one\)",
    }
    for given, sentence in sentences.items():
        with pytest.raises(BundleError, match=sentence):
            full_model(bundle, given)


def test_the_agreement_of_the_export_is_what_live_agreement_is_held_to(bundle: Bundle, tmp_path: Path) -> None:
    assert agreement_at_export(bundle, "float32").n == 12, "of the golden photos, where there is no report"
    pairs = [
        {"first": "edge", "second": "compact", "agreement": {"successes": 99, "n": 100}},
        {"first": "edge", "second": "full", "agreement": {"successes": 92, "n": 100}},
    ]
    (tmp_path / REPORT_NAME).parent.mkdir(parents=True)
    (tmp_path / REPORT_NAME).write_bytes(json_bytes({"models": {"float32": {"pairs": pairs}}}))
    reported = Bundle(tmp_path, bundle.manifest, bundle.labels, bundle.digest)
    assert agreement_at_export(reported, "float32").successes == 92
