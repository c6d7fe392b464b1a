"""Opens the sinks that a run was configured with, before its loop starts, so that errors show at once."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TextIO

from edgebcnn.progress import Reporter
from edgebcnn.sinks.address import listening_at, parsed_address, secret_from
from edgebcnn.sinks.backlog import Backlog
from edgebcnn.sinks.event import Stamp
from edgebcnn.sinks.fan_out import EventSinks
from edgebcnn.sinks.files import CsvSink, JsonLinesSink, Rotation
from edgebcnn.sinks.metrics import MetricsSink
from edgebcnn.sinks.mqtt.discovery import READING_ENTITIES, Entity, slot_entities
from edgebcnn.sinks.mqtt.transport import PORTS as MQTT_PORTS
from edgebcnn.sinks.mqtt.transport import MqttTransport
from edgebcnn.sinks.outlet import EventSink, Outlet
from edgebcnn.sinks.remote import RemoteSink, Transport
from edgebcnn.sinks.terminal import TerminalSink
from edgebcnn.sinks.webhook import PORTS as WEBHOOK_PORTS
from edgebcnn.sinks.webhook import WebhookTransport
from edgebcnn.worker import WhenFull

MB = 1_000_000


@dataclass(frozen=True)
class SinkChoices:
    """Choices of `edgebcnn run` about its sinks; `docs/events.md` describes each sink.

    Attributes:
        jsonl: File for JSON lines.
        csv: File for rows.
        rotate_mb: Size at which both are rotated; never where None.
        rotate_keep: Number of rotated files to keep.
        mqtt: Address of a broker.
        mqtt_password_file: Its password.
        mqtt_discovery: Prefix of Home Assistant's discovery topics; empty to turn discovery off.
        webhook: Address for POST requests.
        webhook_token_file: Its bearer token.
        ca_file: Certificates to trust for both, in place of the system's.
        metrics: Port, or host and port, to serve `/metrics` on.
        spool: Folder where events wait for broker and webhook.
        spool_mb: Size limit of the waiting events of each.
        allow_offline: Whether to start although broker or webhook are unreachable.
        device_id: Name of this device; the host name where None.
    """

    jsonl: Path | None = None
    csv: Path | None = None
    rotate_mb: float | None = None
    rotate_keep: int = 5
    mqtt: str | None = None
    mqtt_password_file: Path | None = None
    mqtt_discovery: str = "homeassistant"
    webhook: str | None = None
    webhook_token_file: Path | None = None
    ca_file: Path | None = None
    metrics: str | None = None
    spool: Path = Path("spool")
    spool_mb: float = 64
    allow_offline: bool = False
    device_id: str | None = None


def open_sinks(
    choices: SinkChoices,
    *,
    bundle_digest: str,
    terminal: TextIO | None,
    keep_every_line: bool,
    reporter: Reporter,
    in_a_hurry: Callable[[], bool],
    slots: Sequence[tuple[str, str]] = (),
    others: Sequence[EventSink] = (),
) -> EventSinks:
    """Opens every requested sink.

    Args:
        choices: The requested sinks.
        bundle_digest: Digest of the bundle that runs.
        terminal: Stream for lines at the terminal; None for no lines.
        keep_every_line: Whether the loop waits for a slow terminal rather than dropping lines.
        reporter: Informed when a broker or server is lost and reconnected.
        in_a_hurry: Whether somebody waits for the end of the run.
        slots: Names of shelf and slot of each watched slot.
        others: Sinks that are open already; events that they are too slow for are dropped.

    Raises:
        SinkError: a broker or server is unreachable or refuses the login, or a port is taken.
        StorageError: a path cannot be written.
        MissingExtraError: a sink's package is not installed.
    """
    device = choices.device_id or platform.node() or "device"
    outlets: list[Outlet] = []
    entities = slot_entities(slots) or READING_ENTITIES
    with ExitStack() as opened:
        requested = _sinks(choices, device, entities, terminal, keep_every_line, reporter)
        for sink, when_full in chain(requested, ((other, WhenFull.DROP_OLDEST) for other in others)):
            outlets.append(Outlet(sink, when_full=when_full, in_a_hurry=in_a_hurry))
            opened.callback(outlets[-1].finish)
            if isinstance(sink, MetricsSink):
                sink.watch(lambda: (outlet.counts() for outlet in outlets))
        opened.pop_all()
    return EventSinks(outlets, stamp=Stamp(device=device, bundle_digest=bundle_digest))


def _sinks(
    choices: SinkChoices,
    device: str,
    entities: Sequence[Entity],
    terminal: TextIO | None,
    keep_every_line: bool,
    reporter: Reporter,
) -> Iterator[tuple[EventSink, WhenFull]]:
    """Yields the sinks; those that must not lose a line make the loop wait, the others drop or spool events."""
    rotation = Rotation(round(choices.rotate_mb * MB), choices.rotate_keep) if choices.rotate_mb else None
    if choices.jsonl is not None:
        yield JsonLinesSink(choices.jsonl, rotation=rotation), WhenFull.WAIT
    if choices.csv is not None:
        yield CsvSink(choices.csv, rotation=rotation), WhenFull.WAIT
    if choices.metrics is not None:
        metrics = MetricsSink(*listening_at(choices.metrics, flag="--metrics"))
        if metrics.warning:
            reporter.say(metrics.warning)
        yield metrics, WhenFull.DROP_OLDEST
    if choices.mqtt is not None:
        yield (
            _remote("mqtt", _mqtt(choices.mqtt, choices, device, entities, reporter), choices, reporter),
            WhenFull.DROP_OLDEST,
        )
    if choices.webhook is not None:
        yield _remote("webhook", _webhook(choices.webhook, choices), choices, reporter), WhenFull.DROP_OLDEST
    if terminal is not None:
        yield TerminalSink(terminal), WhenFull.WAIT if keep_every_line else WhenFull.DROP_OLDEST


def _mqtt(
    address: str, choices: SinkChoices, device: str, entities: Sequence[Entity], reporter: Reporter
) -> MqttTransport:
    file = choices.mqtt_password_file
    return MqttTransport(
        parsed_address(address, flag="--mqtt", ports=MQTT_PORTS),
        password=secret_from(file, flag="events.mqtt_password_file") if file else None,
        device=device,
        ca_file=choices.ca_file,
        discovery_prefix=choices.mqtt_discovery,
        entities=entities,
        reporter=reporter,
    )


def _webhook(address: str, choices: SinkChoices) -> WebhookTransport:
    file = choices.webhook_token_file
    return WebhookTransport(
        parsed_address(address, flag="--webhook", ports=WEBHOOK_PORTS),
        token=secret_from(file, flag="events.webhook_token_file") if file else None,
        ca_file=choices.ca_file,
    )


def _remote(name: str, transport: Transport, choices: SinkChoices, reporter: Reporter) -> RemoteSink:
    backlog = Backlog(choices.spool / f"{name}.sqlite", max_bytes=round(choices.spool_mb * MB))
    return RemoteSink(name, transport, backlog=backlog, reporter=reporter, allow_offline=choices.allow_offline)
