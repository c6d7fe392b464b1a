"""Broker and web server get every event, in order, through restarts, failures and full disks. Both are real here."""

from __future__ import annotations

import json
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgebcnn.errors import SinkError
from edgebcnn.sinks.choices import SinkChoices, open_sinks
from edgebcnn.sinks.fan_out import EventSinks
from edgebcnn.sinks.mqtt.presence import ascii_level, topic_level
from edgebcnn.sinks.outlet import Counts
from edgebcnn.sinks.webhook import BATCH
from tests.broker import MOSQUITTO, Broker, Listener, free_port, running_broker, wait_until
from tests.readings import reading
from tests.web_server import web_server


class Told:
    """A reporter that keeps what it was told."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, sentence: str) -> None:
        self.sentences.append(sentence)

    def progress(self, description: str, total: int) -> Any:
        raise NotImplementedError


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def choices(tmp_path: Path) -> SinkChoices:
    return SinkChoices(spool=tmp_path / "spool", device_id="shelf 3")


def opened(
    choices: SinkChoices, told: Told | None = None, *, in_a_hurry: Callable[[], bool] = lambda: False
) -> EventSinks:
    return open_sinks(
        choices,
        bundle_digest="0123456789abcdef" * 4,
        terminal=None,
        keep_every_line=True,
        reporter=told or Told(),
        in_a_hurry=in_a_hurry,
    )


def write(sinks: EventSinks, frames: range, *, pause_s: float = 0.0) -> None:
    for frame in frames:
        sinks.write(reading(frame))
        time.sleep(pause_s)


def frames_once(events: list[dict[str, Any]]) -> list[int]:
    """Frames in the order in which their events first came, each id counted once."""
    first = {event["id"]: event["frame"] for event in reversed(events)}
    return [first.pop(event["id"]) for event in events if event["id"] in first]


# --- MQTT


def test_a_broker_that_restarts_gets_every_event_once_and_in_order(
    tmp_path: Path, choices: SinkChoices, told: Told
) -> None:
    with running_broker(tmp_path) as broker:
        listener = Listener(broker)
        sinks = opened(replace(choices, mqtt=broker.address), told)
        for part in range(3):
            write(sinks, range(200 * part, 200 * part + 100), pause_s=0.002)
            broker.stop()
            write(sinks, range(200 * part + 100, 200 * part + 200), pause_s=0.002)
            broker.start()
            wait_until(lambda: "reconnected" in told.sentences[-1])
        sinks.close()
        wait_until(lambda: len({event["id"] for event in listener.events()}) >= 600)
        events = listener.events()
        listener.close()
    assert frames_once(events) == list(range(600))
    assert len(events) - 600 <= 3 * 20, "only what a broker did not confirm comes again"
    numbers = [int(event["id"].split("-")[1]) for event in events]
    assert sorted(set(numbers)) == list(range(600)), "a gap in the ids would show a loss"
    assert sinks.counts() == (Counts("mqtt", delivered=600),)
    assert sum("events wait in" in sentence for sentence in told.sentences) == 3
    assert sum("reconnected" in sentence for sentence in told.sentences) == 3


def test_what_a_broker_did_not_get_is_delivered_by_the_next_run_before_newer_events(
    tmp_path: Path, choices: SinkChoices, told: Told
) -> None:
    with running_broker(tmp_path) as broker:
        listener = Listener(broker)
        sinks = opened(replace(choices, mqtt=broker.address), told, in_a_hurry=lambda: True)
        write(sinks, range(10))
        wait_until(lambda: sinks.counts()[0].delivered == 10)
        broker.stop()
        write(sinks, range(10, 300))
        sinks.close()
        waiting = sinks.counts()[0].waiting
        assert waiting == 290
        assert f"mqtt: 290 events wait in {choices.spool / 'mqtt.sqlite'}" in told.sentences[-1]
        broker.start()
        sinks = opened(replace(choices, mqtt=broker.address))
        write(sinks, range(300, 310))
        sinks.close()
        wait_until(lambda: len(listener.events()) >= 310)
        events = listener.events()
        listener.close()
    assert frames_once(events) == list(range(310))
    assert sinks.counts() == (Counts("mqtt", delivered=300),)


def test_without_the_broker_a_run_begins_only_when_it_was_told_to(tmp_path: Path, choices: SinkChoices) -> None:
    with running_broker(tmp_path) as broker:
        broker.stop()
        choices = replace(choices, mqtt=broker.address)
        with pytest.raises(SinkError, match=f"{broker.address}: connection refused; .*events.allow_offline"):
            opened(choices)
        sinks = opened(replace(choices, allow_offline=True))
        write(sinks, range(20))
        broker.start()
        listener = Listener(broker)
        wait_until(lambda: len(listener.events()) >= 20)
        sinks.close()
        listener.close()
        assert frames_once(listener.events()) == list(range(20))


def test_a_broker_that_hangs_up_while_it_is_greeted_has_not_confirmed_an_event(choices: SinkChoices) -> None:
    """Knows no MQTT 5, and confirms two publications of each connection, which are not events."""
    topics = set()

    class Rude(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            confirmations = 2
            while confirmations and (head := self.rfile.read(2)):
                kind, length = head
                if length > 127:
                    length += 128 * self.rfile.read(1)[0] - 128
                body = self.rfile.read(length)
                if kind == 0x10:  # CONNECT
                    if body[6] != 4:
                        return
                    self.wfile.write(b"\x20\x02\x00\x00")
                elif kind == 0x82:  # SUBSCRIBE
                    self.wfile.write(b"\x90\x04" + body[:2] + b"\x01\x01")
                else:
                    end = 2 + int.from_bytes(body[:2], "big")
                    topic, number = body[2:end], body[end : end + 2]
                    topics.add(topic.decode())
                    self.wfile.write(b"\x40\x02" + number)
                    confirmations -= 1

    port = free_port()
    choices = replace(choices, mqtt=f"mqtt://127.0.0.1:{port}", allow_offline=True)
    with socketserver.TCPServer(("127.0.0.1", port), Rude) as rude:
        threading.Thread(target=rude.serve_forever, args=(0.05,)).start()
        sinks = opened(choices, in_a_hurry=lambda: True)
        write(sinks, range(5))
        time.sleep(1.5)
        sinks.close()
        rude.shutdown()
    assert topics == {"edgebcnn/shelf_3/session", "edgebcnn/shelf_3/status"}
    assert sinks.counts() == (Counts("mqtt", waiting=5),)


class Router:
    """Passes a connection on to the broker; a device behind it can be cut off without the broker noticing."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[tuple[socket.socket, socket.socket]] = []
        self.address = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_off(self) -> list[socket.socket]:
        """Cuts the device's connections; the broker's ends stay open until they are closed."""
        links, self._links = self._links, []
        for device, _ in links:
            device.shutdown(socket.SHUT_RDWR)
        return [to_broker for _, to_broker in links]

    def close(self) -> None:
        """Takes no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                device, _ = self._listener.accept()
                to_broker = socket.create_connection(("127.0.0.1", self._broker.port))
                self._links.append((device, to_broker))
                threading.Thread(target=self._pass_on, args=(device, to_broker), daemon=True).start()
                threading.Thread(target=self._pass_on, args=(to_broker, device), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while content := source.recv(1 << 16):
                sink.sendall(content)


def statuses(listener: Listener) -> list[bytes]:
    return [body for topic, body, _ in list(listener.messages) if topic == "edgebcnn/shelf_3/status"]


def test_the_status_is_true_again_after_the_late_last_will_of_a_lost_connection(
    tmp_path: Path, choices: SinkChoices, told: Told
) -> None:
    with running_broker(tmp_path) as broker:
        router, listener = Router(broker), Listener(broker)
        sinks = opened(replace(choices, mqtt=router.address), told)
        write(sinks, range(3))
        wait_until(lambda: sinks.counts()[0].delivered == 3)
        orphans = router.cut_off()
        wait_until(lambda: "reconnected" in told.sentences[-1] if told.sentences else False)
        for orphan in orphans:
            orphan.close()  # the broker notices now, and publishes the last will
        wait_until(lambda: b"offline" in statuses(listener))
        wait_until(lambda: statuses(listener)[-1] == b"online", timeout_s=5)
        write(sinks, range(3, 6))
        sinks.close()
        wait_until(lambda: statuses(listener)[-1] == b"offline")
        router.close()
        listener.close()
    assert not any("another run" in sentence for sentence in told.sentences)
    assert frames_once(listener.events()) == list(range(6))


def test_a_second_run_under_one_device_name_is_refused_and_leaves_the_first_online(
    tmp_path: Path, choices: SinkChoices
) -> None:
    with running_broker(tmp_path) as broker:
        listener = Listener(broker)
        first = opened(replace(choices, mqtt=broker.address))
        for offline in (False, True):
            with pytest.raises(SinkError, match=r"another run publishes there as shelf 3.*events.device_id"):
                opened(replace(choices, mqtt=broker.address, spool=tmp_path / "other", allow_offline=offline))
        neighbour = opened(replace(choices, mqtt=broker.address, spool=tmp_path / "other", device_id="shelf 4"))
        neighbour.close()
        assert statuses(listener) == [b"online"]
        first.close()
        after = opened(replace(choices, mqtt=broker.address))
        after.close()
        listener.close()


@pytest.mark.parametrize("setting", ["max_packet_size 2000", "message_size_limit 1500"])
@pytest.mark.parametrize("protocol", ["MQTTv5", "MQTTv311"])
def test_an_event_that_is_too_large_for_the_broker_is_passed_over_and_counted(
    tmp_path: Path,
    choices: SinkChoices,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    setting: str,
    protocol: str,
) -> None:
    """A broker of MQTT 3.1.1 may confirm an event that it discards: nobody can tell."""
    monkeypatch.setattr("edgebcnn.sinks.mqtt.transport.PREFERRED_PROTOCOL", protocol)
    monkeypatch.setattr("edgebcnn.sinks.remote.FIRST_PAUSE_S", 0.02)
    with running_broker(tmp_path, "allow_anonymous true", setting) as broker:
        listener = Listener(broker)
        sinks = opened(replace(choices, mqtt=broker.address, mqtt_discovery=""), told)
        write(sinks, range(3))
        sinks.write(reading(3, photo="x" * 2000))
        write(sinks, range(4, 8))
        sinks.close()
        wait_until(lambda: len({event["id"] for event in listener.events()}) == 7)
        listener.close()
    assert frames_once(listener.events()) == [0, 1, 2, 4, 5, 6, 7]
    if (protocol, setting) != ("MQTTv311", "message_size_limit 1500"):
        assert sinks.counts() == (Counts("mqtt", delivered=7, refused=1),)
        assert any("refuses an event" in sentence for sentence in told.sentences)


def test_what_a_broker_does_not_allow_is_counted_and_keeps_nothing_else_from_it(
    tmp_path: Path, choices: SinkChoices, told: Told
) -> None:
    (tmp_path / "acl").write_text("topic readwrite edgebcnn/shelf_3/status\ntopic read #\n")
    with running_broker(tmp_path, "allow_anonymous true", f"acl_file {tmp_path / 'acl'}") as broker:
        sinks = opened(replace(choices, mqtt=broker.address), told)
        write(sinks, range(3))
        sinks.close()
        with pytest.raises(SinkError, match="does not take our status"):
            opened(replace(choices, mqtt=broker.address, device_id="shelf 4"))
    assert sinks.counts() == (Counts("mqtt", refused=3),)
    assert any("events.mqtt_discovery" in sentence for sentence in told.sentences)


@pytest.mark.parametrize(
    ("name", "level", "in_ascii"),
    [
        ("shelf 3", "shelf_3", "shelf_3"),
        ("a/b+c#", "a_b_c", "a_b_c"),
        ("Kühlregal", "Kühlregal", "K_hlregal_b83cbb49"),
        ("Ku\u0308hlregal", "Kühlregal", "K_hlregal_b83cbb49"),
        ("冷蔵庫", "冷蔵庫", "e214a5f7"),
        ("###", "device_d98427b8", "device_d98427b8"),
    ],
)
def test_a_device_name_is_a_level_of_a_topic_that_no_other_name_shares(name: str, level: str, in_ascii: str) -> None:
    assert (topic_level(name), ascii_level(name)) == (level, in_ascii)


def test_a_prefix_that_is_no_topic_and_a_password_without_a_user_are_said(choices: SinkChoices, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("S3CRET")
    for bad, sentence in (
        (SinkChoices(mqtt="mqtt://127.0.0.1/shop/+"), "the path of --mqtt cannot have"),
        (SinkChoices(mqtt="mqtt://127.0.0.1", mqtt_discovery="#"), "events.mqtt_discovery cannot have"),
        (SinkChoices(mqtt="mqtt://127.0.0.1", mqtt_password_file=tmp_path / "password"), "needs a user"),
    ):
        with pytest.raises(SinkError, match=sentence):
            opened(replace(bad, spool=choices.spool))


def test_home_assistant_finds_the_device_and_sees_it_leave(tmp_path: Path, choices: SinkChoices) -> None:
    with running_broker(tmp_path) as broker:
        sinks = opened(replace(choices, mqtt=f"{broker.address}/shop/7"))
        write(sinks, range(1))
        listener = Listener(broker)  # comes late: what it sees of these topics is retained
        wait_until(lambda: len(listener.messages) >= 3)
        kept = {topic: body for topic, body, is_retained in listener.messages if is_retained}
        sinks.close()
        wait_until(lambda: ("shop/7/shelf_3/status", b"offline", False) in listener.messages)
        listener.close()
    assert kept.keys() == {
        "shop/7/shelf_3/status",
        "homeassistant/sensor/edgebcnn_shelf_3/product/config",
        "homeassistant/sensor/edgebcnn_shelf_3/score/config",
    }
    assert kept["shop/7/shelf_3/status"] == b"online"
    config = json.loads(kept["homeassistant/sensor/edgebcnn_shelf_3/product/config"])
    assert config["state_topic"] == "shop/7/shelf_3/reading"
    assert config["availability_topic"] == "shop/7/shelf_3/status"
    assert config["unique_id"] == "edgebcnn_shelf_3_product"
    assert config["value_template"] == "{{ value_json.label }}"


def test_a_run_that_is_killed_leaves_its_last_will(tmp_path: Path, choices: SinkChoices) -> None:
    with running_broker(tmp_path) as broker:
        script = f"""
