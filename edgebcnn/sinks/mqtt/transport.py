"""Publishes events to an MQTT broker, where Home Assistant discovers them.

    PREFIX/DEVICE/status           "online", or "offline", also as last will (retained)
    PREFIX/DEVICE/session          tells runs under one device name from each other, QoS 0
    PREFIX/DEVICE/reading          an event as JSON, QoS 1
    PREFIX/DEVICE/slot/SHELF/SLOT  the same, of a slot (retained)
    homeassistant/sensor/...       the entities that Home Assistant shows (retained)

Events are published in batches; the next batch follows when the broker has confirmed the last. paho's own queue stays
empty: every unconfirmed event is in our backlog and nowhere else. MQTT 5 is preferred, because its confirmations say
when a broker discards an event; brokers that lack it get MQTT 3.1.1.
"""

from __future__ import annotations

import secrets
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from edgebcnn.errors import MissingExtraError, SinkError
from edgebcnn.progress import Reporter, Silent
from edgebcnn.sinks.address import Address, reason_of, tls_context
from edgebcnn.sinks.backlog import Message
from edgebcnn.sinks.mqtt.discovery import READING_ENTITIES, Entity, announcements
from edgebcnn.sinks.mqtt.presence import Presence, Publication, topic_level
from edgebcnn.sinks.remote import SEND_TIMEOUT_S, START_TIMEOUT_S, RefusedError, UnreachableError

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags, MQTTMessage
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

PORTS = {"mqtt": 1883, "mqtts": 8883}
DEFAULT_PREFIX = "edgebcnn"
BATCH = 20  # what may come twice, with the same ids, when a broker dies before it confirms
KEEPALIVE_S = 30
PREFERRED_PROTOCOL = "MQTTv5"
PACKET_OVERHEAD = 10  # bytes around topic and payload: fixed header, length of the topic, number, no properties
READ_S = 0.1
HELLO_S = 1.0  # for our own hello to come back; longer where a broker does not let us read our topics
OTHER_RUN_S = 3.0  # for another run to answer: three times as long as it leaves its connection alone

_ABOUT_CREDENTIALS = {"Bad user name or password", "Not authorized"}
_MAY_PASS = {"Quota exceeded", "Unspecified error", "Implementation specific error"}
_OLDER_PROTOCOL = "Unsupported protocol version"


class _HungUpError(UnreachableError):
    """The broker closed the connection."""


