"""A flood of connections: what the network may have of a process, and that its loop goes on meanwhile."""

from __future__ import annotations

import http.client
import json
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgebcnn.sinks.listener import BoundedListener, Limits
from edgebcnn.sinks.metrics import LIMITS, MetricsSink
from edgebcnn.worker import Deadline
from tests.broker import wait_until
from tests.shelf_video import make_shelf
from tests.test_web_live import live
from tests.web_run import asked, web_page

FLOOD = 1200


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Lets this process hold a flood of connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * FLOOD)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connected(port: int, *, source: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))


@contextmanager
def flood(port: int, count: int) -> Iterator[list[socket.socket]]:
    """Yields connections on which nothing is ever sent."""
    with ExitStack() as opened:
        yield [opened.enter_context(connected(port)) for _ in range(count)]


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def answer_from(source: str, port: int, path: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10, source_address=(source, 0))
    connection.request("GET", path)
    return connection.getresponse()


def listener(limits: Limits) -> BoundedListener:
    return BoundedListener(socket.create_server(("127.0.0.1", 0)), limits)


def accepted_by(bounded: BoundedListener) -> list[socket.socket]:
    """What a server gets that accepts until there is no more."""
    found = []
    time.sleep(0.1)  # the kernel's queue fills without us
    try:
        while True:
            found.append(bounded.accept()[0])
    except BlockingIOError:
        return found


def test_an_address_has_a_share_of_the_connections_and_the_surplus_is_closed_at_once() -> None:
    with listener(Limits(connections=5, per_address=3)) as bounded:
        port = bounded.getsockname()[1]
        mine = [connected(port) for _ in range(5)]
        assert len(accepted_by(bounded)) == 3
        assert [is_closed(each) for each in mine] == [False, False, False, True, True]
        others = [connected(port, source="127.0.0.2") for _ in range(3)]
        assert len(accepted_by(bounded)) == 2
        assert [is_closed(each) for each in others] == [False, False, True]
        assert bounded.turned_away == 3


def test_a_connection_that_asks_for_nothing_is_closed_and_one_that_is_served_is_not() -> None:
    with listener(Limits(idle_s=0.3)) as bounded:
        idle, served = (connected(bounded.getsockname()[1]) for _ in range(2))
        accepted = accepted_by(bounded)
        with bounded.serving(served.getsockname()):
            wait_until(lambda: is_closed(idle))
            assert not is_closed(served)
        wait_until(lambda: is_closed(served))
        assert len(accepted) == 2


def test_bytes_that_trickle_in_do_not_keep_a_connection_open() -> None:
    with listener(Limits(idle_s=0.5)) as bounded:
        slow = connected(bounded.getsockname()[1])
        accepted = accepted_by(bounded)
        begun_s = time.monotonic()
        while not is_closed(slow) and time.monotonic() - begun_s < 10:
            try:
                slow.send(b"G")
            except OSError:
                break
        assert 0.3 < time.monotonic() - begun_s < 5
        assert len(accepted) == 1


def test_whoever_asks_gets_the_place_of_a_connection_that_has_been_idle() -> None:
    with listener(Limits(per_address=1)) as bounded:
        port = bounded.getsockname()[1]
        first = connected(port)
        kept = accepted_by(bounded)
        time.sleep(1.1)
        second = connected(port)
        kept += accepted_by(bounded)
        assert (is_closed(first), is_closed(second)) == (True, False)


def test_the_last_descriptors_of_the_process_are_never_given_to_the_network() -> None:
    program = """
import os, resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
from edgebcnn.sinks.listener import BoundedListener
bounded = BoundedListener(socket.create_server(("127.0.0.1", 0)))
clients, kept = [socket.create_connection(bounded.getsockname()) for _ in range(20)], []
others = [os.open("/", os.O_RDONLY) for _ in range(40)]
try:
    while True:
        kept.append(bounded.accept()[0])
except BlockingIOError:
    pass
assert 0 < len(kept) < 20, len(kept)
assert max(each.fileno() for each in kept) <= 75
files = [os.open("/", os.O_RDONLY) for _ in range(20)]
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_flood_of_idle_connections_costs_the_run_nothing(shelf: Path, tmp_path: Path, many_descriptors: None) -> None:
    """The run has fewer descriptors than the flood has connections: without limits it ended."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))  # what the run inherits
    with ExitStack() as over:
        run = over.enter_context(live(shelf, tmp_path, "--web", "0"))
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        port = int(run.address.rstrip("/").rpartition(":")[2])
        wait_until(lambda: len(run.events()) > 5)
        with flood(port, FLOOD) as connections:
            seen = len(run.events())
            wait_until(lambda: len(run.events()) > seen + 20)
            assert answer_from("127.0.0.2", port, "/api/state").status == 200
            open_files = len(list(Path(f"/proc/{run.process.pid}/fd").iterdir()))
            assert open_files < 200
            wait_until(lambda: all(is_closed(each) for each in connections[:: FLOOD // 20]), timeout_s=30)
            assert answer_from("127.0.0.1", port, "/api/state").status == 200
        assert run.process.poll() is None
    assert len(run.errors) < 2000, run.errors[:2000]


def test_a_page_still_answers_while_its_own_address_is_flooded(many_descriptors: None) -> None:
    with web_page() as (_, at), flood(at.port, 200):
        time.sleep(1.5)  # those of the flood have had the time to ask
        assert json.loads(asked(at.port, "/api/state").read())["device"] == "shelf-3"


def test_metrics_are_bounded_too_and_say_that_they_have_no_login(many_descriptors: None) -> None:
    sink = MetricsSink("127.0.0.1", 0)
    assert sink.warning is None
    with flood(sink.port, 100) as connections:
        assert answer_from("127.0.0.2", sink.port, "/metrics").status == 200
        assert sum(not is_closed(each) for each in connections) <= LIMITS.per_address
    sink.close(Deadline(lambda: True))
    everywhere = MetricsSink("0.0.0.0", 0)
    assert everywhere.warning is not None and "no login" in everywhere.warning
    everywhere.close(Deadline(lambda: True))