import os
from tests.test_remote_sinks import *
sinks = opened(SinkChoices(spool=Path({str(choices.spool)!r}), device_id="shelf 3", mqtt={broker.address!r}))
write(sinks, range(1))
wait_until(lambda: sinks.counts()[0].delivered == 1)
os.kill(os.getpid(), 9)
"""
        listener = Listener(broker, "edgebcnn/#")
        killed = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], timeout=60)
        assert killed.returncode == -9, "it got as far as that"
        wait_until(lambda: ("edgebcnn/shelf_3/status", b"offline", False) in listener.messages)
        listener.close()
    assert [body for topic, body, _ in listener.messages if topic.endswith("/status")] == [b"online", b"offline"]
    assert [event["frame"] for event in listener.events()] == [0]


@pytest.fixture
def locked_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker that only lets `shelf` with the password `pa:ss@word` in."""
    passwords = tmp_path / "passwords"
    if MOSQUITTO:
        subprocess.run(["mosquitto_passwd", "-c", "-b", passwords, "shelf", "pa:ss@word"], check=True)
    with running_broker(tmp_path, "allow_anonymous false", f"password_file {passwords}") as broker:
        yield broker


def test_a_password_comes_from_the_address_or_a_file_and_a_wrong_one_is_said_without_it(
    locked_broker: Broker, tmp_path: Path, choices: SinkChoices
) -> None:
    file = tmp_path / "password"
    file.write_text("pa:ss@word\n")
    with_user = locked_broker.address.replace("://", "://shelf@")
    with_password = locked_broker.address.replace("://", "://shelf:pa%3Ass%40word@")
    for right in (SinkChoices(mqtt=with_password), SinkChoices(mqtt=with_user, mqtt_password_file=file)):
        sinks = opened(replace(right, spool=choices.spool))
        write(sinks, range(3))
        sinks.close()
        assert sinks.counts() == (Counts("mqtt", delivered=3),)
    for wrong in (locked_broker.address, with_password.replace("pa%3Ass", "S3CRET")):
        with pytest.raises(SinkError) as refusal:
            opened(replace(choices, mqtt=wrong, allow_offline=True))
        assert str(refusal.value) == f"{locked_broker.address}: the broker says Not authorized; correct it"


