"""Publishes the results of monitoring as events, and raises alarms when the model got worse."""

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
    """Publishes results and alarms as events, in the loop's thread.

    Args:
        sinks: Where events go.
        source: Name of the source.
        reporter: Reports alarms to people who watch neither the events nor the lines at the terminal.
        stops: Whether an alarm ends the run.
    """

    def __init__(self, sinks: EventSinks, *, source: str, reporter: Reporter, stops: bool) -> None:
        self._sinks, self._source, self._reporter, self._stops = sinks, source, reporter, stops

    def golden(self, result: GoldenResult) -> None:
        """Publishes the result of a replay of the golden photos."""
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
        """Publishes the agreement with the full model so far."""
        figures = agreement.as_json()
        share = figures.pop("agreement")
        del figures["cpu_s"]
        ends = {f"agreement{end}": figure for end, figure in _ends(share)}
        self._sinks.publish(self._sinks.stamp(AgreementEvent, **self._here_and_now(), **figures, n=share["n"], **ends))

    def alarm(self, about: str, problem: str) -> None:
        """Publishes an alarm.

        Raises:
            AlarmError: an alarm ends the run.
        """
        stamp = self._sinks.stamp
        self._sinks.publish(stamp(AlarmEvent, **self._here_and_now(), about=about, problem=problem, stops=self._stops))
        if self._stops:
            raise AlarmError(f"{problem}; monitoring.on_alarm = 'stop' ended the run")
        self._reporter.say(f"ALARM: {problem}")

    def _here_and_now(self) -> dict[str, str]:
        return {"time": utc(0), "source": self._source}


def _ends(share: dict[str, Any]) -> list[tuple[str, float | None]]:
    """Returns value, lower and upper end, by the ends of their names."""
    figures = (("", share["value"]), ("_low", share["low"]), ("_high", share["high"]))
    return [(end, None if figure is None else round(figure, 6)) for end, figure in figures]
