"""Serves counts and times of this run to Prometheus, at `/metrics` on a port of its own."""

from __future__ import annotations

import ipaddress
import math
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from edgebcnn.errors import MissingExtraError, SinkError
from edgebcnn.shelf.watch import SlotState
from edgebcnn.sinks.event import AgreementEvent, AlarmEvent, Event, GoldenEvent, ReadingEvent, SlotEvent
from edgebcnn.sinks.listener import BoundedListener, Limits
from edgebcnn.sinks.outlet import Counts, EventSink
from edgebcnn.worker import Deadline

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

# From a small model on a fast machine to a frame that is of no use any more.
SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


LIMITS = Limits(connections=32, per_address=16)  # a thread each; Prometheus keeps none open between scrapes


class MetricsSink(EventSink):
    """Counts events for Prometheus.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 for any that is free.

    Attributes:
        port: On which it listens.

    Raises:
        MissingExtraError: prometheus-client is not installed.
        SinkError: the port is taken or not allowed; raised before the loop starts.
    """

    name = "metrics"

    def __init__(self, host: str, port: int) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
        except ModuleNotFoundError as error:
            raise MissingExtraError("edgebcnn run --metrics", "metrics") from error
        self._registry = CollectorRegistry()
        self._events = Counter("edgebcnn_events", "Events.", ["kind"], registry=self._registry)
        self._newest = Gauge(
            "edgebcnn_event_timestamp_seconds", "Time of the newest.", ["kind"], registry=self._registry
        )
        self._readings = Counter("edgebcnn_readings", "Readings by product.", ["product"], registry=self._registry)
        self._refused = Counter("edgebcnn_no_reading", "Skipped frames by reason.", ["reason"], registry=self._registry)
        self._latency = Histogram(
            *("edgebcnn_latency_seconds", "Preprocessing and inference."), buckets=SECONDS, registry=self._registry
        )
        self._age = Histogram(
            *("edgebcnn_age_seconds", "From a frame's arrival to the end of its classification."),
            buckets=SECONDS,
            registry=self._registry,
        )
        slot, shelf = ("shelf", "slot", "state"), ("shelf",)
        self._slots = Gauge("edgebcnn_slot_state", "1 for the state of a slot.", slot, registry=self._registry)
        self._compliance = Gauge("edgebcnn_shelf_compliance", "Share of slots.", shelf, registry=self._registry)
        self._health = _Health(self._registry)
        try:
            self._server = _Server(host, port, make_wsgi_app(self._registry))
        except (OSError, OverflowError) as error:
            reason = (error.strerror or str(error)).lower() if isinstance(error, OSError) else "there is no such port"
            raise SinkError(f"--metrics cannot listen on {host}:{port} ({reason}): give another port") from error
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="metrics server", daemon=True).start()

    @property
    def warning(self) -> str | None:
        """A note for the user about the address; None where only this machine can read the figures."""
        host = str(self._server.socket.getsockname()[0])
        if ipaddress.ip_address(host).is_loopback:
            return None
        return (
            f"--metrics has no login: whoever reaches port {self.port} reads product names, counts and states; "
            "let only your Prometheus reach it, by a firewall or a proxy with a login"
        )

    def watch(self, counts: Callable[[], Iterable[Counts]]) -> None:
        """Exposes the delivery counts of each sink, read at each scrape."""
        self._registry.register(_SinkCounts(counts))

    def write(self, event: Event) -> None:
        """Counts the event."""
        self._events.labels(event.kind).inc()
        self._newest.labels(event.kind).set(datetime.fromisoformat(event.time.replace("Z", "+00:00")).timestamp())
        self._health.write(event)
        if isinstance(event, SlotEvent):
            for state in SlotState:
                self._slots.labels(event.shelf, event.slot, state.value).set(state.value == event.state)
            self._compliance.labels(event.shelf).set(math.nan if event.compliance is None else event.compliance)
        if isinstance(event, ReadingEvent):
            if event.label is None:
                self._refused.labels(event.reason or "unknown").inc()
            else:
                self._readings.labels(event.label).inc()
            if event.latency_ms is not None:
                self._latency.observe(event.latency_ms / 1000)
            self._age.observe(event.age_ms / 1000)

    def close(self, deadline: Deadline) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    """Serves each scrape in a thread, within limits and without output on stderr."""

    daemon_threads = True
    request_queue_size = 128  # what a flood fills while one connection after another is turned away

    def __init__(self, host: str, port: int, app: Callable[..., Iterable[bytes]]) -> None:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family = found[0][0]
        super().__init__((str(found[0][4][0]), port), _Handler)
        self.socket = BoundedListener(self.socket, LIMITS)
        self.set_app(app)

    def server_bind(self) -> None:
        """Binds without a DNS lookup of this machine's name, which may take half a minute."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: object, client_address: object) -> None:
        """Logs nothing: a client that disconnects during a response is no error of the run."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Logs neither requests nor malformed requests."""


class _Health:
    """Quality of the model. Unknown values are NaN, which triggers no alert."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Gauge

        def gauge(name: str, help_text: str) -> Gauge:
            made = Gauge(f"edgebcnn_{name}", help_text, registry=registry)
            made.set(math.nan)
            return made

        self._golden_passed = gauge("golden_passed", "1 if the golden photos match the export, else 0.")
        self._golden_accuracy = gauge("golden_accuracy", "Accuracy on the golden photos.")
        self._golden_agreement = gauge("golden_agreement", "Agreement with the full model on the golden photos.")
        self._golden_steps = gauge("golden_steps", "Largest change of a probability since export, in 1/256.")
        self._agreement = gauge("agreement", "Agreement with the full model on the scenes so far.")
        self._agreement_low = gauge("agreement_low", "Lower end of its interval, which holds at all times at once.")
        self._agreement_high = gauge("agreement_high", "Upper end.")
        self._scenes = gauge("agreement_scenes", "Scenes that the full model classified.")
        self._alarms = Counter("edgebcnn_alarms", "Alarms.", ["about"], registry=registry)
        for about in ("golden", "agreement"):
            self._alarms.labels(about)

    def write(self, event: Event) -> None:
        """Takes over the figures of an event about monitoring."""
        if isinstance(event, GoldenEvent):
            self._golden_passed.set(event.passed)
            self._golden_accuracy.set(event.accuracy)
            self._golden_agreement.set(event.agreement)
            self._golden_steps.set(math.nan if event.most_steps is None else event.most_steps)
        elif isinstance(event, AgreementEvent):
            self._agreement.set(math.nan if event.agreement is None else event.agreement)
            self._agreement_low.set(event.agreement_low)
            self._agreement_high.set(event.agreement_high)
            self._scenes.set(event.n)
        elif isinstance(event, AlarmEvent):
            self._alarms.labels(event.about).inc()


class _SinkCounts:
    """Collects the counts of the sinks on each scrape."""

    def __init__(self, counts: Callable[[], Iterable[Counts]]) -> None:
        self._counts = counts

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """Yields the events of each sink by fate, and those that wait."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        fates = CounterMetricFamily("edgebcnn_sink_events", "What became of events.", labels=["sink", "fate"])
        waiting = GaugeMetricFamily("edgebcnn_sink_waiting", "Events that wait to be delivered.", labels=["sink"])
        for counts in self._counts():
            fates.add_metric([counts.sink, "delivered"], counts.delivered)
            fates.add_metric([counts.sink, "dropped"], counts.dropped)
            fates.add_metric([counts.sink, "refused"], counts.refused)
            waiting.add_metric([counts.sink], counts.waiting)
        yield fates
        yield waiting