def test_a_broker_is_reached_over_tls_and_only_a_trusted_one(tmp_path: Path, choices: SinkChoices) -> None:
    certificate, key = self_signed(tmp_path)
    with running_broker(tmp_path, "allow_anonymous true", f"certfile {certificate}", f"keyfile {key}") as broker:
        choices = replace(choices, mqtt=broker.address.replace("mqtt://", "mqtts://"))
        with pytest.raises(SinkError, match="certificate is not trusted"):
            opened(choices)
        sinks = opened(replace(choices, ca_file=certificate))
        write(sinks, range(30))
        sinks.close()
    assert sinks.counts() == (Counts("mqtt", delivered=30),)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Certificate and key of 127.0.0.1."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = [
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
        "-out",
        str(certificate),
        "-keyout",
        str(key),
    ]
    subprocess.run([*request, *names], check=True, capture_output=True)
    return certificate, key


# --- Webhook


def test_a_web_server_that_fails_for_a_while_gets_every_event_once_and_in_order(
    choices: SinkChoices, told: Told
) -> None:
    with web_server() as server:
        server.answers = [(200, {}), (503, {}), None, (500, {}), (200, {}), (429, {"Retry-After": "1"})]
        sinks = opened(replace(choices, webhook=server.address), told)
        write(sinks, range(400), pause_s=0.001)
        sinks.close()
    assert [event["frame"] for event in server.events()] == list(range(400))
    assert len({event["id"] for event in server.events()}) == 400
    assert all(len(batch) <= BATCH for _, _, batch in server.requests)
    assert sinks.counts() == (Counts("webhook", delivered=400),)
    assert any("it answers 503 Service Unavailable" in sentence for sentence in told.sentences)


