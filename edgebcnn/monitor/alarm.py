"""Publishes what monitoring finds as events, and raises the alarm when the model got worse."""

from __future__ import annotations

from typing import Any

from edgebcnn.errors import AlarmError
from edgebcnn.loop.reading import utc
from edgebcnn.monitor.golden import GoldenResult
from edgebcnn.monitor.shadow import LiveAgreement
from edgebcnn.progress import Reporter
from edgebcnn.sinks.event import AgreementEvent, AlarmEvent, GoldenEvent
from edgebcnn.sinks.fan_out import EventSinks


class HealthEvents:
    """Makes events of what is found, in the loop's thread.

    Args:
        sinks: Where events go.
        source: Name of the source.
        reporter: Told of alarms, for who reads neither events nor the terminal's lines.
        stops: Whether an alarm ends the run.
    """

    def __init__(self, sinks: EventSinks, *, source: str, reporter: Reporter, stops: bool) -> None:
        self._sinks, self._source, self._reporter, self._stops = sinks, source, reporter, stops

    def golden(self, result: GoldenResult) -> None:
        """Tells what a replay of the golden photos found."""
        at_export = result.at_export.as_json()
        event = self._sinks.stamp(
            GoldenEvent,
            **self._here_and_now(),
            passed=result.problem is None,
            problem=result.problem,
            **{name: at_export[name] for name in ("photos", "same_top1", "most_steps", "typical_steps", "far")},
            n=result.accuracy.n,
            **{f"accuracy{end}": figure for end, figure in _ends(result.accuracy.as_json())},
            **{f"agreement{end}": figure for end, figure in _ends(result.agreement.as_json())},
            took_s=round(result.took_s, 3),
        )
        self._sinks.publish(event)

    def agreement(self, agreement: LiveAgreement) -> None:
        """Tells what the full model beside the loop has said so far."""
        figures = agreement.as_json()
        share = figures.pop("agreement")
        del figures["cpu_s"]
        ends = {f"agreement{end}": figure for end, figure in _ends(share)}
        self._sinks.publish(self._sinks.stamp(AgreementEvent, **self._here_and_now(), **figures, n=share["n"], **ends))

    def alarm(self, about: str, problem: str) -> None:
        """Tells of an alarm.

        Raises:
            AlarmError: an alarm ends the run.
        """
        stamp = self._sinks.stamp
        self._sinks.publish(stamp(AlarmEvent, **self._here_and_now(), about=about, problem=problem, stops=self._stops))
        if self._stops:
            raise AlarmError(f"{problem}; --on-alarm stop ended the run")
        self._reporter.say(f"ALARM: {problem}")

    def _here_and_now(self) -> dict[str, str]:
        return {"time": utc(0), "source": self._source}


def _ends(share: dict[str, Any]) -> list[tuple[str, float | None]]:
    """Value, lower and upper end, by what their names end with."""
    figures = (("", share["value"]), ("_low", share["low"]), ("_high", share["high"]))
    return [(end, None if figure is None else round(figure, 6)) for end, figure in figures]