class MqttTransport:
    """A connection to a broker, driven by the one thread that sends.

    Args:
        address: Of the broker; its path is the prefix of the topics.
        password: In place of the one in the address.
        device: Name of this device in topics.
        ca_file: Certificates to trust in place of the system's.
        discovery_prefix: Where Home Assistant looks for devices; empty to turn discovery off.
        entities: Sensors that Home Assistant shows.
        reporter: Told when another run uses the same device name, or discovery is not allowed.

    Raises:
        MissingExtraError: paho-mqtt is not installed.
        SinkError: the certificates cannot be read, a prefix cannot be a topic's, or there is a password without a user.
    """

    def __init__(
        self,
        address: Address,
        *,
        password: SecretStr | None = None,
        device: str,
        ca_file: Path | None = None,
        discovery_prefix: str = "homeassistant",
        entities: Sequence[Entity] = READING_ENTITIES,
        reporter: Reporter | None = None,
    ) -> None:
        try:
            from paho.mqtt.enums import MQTTProtocolVersion
        except ModuleNotFoundError as error:
            raise MissingExtraError("edgebcnn run --mqtt", "mqtt") from error
        if password and not address.user:
            raise SinkError("a password for --mqtt needs a user: give mqtt://USER@HOST")
        prefix = address.path.get_secret_value().strip("/") or DEFAULT_PREFIX
        for part, flag in ((prefix, "the path of --mqtt"), (discovery_prefix, "events.mqtt_discovery")):
            if set(part) & set("+#\0"):
                raise SinkError(f"{flag} cannot have + or #, which stand for other topics: choose another")
        self.where = address.origin
        self.batch = BATCH
        self._address = address
        self._password = password or address.password
        self._device = device
        self._topic = f"{prefix}/{topic_level(device)}"
        self._tls = tls_context(ca_file) if address.scheme == "mqtts" else None
        self._discovery = tuple(announcements(discovery_prefix, self._topic, device, entities))
        self._presence = Presence(self._topic)
        self._reporter = reporter or Silent()
        self._reported: set[str] = set()
        self._was_admitted = False
        self._may_say_hello = True
        self._protocol = MQTTProtocolVersion[PREFERRED_PROTOCOL]
        self._largest: int | None = None  # packet that the broker accepts, in bytes
        self._client: Client | None = None
        self._answer: ReasonCode | None = None
        self._numbers: list[int] = []  # of the last publications
        self._confirmed: dict[int, str] = {}  # by the number of the publication, why it failed; empty where it did not

    def connect(self) -> None:
        """Connects, publishes that the device is online, and announces it to Home Assistant.

        Raises:
            UnreachableError: no broker answers there, it does not let us in, or another run uses the device name.
        """
        self._connect_as_it_can()
        try:
            self._look_for_other_run()
        except _HungUpError:
            if self._was_admitted:
                raise
            self._may_say_hello = False  # some brokers hang up at what they do not allow
            self._connect_as_it_can()
            self._look_for_other_run()
        self._publish_status()
        if self._discovery and (reason := self._refused_discovery()):
            self._discovery = ()
            self._report(
                f"the broker does not take what Home Assistant discovers ({reason.lower()}): allow that, or turn it "
                "off with events.mqtt_discovery = ''"
            )
            if self._client is None:
                self.connect()
        self._was_admitted = True

    def send(self, messages: Sequence[Message]) -> None:
        """Publishes all messages and waits until the broker has confirmed all.

        Raises:
            UnreachableError: it did not confirm all.
            RefusedError: it does not accept one of them.
        """
        if self._client is None:
            self.connect()
        publications = [(f"{self._topic}/{each.subtopic}", each.body, each.holds_until_next) for each in messages]
        for topic, body, _ in publications:
            if self._largest and len(topic.encode()) + len(body) + PACKET_OVERHEAD > self._largest:
                raise RefusedError(f"it takes {self._largest} bytes at most")
        try:
            self._publish_all(publications)
        except UnreachableError as error:
            if (reason := self._refused()) and reason not in _MAY_PASS:  # some brokers say so, and hang up
                raise RefusedError(reason.lower()) from error
            hung_up = isinstance(error, _HungUpError)
            raise UnreachableError(str(error), confirmed=self._confirmed_first(), hung_up=hung_up) from error
        if reason := self._refused():
            if reason not in _MAY_PASS:
                raise RefusedError(reason.lower())
            raise UnreachableError(f"the broker answers: {reason.lower()}", confirmed=self._confirmed_first())

    def rest(self) -> None:
        """Keeps the connection alive and the status true.

        Raises:
            UnreachableError: the connection is lost.
        """
        self._look(0)

    def close(self) -> None:
        """Publishes that the device is offline, and disconnects."""
        if self._client is None:
            return
        self._client.publish(*self._presence.last_will[:2], qos=1, retain=True)
        self._client.disconnect()
        self._client = None

    def _connect_as_it_can(self) -> None:
        """Connects with MQTT 5, or 3.1.1 to a broker that says that it lacks MQTT 5, or hangs up at it."""
        from paho.mqtt.enums import MQTTProtocolVersion

        try:
            self._connect()
        except UnreachableError as error:
            is_older = isinstance(error, _HungUpError) or self._refusal() == _OLDER_PROTOCOL
            if self._protocol != MQTTProtocolVersion.MQTTv5 or not is_older:
                raise
            self._protocol = MQTTProtocolVersion.MQTTv311
            try:
                self._connect()
            except UnreachableError:
                self._protocol = MQTTProtocolVersion.MQTTv5
                raise

    def _connect(self) -> None:
        client = self._new_client()
        self._answer = None
        try:
            client.connect(self._address.host, self._address.port, KEEPALIVE_S)
        except (OSError, UnicodeError) as error:  # the latter for a host that cannot be a name
            raise UnreachableError(reason_of(error)) from error
        self._client = client
        self._wait_until(lambda: self._answer is not None, START_TIMEOUT_S)

    def _look_for_other_run(self) -> None:
        """Subscribes to our own topics, and gives way to another run under the same device name."""
        assert self._client is not None
        presence = self._presence
        presence.begin()
        self._client.subscribe([(topic, 1) for topic in presence.subscriptions])
        if not self._may_say_hello:
            return
        self._client.publish(*presence.hello[:2])
        self._wait_until(lambda: presence.reads, HELLO_S, must=False)
        if presence.was_online:
            self._wait_until(lambda: presence.other_run, OTHER_RUN_S, must=False)
        if not presence.other_run:
            return
        problem = f"another run publishes there as {self._device}"
        if self._was_admitted:
            self._report(f"{problem}: give each run its own events.device_id")
            return
        self._client.disconnect()  # so that no last will says that the other one is offline
        self._client = None
        raise UnreachableError(
            problem, is_final=True, remedy="give each run its own events.device_id, or end the other one"
        )

    def _new_client(self) -> Client:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        name = f"edgebcnn-{secrets.token_hex(6)}"  # a broker closes the older of two connections with one name
        client = Client(
            CallbackAPIVersion.VERSION2, client_id=name, protocol=self._protocol, reconnect_on_failure=False
        )
        client.connect_timeout = START_TIMEOUT_S
        client.max_inflight_messages = BATCH + 2  # and what presence publishes meanwhile
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        topic, body, retain = self._presence.last_will
        client.will_set(topic, body, qos=1, retain=retain)
        if self._address.user:
            client.username_pw_set(self._address.user, self._password.get_secret_value() or None)
        if self._tls:
            client.tls_set_context(self._tls)
        return client

    def _on_connect(
        self, _client: Client, _data: object, _flags: ConnectFlags, answer: ReasonCode, more: Properties | None
    ) -> None:
        self._answer = answer
        self._largest = getattr(more, "MaximumPacketSize", None)
        self.batch = max(1, min(BATCH, getattr(more, "ReceiveMaximum", BATCH)))

    def _on_publish(
        self, _client: Client, _data: object, number: int, answer: ReasonCode, _more: Properties | None
    ) -> None:
        self._confirmed[number] = str(answer) if answer.is_failure else ""

    def _on_message(self, _client: Client, _data: object, message: MQTTMessage) -> None:
        self._presence.take(message.topic, bytes(message.payload))

    def _publish_status(self) -> None:
        problem: UnreachableError | None = None
        try:
            self._publish_all([self._presence.online()])
        except UnreachableError as error:
            problem = error
        if reason := self._refused():
            self._client = None
            raise UnreachableError(
                f"the broker does not take our status ({reason.lower()})",
                is_final=True,
                remedy=f"allow publishing to {self._topic}/#",
            ) from problem
        if problem:
            raise problem

    def _refused_discovery(self) -> str:
        """Why the broker refuses what Home Assistant discovers; empty where it takes it."""
        for part in (self._discovery[:1], self._discovery[1:]):  # one alone, so that its answer comes before a hang-up
            try:
                self._publish_all(part)
            except UnreachableError:
                if not self._refused():
                    raise
            if reason := self._refused():
                return reason
        return ""

    def _publish_all(self, publications: Sequence[Publication]) -> None:
        """Publishes no more at a time than the broker takes, and waits until it has answered all."""
        self._numbers = []
        self._confirmed.clear()
        for start in range(0, len(publications), self.batch):
            if self._client is None:
                raise _HungUpError("the connection was lost")
            for topic, body, retain in publications[start : start + self.batch]:
                self._numbers.append(self._client.publish(topic, body, qos=1, retain=retain).mid)
            self._wait_until(lambda: self._confirmed.keys() >= set(self._numbers), SEND_TIMEOUT_S)

    def _refused(self) -> str:
        """Why the broker refused one of the last publications; empty where it did not."""
        return next(filter(None, map(self._confirmed.get, self._numbers)), "")

    def _confirmed_first(self) -> int:
        """How many publications were confirmed before the first that was not."""
        counts = (index for index, number in enumerate(self._numbers) if self._confirmed.get(number) != "")
        return next(counts, len(self._numbers))

    def _wait_until(self, done: Callable[[], bool], timeout_s: float, *, must: bool = True) -> None:
        give_up_s = time.monotonic() + timeout_s
        while not done():
            self._look(READ_S)
            if time.monotonic() > give_up_s:
                if not must:
                    return
                self._client = None
                raise UnreachableError(f"no answer for {timeout_s:g} s")

    def _look(self, wait_s: float) -> None:
        """Reads and writes what there is to read and write, and publishes a status that is due."""
        from paho.mqtt import MQTTException
        from paho.mqtt.enums import MQTTErrorCode

        if self._client is None:
            return
        try:
            code = self._client.loop(wait_s)
        except (MQTTException, ValueError, struct.error) as error:
            self._client = None
            raise _HungUpError("its answer is not MQTT") from error
        if reason := self._refusal():
            self._client = None
            raise UnreachableError(f"the broker says {reason}", is_final=reason in _ABOUT_CREDENTIALS)
        if code not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_AGAIN):
            self._client = None
            raise _HungUpError("the connection was lost")
        for topic, body, retain in self._presence.due():
            self._client.publish(topic, body, qos=int(retain), retain=retain)

    def _refusal(self) -> str:
        return str(self._answer) if self._answer is not None and self._answer.is_failure else ""

    def _report(self, sentence: str) -> None:
        if sentence not in self._reported:
            self._reported.add(sentence)
            self._reporter.say(f"mqtt: {self.where}: {sentence}")