def test_a_server_that_hung_up_gets_the_same_events_again(choices: SinkChoices) -> None:
    with web_server() as server:
        server.answers = [None]
        sinks = opened(replace(choices, webhook=server.address))
        write(sinks, range(1))
        wait_until(lambda: len(server.requests) == 2)
        sinks.close()
    first, again = (batch for _, _, batch in server.requests)
    assert first == again


def test_a_server_that_closes_idle_connections_is_not_away(choices: SinkChoices, told: Told) -> None:
    with web_server(idle_s=0.2) as server:
        sinks = opened(replace(choices, webhook=server.address), told)
        for frame in range(3):
            write(sinks, range(frame, frame + 1))
            wait_until(lambda count=frame + 1: len(server.events()) == count)  # type: ignore[misc]
            time.sleep(0.5)
        sinks.close()
    assert told.sentences == []


def test_retry_after_is_respected(choices: SinkChoices) -> None:
    with web_server() as server:
        server.answers = [(429, {"Retry-After": "2"})]
        sinks = opened(replace(choices, webhook=server.address))
        write(sinks, range(1))
        wait_until(lambda: len(server.requests) == 1)
        began_s = time.monotonic()
        wait_until(lambda: len(server.requests) == 2)
        assert time.monotonic() - began_s > 1.8
        sinks.close()


