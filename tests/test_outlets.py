"""A sink that is slow, stuck, failing or late costs the loop nothing but what is counted."""

from __future__ import annotations

import threading
import time

import pytest

from edgebcnn.errors import StorageError
from edgebcnn.sinks.event import Event
from edgebcnn.sinks.fan_out import EventSinks
from edgebcnn.sinks.outlet import Counts, EventSink, Outlet
from edgebcnn.worker import Deadline, WhenFull
from tests.broker import wait_until
from tests.readings import events, reading, stamp

DROP, WAIT = WhenFull.DROP_OLDEST, WhenFull.WAIT


class Kept(EventSink):
    """Keeps what it is given, once it may."""

    name = "kept"

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.may = threading.Event()
        self.may.set()
        self.has_begun = threading.Event()
        self.is_closed = False

    def write(self, event: Event) -> None:
        self.has_begun.set()
        self.may.wait()
        self.events.append(event)

    def close(self, deadline: Deadline) -> None:
        self.is_closed = True


class Failing(Kept):
    """Raises for its first events."""

    def __init__(self, error: Exception, times: int) -> None:
        super().__init__()
        self._error, self._times = error, times

    def write(self, event: Event) -> None:
        if self._times:
            self._times -= 1
            raise self._error
        super().write(event)


def hurried() -> bool:
    return True


def test_a_stuck_sink_loses_its_oldest_events_and_costs_the_others_none() -> None:
    stuck, free = Kept(), Kept()
    stuck.may.clear()
    outlets = [Outlet(stuck, when_full=DROP, capacity=10), Outlet(free, when_full=DROP, capacity=1000)]
    sinks = EventSinks(outlets, stamp=stamp())
    sinks.write(reading(0))
    stuck.has_begun.wait()
    for frame in range(1, 500):
        sinks.write(reading(frame))
    wait_until(lambda: len(free.events) == 500)
    stuck.may.set()
    sinks.close()
    frames = [event.model_dump()["frame"] for event in stuck.events]
    assert frames == [0, *range(490, 500)], "the one that was being written, and the newest"
    assert sinks.counts() == (Counts("kept", delivered=11, dropped=489), Counts("kept", delivered=500))


def test_a_sink_that_must_lose_nothing_makes_the_loop_wait() -> None:
    slow = Kept()
    slow.may.clear()
    outlet = Outlet(slow, when_full=WAIT, capacity=5)
    threading.Timer(0.2, slow.may.set).start()
    for event in events(50):
        outlet.put(event)
    outlet.finish()
    assert slow.events and len(slow.events) == 50
    assert outlet.counts() == Counts("kept", delivered=50)


def test_a_sink_that_must_lose_nothing_and_stands_still_ends_the_loop() -> None:
    stuck = Kept()
    stuck.may.clear()
    outlet = Outlet(stuck, when_full=WAIT, in_a_hurry=lambda: False, capacity=2, patience_s=0.1)
    with pytest.raises(StorageError, match=r"kept has taken nothing for 0.1 s"):
        for event in events(5):
            outlet.put(event)
    stuck.may.set()


def test_a_write_that_fails_for_a_while_is_repeated() -> None:
    sink = Failing(StorageError("no space left"), times=2)
    outlet = Outlet(sink, when_full=WAIT)
    for event in events(3):
        outlet.put(event)
    outlet.finish()
    assert [event.model_dump()["frame"] for event in sink.events] == [0, 1, 2]


def test_a_disk_that_stays_full_ends_the_loop_with_its_own_sentence() -> None:
    outlet = Outlet(Failing(StorageError("no space left"), times=1000), when_full=WAIT, patience_s=0.1)
    outlet.put(events(1)[0])
    with pytest.raises(StorageError, match="no space left"):
        for event in events(1000):
            outlet.put(event)
            time.sleep(0.01)
    with pytest.raises(StorageError, match="no space left"):
        outlet.finish()


def test_what_a_sink_raises_unforeseen_is_raised_in_the_loop_and_keeps_no_other_from_its_event() -> None:
    broken, whole = Failing(ZeroDivisionError("a bug"), times=1), Kept()
    sinks = EventSinks([Outlet(broken, when_full=DROP), Outlet(whole, when_full=DROP)], stamp=stamp())
    sinks.write(reading(0))
    with pytest.raises(ZeroDivisionError):
        for frame in range(1, 1000):
            sinks.write(reading(frame))
            time.sleep(0.01)
    with pytest.raises(ZeroDivisionError):
        sinks.close()
    assert len(whole.events) == whole.events[-1].model_dump()["frame"] + 1
    assert broken.is_closed and whole.is_closed


def test_closing_delivers_what_is_queued() -> None:
    slow = Kept()
    slow.may.clear()
    outlet = Outlet(slow, when_full=DROP)
    for event in events(100):
        outlet.put(event)
    threading.Timer(0.2, slow.may.set).start()
    outlet.finish()
    assert outlet.counts() == Counts("kept", delivered=100)
    assert slow.is_closed


def test_who_is_in_a_hurry_waits_less_than_a_second_for_a_stuck_sink() -> None:
    stuck = Kept()
    stuck.may.clear()
    outlets = [Outlet(stuck, when_full=DROP, in_a_hurry=hurried)]
    sinks = EventSinks(outlets, stamp=stamp())
    for frame in range(7):
        sinks.write(reading(frame))
    began_s = time.monotonic()
    sinks.close()
    assert time.monotonic() - began_s < 1
    assert sinks.counts() == (Counts("kept", dropped=7),)
    stuck.may.set()


def test_a_sink_that_must_lose_nothing_says_how_many_it_lost_in_a_hurry() -> None:
    stuck = Kept()
    stuck.may.clear()
    outlet = Outlet(stuck, when_full=WAIT, in_a_hurry=hurried, capacity=3)
    for event in events(7):
        outlet.put(event)  # more than fit, since nobody may wait
    with pytest.raises(StorageError, match="7 events did not get into kept in time"):
        outlet.finish()
    stuck.may.set()
