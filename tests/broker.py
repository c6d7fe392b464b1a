"""A real MQTT broker, mosquitto, that a test starts, stops, kills and listens to."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_S = 5.0


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Returns as soon as it is true, and fails when it does not become so."""
    give_up_s = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < give_up_s, "it did not happen in time"
        time.sleep(0.01)


class Broker:
    """mosquitto on a port of its own, which keeps what persistent sessions are owed when it is stopped."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        own = [f"listener {self.port} 127.0.0.1", "persistence true", f"persistence_location {folder}/"]
        lines = [*own, f"user {getpass.getuser()}", "max_queued_messages 0", *settings]
        self._config.write_text("".join(f"{line}\n" for line in lines))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """As `--mqtt` takes it."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it listens."""
        assert MOSQUITTO
        command = [MOSQUITTO, "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(self._listens, START_S)

    def stop(self) -> None:
        """Ends it as a service manager does."""
        if self._process:
            self._process.terminate()
            self._process.wait(5)
            self._process = None

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Listener:
    """A subscriber whose session outlives the broker's restarts; it keeps what was published twice, too."""

    def __init__(self, broker: Broker, topic: str = "#") -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._topic = topic
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener", clean_session=False)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe(self._topic, qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._subscribed.wait(START_S)

    def events(self, kind: str = "reading") -> list[dict[str, Any]]:
        """Every event that came, in order."""
        return [json.loads(body) for topic, body, _ in list(self.messages) if topic.endswith(f"/{kind}")]

    def close(self) -> None:
        """Ends the connection."""
        self._client.loop_stop()
        self._client.disconnect()

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        got = (message.topic, bytes(message.payload), message.retain)
        if not (message.dup and got in self.messages):  # the broker repeats to us what we did not confirm to it
            self.messages.append(got)


@contextmanager
def running_broker(folder: Path, *settings: str) -> Iterator[Broker]:
    """A broker that is stopped when the block ends; without one, the tests are skipped."""
    if not MOSQUITTO:
        pytest.skip("needs a broker: sudo apt install mosquitto")
    broker = Broker(folder, *(settings or ("allow_anonymous true",)))
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