def test_an_event_that_a_server_refuses_is_passed_over_alone(choices: SinkChoices, told: Told) -> None:
    port = free_port()
    choices = replace(choices, webhook=f"http://127.0.0.1:{port}/", allow_offline=True)
    offline = opened(choices, in_a_hurry=lambda: True)
    write(offline, range(5))
    offline.close()
    with web_server(port) as server:
        server.answers = [(422, {}), (200, {}), (200, {}), (422, {})]  # all five; then one by one, of which the third
        sinks = opened(choices, told)
        wait_until(lambda: sinks.counts()[0].waiting == 0)
        sinks.close()
    assert [event["frame"] for event in server.events()] == [0, 1, 3, 4]
    assert sinks.counts() == (Counts("webhook", delivered=4, refused=1),)
    assert sum("refuses an event (422 Unprocessable" in sentence for sentence in told.sentences) == 1


@pytest.mark.parametrize(
    ("userinfo", "file", "sent"), [("", "t0ken\n", "Bearer t0ken"), ("shelf:pa%3Ass@", "", "Basic c2hlbGY6cGE6c3M=")]
)
def test_credentials_are_sent_and_never_shown(
    tmp_path: Path, choices: SinkChoices, told: Told, userinfo: str, file: str, sent: str
) -> None:
    token = tmp_path / "token"
    token.write_text(file)
    with web_server() as server:
        server.answers = [(401, {}), None]
        address = server.address.replace("://", f"://{userinfo}") + "?key=qu3ry"
        sinks = opened(replace(choices, webhook=address, webhook_token_file=token if file else None), told)
        write(sinks, range(1))
        wait_until(lambda: bool(server.events()))
        sinks.close()
    path, headers, _ = server.requests[0]
    assert (path, headers["Authorization"]) == ("/hooks/T0PSECRET?key=qu3ry", sent)
    kept = [path.read_bytes() for path in choices.spool.iterdir()]
    shown = " ".join([*told.sentences, repr(choices), json.dumps(server.events()), *map(repr, kept)])
    assert len(told.sentences) == 2
    for secret in ("T0PSECRET", "t0ken", "pa:ss", "pa%3Ass", "qu3ry"):
        assert secret not in shown


