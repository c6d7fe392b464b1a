"""Opens the monitoring of a run: golden photos, the full model in the background, and alarms."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from edgebcnn.bundle import Bundle
from edgebcnn.device.classifier import Classifier
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.selftest import GoldenFile
from edgebcnn.loop.supervise import Watchdog
from edgebcnn.monitor.alarm import HealthEvents
from edgebcnn.monitor.background import BackgroundModel
from edgebcnn.monitor.golden import GoldenReplay
from edgebcnn.monitor.shadow import Shadow, agreement_at_export, full_model
from edgebcnn.progress import Reporter
from edgebcnn.report.agreement import Proportion
from edgebcnn.report.sequential import SequentialShare
from edgebcnn.sinks.fan_out import EventSinks
from edgebcnn.sources.frames import Source

HOUR_S = 3600.0
GOLDEN_EVERY_H = 6.0  # a few seconds a day, and a delegate that goes wrong is known the same day

LOWEST_FLOOR = 0.01  # an export that agreed with the full model on no photo promises nothing


@dataclass(frozen=True)
class HealthChoices:
    """Flags of `edgebcnn run` about monitoring, as given.

    Attributes:
        golden_every: Hours from one replay of the golden photos to the next; 0 for never, None for `GOLDEN_EVERY_H`
            of a live source and never of a file.
        on_alarm: Whether an alarm is only reported, or also stops the run.
        shadow: The full model's file; empty for the bundle's own, None for no shadow.
        shadow_cpu: Share of one core's time that it may take.
        shadow_scene: Seconds that count as one scene; None for the defaults of frames and slots.
        alarm_below: Agreement below which an alarm is raised, 0-1; None for the lower end of the export's interval.
    """

    golden_every: float | None = None
    on_alarm: Literal["report", "stop"] = "report"
    shadow: str | None = None
    shadow_cpu: float = 0.25
    shadow_scene: float | None = None
    alarm_below: float | None = None


@dataclass(frozen=True)
class Health:
    """The monitoring of one run.

    Attributes:
        replay: Replays the golden photos; None for never.
        shadow: The full model in the background; None for none.
    """

    replay: GoldenReplay | None
    shadow: Shadow | None

    def agreements(self) -> dict[str, Proportion | SequentialShare]:
        """Returns how often the model agreed with the full model, by where; safe to call from any thread."""
        newest, live = self.replay and self.replay.newest, self.shadow and self.shadow.agreement()
        found: dict[str, Proportion | SequentialShare] = {"golden photos": newest.agreement} if newest else {}
        return found | ({"this run": live.share} if live and live.share else {})

    def as_json(self) -> dict[str, Any]:
        """Returns the figures so far of each part that is open."""
        found = {"golden": self.replay, "shadow": self.shadow and self.shadow.agreement()}
        return {name: each.as_json() for name, each in found.items() if each}

    def __str__(self) -> str:
        """One line per part that is open."""
        found = {"golden": self.replay, "shadow": self.shadow and self.shadow.agreement()}
        return "\n".join(f"{name:<10}{each}" for name, each in found.items() if each)


def open_health(
    choices: HealthChoices,
    bundle: Bundle,
    *,
    classifier: Classifier,
    profile: DeviceProfile,
    source: Source,
    sinks: EventSinks,
    watchdog: Watchdog,
    reporter: Reporter,
) -> Health:
    """Opens the monitoring that was requested; where that fails, `sinks` are closed too.

    Raises:
        BundleError: there are no golden photos, no full model, or one of other products.
        DeviceError: the full model cannot be started.
    """
    events = HealthEvents(sinks, source=source.name, reporter=reporter, stops=choices.on_alarm == "stop")
    precision = classifier.receipt.precision
    every_h = choices.golden_every
    if every_h is None:
        every_h = GOLDEN_EVERY_H if source.is_live else 0.0
    replay = shadow = None
    with ExitStack() as opened:
        opened.callback(sinks.close)
        if every_h:
            golden = GoldenFile(bundle, precision)
            opened.callback(golden.close)
            replay = GoldenReplay(
                classifier,
                profile,
                golden,
                every_s=every_h * HOUR_S,
                listener=events,
                watchdog=watchdog,
                may_wait=not source.is_live,
            )
        if choices.shadow is not None:
            floor = choices.alarm_below or agreement_at_export(bundle, precision).low
            shadow = _shadow(choices, bundle, floor, events, watchdog, reporter)
        opened.pop_all()
    return Health(replay, shadow)


def _shadow(
    choices: HealthChoices, bundle: Bundle, floor: float, events: HealthEvents, watchdog: Watchdog, reporter: Reporter
) -> Shadow:
    model = full_model(bundle, Path(choices.shadow) if choices.shadow else None)
    preprocessing = bundle.manifest.preprocessing
    start = partial(BackgroundModel, model, preprocessing=preprocessing, classes=len(bundle.labels))
    return Shadow(
        start(waiting=lambda: watchdog.enter("start")),
        start,
        name=model.name,
        preprocessing=preprocessing,
        floor=max(floor, LOWEST_FLOOR),
        scene_s=choices.shadow_scene,
        cpu_share=choices.shadow_cpu,
        listener=events,
        reporter=reporter,
    )
