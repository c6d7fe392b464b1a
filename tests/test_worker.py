"""A worker never delays who feeds it, counts what it drops, and hands over its failure."""

from __future__ import annotations

import threading
import time

import pytest

from edgebcnn.worker import BackgroundTask, WhenFull, Worker
from tests.broker import wait_until


def test_a_full_queue_drops_the_newest_items_and_counts_them() -> None:
    may, handled = threading.Event(), list[int]()

    def handle(item: int) -> None:
        may.wait()
        handled.append(item)

    worker = Worker("test", handle, capacity=2, when_full=WhenFull.DROP_NEWEST)
    worker.put(0)
    wait_until(lambda: len(worker) == 0)
    for item in range(1, 6):
        worker.put(item)
    may.set()
    assert worker.finish() == 0
    assert handled == [0, 1, 2]
    assert (worker.handled, worker.dropped) == (3, 3)


def test_a_failure_is_raised_where_items_are_queued() -> None:
    closed = threading.Event()

    def handle(item: int) -> None:
        raise ZeroDivisionError(item)

    worker = Worker("test", handle, capacity=2, on_close=lambda deadline: closed.set())
    worker.put(1)
    wait_until(closed.is_set)
    wait_until(lambda: worker.failure is not None)
    with pytest.raises(ZeroDivisionError):
        worker.put(2)
    with pytest.raises(ZeroDivisionError):
        worker.finish()
    assert worker.dropped == 1


def test_a_pause_ends_when_the_task_is_stopped() -> None:
    stopped = list[bool]()
    task = BackgroundTask("test", lambda: stopped.append(task.pause(60)))
    task.start()
    began_s = time.monotonic()
    task.stop()
    task.join(5)
    assert stopped == [True]
    assert time.monotonic() - began_s < 5