def test_a_web_server_is_reached_over_tls_and_only_a_trusted_one(tmp_path: Path, choices: SinkChoices) -> None:
    certificate, key = self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with web_server(tls=context) as server:
        choices = replace(choices, webhook=server.address)
        with pytest.raises(SinkError, match="certificate is not trusted"):
            opened(choices)
        sinks = opened(replace(choices, ca_file=certificate))
        write(sinks, range(30))
        sinks.close()
    assert [event["frame"] for event in server.events()] == list(range(30))


def test_a_server_that_hangs_costs_the_end_less_than_a_second_and_no_event(choices: SinkChoices) -> None:
    with web_server() as server:
        server.answers = [(200, {}), (0, {})]
        sinks = opened(replace(choices, webhook=server.address), in_a_hurry=lambda: True)
        write(sinks, range(1))
        wait_until(lambda: len(server.events()) == 1)
        write(sinks, range(1, 500))
        began_s = time.monotonic()
        sinks.close()
        assert time.monotonic() - began_s < 1
        assert sinks.counts() == (Counts("webhook", delivered=1, waiting=499),)
        again = opened(replace(choices, webhook=server.address))
        again.close()
    assert frames_once(server.events()) == list(range(500))


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_a_spool_on_a_full_disk_drops_the_oldest_and_counts_them(small_disk: Path, choices: SinkChoices) -> None:
    (small_disk / "ballast").write_bytes(bytes(600_000))
    port = free_port()
    choices = replace(choices, webhook=f"http://127.0.0.1:{port}/", spool=small_disk / "spool", allow_offline=True)
    sinks = opened(choices)
    write(sinks, range(3000))
    with web_server(port) as server:
        wait_until(lambda: sinks.counts()[0].waiting == 0, timeout_s=40)
        sinks.close()
    frames = [event["frame"] for event in server.events()]
    counts = sinks.counts()[0]
    assert frames == sorted(set(frames))
    assert frames[-1] == 2999
    assert (counts.delivered, counts.delivered + counts.dropped) == (len(frames), 3000)
    assert counts.dropped > 500


