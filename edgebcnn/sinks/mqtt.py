"""How do events get to an MQTT broker, and how does Home Assistant find them?

    PREFIX/DEVICE/status           "online", or "offline" as our last will (retained)
    PREFIX/DEVICE/reading          an event as JSON, QoS 1
    PREFIX/DEVICE/slot/SHELF/SLOT  the same, of a slot (retained)
    homeassistant/sensor/...       what Home Assistant shows of them (retained)

Events are published in batches, and the next batch goes out when the broker has confirmed the last. paho's own queue
stays empty: what was not confirmed is in our backlog and nowhere else, so that nothing is sent behind our back.
"""

from __future__ import annotations

import json
import re
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from edgebcnn import __version__
from edgebcnn.errors import MissingExtraError, SinkError
from edgebcnn.sinks.address import Address, reason_of, tls_context
from edgebcnn.sinks.backlog import Message
from edgebcnn.sinks.event import slot_subtopic
from edgebcnn.sinks.remote import SEND_TIMEOUT_S, START_TIMEOUT_S, UnreachableError

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

PORTS = {"mqtt": 1883, "mqtts": 8883}
DEFAULT_PREFIX = "edgebcnn"
BATCH = 20  # what may come twice, with the same ids, when a broker dies before it confirms
KEEPALIVE_S = 30
LOOK_S = 0.1

_ABOUT_CREDENTIALS = {"Bad user name or password", "Not authorized"}

Publication = tuple[str, bytes, bool]
"""Topic, payload, and whether the broker keeps it for whoever subscribes later."""


@dataclass(frozen=True)
class Entity:
    """What Home Assistant shows of one kind of event.

    Attributes:
        key: Unique within the device.
        name: What it shows beside the value.
        subtopic: Of the events that it reads.
        template: Jinja2, of `value_json`, which is the event.
        more: Further settings of a Home Assistant MQTT sensor.
    """

    key: str
    name: str
    subtopic: str
    template: str
    more: tuple[tuple[str, str], ...] = ()


READING_ENTITIES = (
    Entity("product", "Product", "reading", "{{ value_json.label }}", (("icon", "mdi:barcode-scan"),)),
    Entity(
        "score",
        "Score",
        "reading",
        "{{ (100 * value_json.score) | round(1) if value_json.score is number else None }}",
        (("unit_of_measurement", "%"), ("state_class", "measurement")),
    ),
)


def slot_entities(slots: Iterable[tuple[str, str]]) -> tuple[Entity, ...]:
    """What Home Assistant shows of slots, given by the names of shelf and slot."""
    return tuple(
        Entity(
            f"slot_{zlib.crc32(slot_subtopic(shelf, slot).encode()):08x}",  # the same, however the file is ordered
            f"{shelf} {slot}",
            slot_subtopic(shelf, slot),
            "{{ value_json.state }}",
            (("icon", "mdi:bookshelf"),),
        )
        for shelf, slot in slots
    )