# --- Metrics


def test_prometheus_sees_readings_and_what_became_of_them(choices: SinkChoices, tmp_path: Path) -> None:
    port = free_port()
    sinks = opened(replace(choices, metrics=str(port), jsonl=tmp_path / "events.jsonl"))
    write(sinks, range(5))
    sinks.write(reading(5, label='7 "Up"', latency_ms=80.0))
    wait_until(lambda: all(counts.delivered == 6 for counts in sinks.counts()))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    sinks.close()
    assert 'edgebcnn_events_total{kind="reading"} 6.0' in lines
    assert 'edgebcnn_readings_total{product="Oatly-Oat-Milk"} 5.0' in lines
    assert r'edgebcnn_readings_total{product="7 \"Up\""} 1.0' in lines
    assert 'edgebcnn_latency_seconds_bucket{le="0.05"} 5.0' in lines
    assert "edgebcnn_latency_seconds_count 6.0" in lines
    assert f'edgebcnn_sink_events_total{{fate="delivered",sink="{tmp_path}/events.jsonl"}} 6.0' in lines
    assert 'edgebcnn_event_timestamp_seconds{kind="reading"} 1.740821400125e+09' in lines
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_metrics_are_for_this_machine_unless_a_host_is_given(choices: SinkChoices) -> None:
    port = free_port()
    sinks = opened(replace(choices, metrics=str(port)))
    with socket.socket() as visitor:
        assert visitor.connect_ex(("127.0.0.2", port)) != 0
        assert visitor.connect_ex(("127.0.0.1", port)) == 0
    sinks.close()


def test_a_taken_port_is_one_sentence_and_closes_what_was_open(choices: SinkChoices, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with web_server() as server:
        port = server.address.split(":")[2].split("/")[0]
        with pytest.raises(SinkError, match=rf"--metrics cannot listen on 127.0.0.1:{port} \(address already in use\)"):
            opened(replace(choices, jsonl=tmp_path / "events.jsonl", metrics=port))
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("sink ")]


@pytest.mark.parametrize("metrics", ["nine", "70000", "127.0.0.1:", ":::", "", "-1"])
def test_what_is_no_port_is_named(choices: SinkChoices, metrics: str) -> None:
    with pytest.raises(SinkError, match="is not a port: give PORT, or HOST:PORT"):
        opened(replace(choices, metrics=metrics))


@pytest.mark.parametrize(
    "address",
    ["", "127.0.0.1", "http://S3CRET@127.0.0.1", "mqtt://user:S3CRET@", "mqtt://u:S3CRET@host:port", "mqtt://a b"],
)
def test_what_is_no_address_is_said_without_repeating_it(choices: SinkChoices, address: str) -> None:
    with pytest.raises(SinkError, match="--mqtt is not a valid address") as refusal:
        opened(replace(choices, mqtt=address))
    assert "S3CRET" not in str(refusal.value)


def test_a_host_that_cannot_be_one_is_unreachable(choices: SinkChoices) -> None:
    for bad in (SinkChoices(mqtt=f"mqtt://{'a' * 70}.x"), SinkChoices(webhook=f"http://{'a' * 70}.x")):
        with pytest.raises(SinkError, match="not a valid host name"):
            opened(replace(bad, spool=choices.spool))


def test_a_secret_file_that_is_missing_or_empty_is_named(choices: SinkChoices, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_text("\n")
    for file, fault in ((tmp_path / "none", "cannot be read"), (empty, "is empty"), (tmp_path, "cannot be read")):
        with pytest.raises(SinkError, match=f"events.webhook_token_file {file} {fault}"):
            opened(replace(choices, webhook="http://127.0.0.1:1", webhook_token_file=file))