class MqttTransport:
    """A connection to a broker, driven by the one thread that sends.

    Args:
        address: Of the broker; its path is the topics' prefix.
        password: In place of the address's.
        device: Name of this device in topics.
        ca_file: Certificates to trust in place of the system's.
        discovery_prefix: Where Home Assistant looks; empty to tell it nothing.
        entities: What Home Assistant shows.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
        SinkError: the certificates cannot be read, a prefix cannot be a topic's, or there is a password without a user.
    """

    batch = BATCH

    def __init__(
        self,
        address: Address,
        *,
        password: SecretStr | None = None,
        device: str,
        ca_file: Path | None = None,
        discovery_prefix: str = "homeassistant",
        entities: Sequence[Entity] = READING_ENTITIES,
    ) -> None:
        try:
            import paho.mqtt.client  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtraError("edgebcnn run --mqtt", "mqtt") from error
        if password and not address.user:
            raise SinkError("a password for --mqtt needs a user: give mqtt://USER@HOST")
        prefix = address.path.get_secret_value().strip("/") or DEFAULT_PREFIX
        for part, flag in ((prefix, "the path of --mqtt"), (discovery_prefix, "--mqtt-discovery")):
            if set(part) & set("+#\0"):
                raise SinkError(f"{flag} cannot have + or #, which stand for other topics: choose another")
        self.where = address.origin
        self._address = address
        self._password = password or address.password
        self._topic = f"{prefix}/{topic_level(device)}"
        self._tls = tls_context(ca_file) if address.scheme == "mqtts" else None
        self._discovery = tuple(_discovery(discovery_prefix, self._topic, device, entities))
        self._client: Client | None = None
        self._answer: ReasonCode | None = None
        self._confirmed: set[int] = set()

    def connect(self) -> None:
        """Connects, says that we are online, and tells Home Assistant what there is.

        Raises:
            UnreachableError: no broker answers there, or it does not let us in.
        """
        client = self._new_client()
        try:
            client.connect(self._address.host, self._address.port, KEEPALIVE_S)
        except (OSError, UnicodeError) as error:  # the latter for a host that cannot be a name
            raise UnreachableError(reason_of(error)) from error
        self._client = client
        self._wait_until(lambda: self._answer is not None, START_TIMEOUT_S)
        numbers = self._publish(client, [(f"{self._topic}/status", b"online", True), *self._discovery])
        self._wait_until(lambda: self._confirmed.issuperset(numbers), SEND_TIMEOUT_S)

    def send(self, messages: Sequence[Message]) -> None:
        """Publishes all and waits until the broker has confirmed all.

        Raises:
            UnreachableError: it did not.
        """
        if self._client is None:
            self.connect()
        assert self._client is not None
        publications = [(f"{self._topic}/{each.subtopic}", each.body, each.holds_until_next) for each in messages]
        numbers = self._publish(self._client, publications)
        try:
            self._wait_until(lambda: self._confirmed.issuperset(numbers), SEND_TIMEOUT_S)
        except UnreachableError as error:
            confirmed = next(index for index, number in enumerate(numbers) if number not in self._confirmed)
            raise UnreachableError(str(error), confirmed=confirmed) from error

    def rest(self) -> None:
        """Keeps the connection alive.

        Raises:
            UnreachableError: it is lost.
        """
        self._look(0)

    def close(self) -> None:
        """Says that we are offline, and goes."""
        if self._client is None:
            return
        self._client.publish(f"{self._topic}/status", "offline", qos=1, retain=True)
        self._client.disconnect()
        self._client = None

    def _new_client(self) -> Client:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        name = f"edgebcnn-{secrets.token_hex(6)}"  # two with one name would throw each other out
        client = Client(CallbackAPIVersion.VERSION2, client_id=name, reconnect_on_failure=False)
        client.connect_timeout = START_TIMEOUT_S
        client.max_inflight_messages = BATCH + 1 + len(self._discovery)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.will_set(f"{self._topic}/status", "offline", qos=1, retain=True)
        if self._address.user:
            client.username_pw_set(self._address.user, self._password.get_secret_value() or None)
        if self._tls:
            client.tls_set_context(self._tls)
        self._answer = None
        return client

    def _on_connect(
        self, _client: Client, _data: object, _flags: ConnectFlags, answer: ReasonCode, _more: Properties | None
    ) -> None:
        self._answer = answer

    def _on_publish(
        self, _client: Client, _data: object, number: int, _answer: ReasonCode, _more: Properties | None
    ) -> None:
        self._confirmed.add(number)

    def _publish(self, client: Client, publications: Sequence[Publication]) -> list[int]:
        self._confirmed.clear()
        return [client.publish(topic, body, qos=1, retain=retain).mid for topic, body, retain in publications]

    def _wait_until(self, done: Callable[[], bool], timeout_s: float) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not done():
            self._look(LOOK_S)
            if time.monotonic() > give_up_s:
                self._client = None
                raise UnreachableError(f"no answer for {timeout_s:g} s")

    def _look(self, wait_s: float) -> None:
        """Reads and writes what there is to read and write."""
        from paho.mqtt.enums import MQTTErrorCode

        if self._client is None:
            return
        code = self._client.loop(wait_s)
        if self._answer is not None and self._answer.is_failure:
            self._client = None
            raise UnreachableError(f"the broker says {self._answer}", is_final=str(self._answer) in _ABOUT_CREDENTIALS)
        if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._client = None
            raise UnreachableError("the connection was lost")


def topic_level(name: str) -> str:
    """A name as one level of a topic: what is special there becomes `_`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "device"


def _discovery(prefix: str, topic: str, device: str, entities: Sequence[Entity]) -> Iterator[Publication]:
    if not prefix:
        return
    node = f"edgebcnn_{topic_level(device)}"
    about = {"identifiers": [node], "name": device, "manufacturer": "edgebcnn", "sw_version": __version__}
    for entity in entities:
        config: dict[str, Any] = {
            "name": entity.name,
            "unique_id": f"{node}_{entity.key}",
            "state_topic": f"{topic}/{entity.subtopic}",
            "value_template": entity.template,
            "availability_topic": f"{topic}/status",
            "device": about,
            "origin": {"name": "edgebcnn", "sw_version": __version__},
            **dict(entity.more),
        }
        yield f"{prefix}/sensor/{node}/{entity.key}/config", json.dumps(config, ensure_ascii=False).encode(), True
