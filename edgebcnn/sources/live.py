"""Keeps the newest frame of a live source, and reconnects when the source is lost.

A thread reads the source and keeps the newest frame alone, so that a slow model sees the shelf as it is now and not a
growing queue of the past. When the source ends, stalls or sends garbage, the thread opens it again, ever more slowly,
until the budget is spent. Whoever takes frames waits meanwhile, and is never given one that was seen before.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

import cv2

from edgebcnn.backoff import Backoff
from edgebcnn.camera_view import AS_IT_IS, View
from edgebcnn.errors import CameraError
from edgebcnn.progress import Reporter
from edgebcnn.sources.capture import Capture, Opener, Picture
from edgebcnn.sources.frames import Done, Frame, Source
from edgebcnn.sources.reconnect import FIRST_PAUSE_S, HEALTHY_S, LONGEST_PAUSE_S, Patience

OPEN_TIMEOUT_S = 10.0  # a camera that wakes up answers within seconds
REOPEN_TIMES = 3.0  # times as long as the first opening: on a network that was cut, a new attempt beats an old one
SHORTEST_REOPEN_S = 1.0
REOPEN_GROWTH = (1, 2, 4)  # and again from the first, so that a source that became slow is reached too
OPEN_SLACK_S = 2.0  # beyond its limit, an opening hangs
FIRST_FRAME_TIMEOUT_S = 1.0  # an open camera gives its first frame sooner; SIGTERM waits for so long at most
STOP_POLL_S = 0.1  # how soon a wait for a frame notices that it should stop
JOIN_TIMEOUT_S = 0.5  # a driver that does not return must not hold up the end; the thread is a daemon
MAX_STUCK = 8  # threads that hang in a driver; each keeps a connection and a picture or two
INTERVAL_WEIGHT = 0.1  # of the newest frame interval in the running mean


@dataclass
class _Loss:
    """The source is lost, or was lost so recently that it is not yet well."""

    reason: str
    since_s: float
    lost_since_s: float  # before `since_s` where it had come back for a moment only
    back_s: float | None = None


class LiveStream(Source):
    """A camera or network stream of which the newest frame is wanted.

    The first opening happens at once, in the caller's thread.

    Args:
        name: What was asked for, without its password.
        opener: Opens the source, now and after each loss.
        patience: When it counts as lost, and for how long it reconnects.

    Raises:
        CameraError: it cannot be opened.
    """

    is_live = True

    def __init__(
        self, name: str, opener: Opener, *, reporter: Reporter, patience: Patience, view: View = AS_IT_IS
    ) -> None:
        super().__init__(name, reporter, view=view)
        self._opener = opener
        self._patience = patience
        begun_s = time.monotonic()
        capture = _opened(opener)
        took_s = time.monotonic() - begun_s
        self._reopen_timeout_s = min(OPEN_TIMEOUT_S, max(SHORTEST_REOPEN_S, REOPEN_TIMES * took_s))
        self._changed = threading.Condition()  # guards all below
        self._newest: Frame | None = None
        self._next_index = 0
        self._interval_s: float | None = None
        self._last_frame_s: float | None = None
        self._loss: _Loss | None = None
        self._bug: BaseException | None = None
        self._stuck: list[_Reader] = []
        self._reader = _Reader(self, capture)

    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields the newest frame each time, never one twice.

        Raises:
            CameraError: the source was lost and did not come back within its budget.
        """
        while not done():
            frame = self._take(wait_s=STOP_POLL_S)
            if frame is not None:
                yield frame
            else:
                self._check_loss()
                self._check_stall()

    def size_px(self) -> tuple[int, int] | None:
        """Width and height of the newest frame, for which it waits a moment; None where none comes."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None, FIRST_FRAME_TIMEOUT_S)
            return None if self._newest is None else self._newest.image_bgr.shape[1::-1]

    def newest(self) -> Frame | None:
        """The newest frame, if one is there that nobody took."""
        return self._take(wait_s=0)

    def close(self) -> None:
        """Stops the thread, which lets go of the camera."""
        self._reader.retire()
        self._reader.join(JOIN_TIMEOUT_S)

    def status(self) -> str:
        """`camera 0 gives frames`, or since when and why it does not."""
        with self._changed:
            loss = self._loss
        if loss is None or loss.back_s is not None:
            return super().status()
        return f"{self.name} {loss.reason}, reconnecting for {time.monotonic() - loss.since_s:.0f} s"

    def lost_s(self) -> float | None:
        """For how long it has been lost; None while it gives frames."""
        with self._changed:
            loss = self._loss
        return None if loss is None or loss.back_s is not None else time.monotonic() - loss.since_s

    def _take(self, *, wait_s: float) -> Frame | None:
        with self._changed:
            if self._newest is None:
                self._changed.wait(wait_s)
            frame, self._newest = self._newest, None
            return frame

    def _check_loss(self) -> None:
        with self._changed:
            loss, bug = self._loss, self._bug
        if bug is not None:
            raise bug
        if loss is None or loss.back_s is not None:
            return
        away_s = time.monotonic() - loss.lost_since_s
        if away_s >= self._patience.max_outage_s:
            attempts = f" and did not reconnect for good within {away_s:.0f} s" if self._patience.max_outage_s else ""
            raise CameraError(f"{self.name} {loss.reason}{attempts}: check the camera, its cable or network")

    def _check_stall(self) -> None:
        reason = self._reader.overdue(self._patience, self._interval_s)
        if reason is None:
            return
        self._reader.retire()
        self._lose(reason)
        self._stuck = [reader for reader in [*self._stuck, self._reader] if reader.is_alive()]
        if len(self._stuck) > MAX_STUCK:
            raise CameraError(f"{self.name} hangs in its driver: unplug and replug the camera, or start this again")
        self._reader = _Reader(self, None)

    def _lose(self, reason: str) -> None:
        with self._changed:
            known = self._loss
            if known is None or known.back_s is not None:
                since_s = self._last_frame_s or time.monotonic()
                self._loss = _Loss(reason, since_s, known.lost_since_s if known else since_s)
            self._last_frame_s = None
        if known is None and self._patience.max_outage_s:
            self._reporter.say(f"{self.name} {reason}: reconnecting for up to {self._patience.max_outage_s:g} s")

    def _put(self, picture: Picture, reader: _Reader) -> None:
        image = None if picture.image_bgr is None else self._view.upright(picture.image_bgr)
        with self._changed:
            if reader.retired.is_set():  # it was given up; what it brings now is old
                return
            self.dropped += picture.passed_over
            self.unreadable += picture.broken
            self._next_index += picture.passed_over + picture.broken
            if image is None:
                return
            self.dropped += self._newest is not None
            self._newest = Frame(self._next_index, image, picture.captured_monotonic_s)
            self._next_index += 1
            self._note_frame(time.monotonic())
            self._changed.notify()

    def _note_frame(self, now_s: float) -> None:
        if self._last_frame_s is not None:
            interval_s = now_s - self._last_frame_s
            mean_s = interval_s if self._interval_s is None else self._interval_s
            self._interval_s = mean_s + INTERVAL_WEIGHT * (interval_s - mean_s)
        self._last_frame_s = now_s
        if self._loss is None:
            return
        if self._loss.back_s is None:
            self._loss.back_s = now_s
            self.restarts += 1
            self.outage_s += now_s - self._loss.since_s
        elif now_s - self._loss.back_s >= HEALTHY_S:
            self._reporter.say(f"{self.name} reconnected after {self._loss.back_s - self._loss.since_s:.1f} s")
            self._loss = None


def _opened(opener: Opener) -> Capture:
    """Opens in a thread, so that a signal interrupts the wait for a driver or network that does not answer."""
    outcome: queue.SimpleQueue[Capture | BaseException] = queue.SimpleQueue()

    def attempt() -> None:
        try:
            outcome.put(opener(OPEN_TIMEOUT_S))
        except BaseException as error:  # raised again where the source is opened
            outcome.put(error)

    threading.Thread(target=attempt, name="opening", daemon=True).start()
    capture = outcome.get()
    if isinstance(capture, BaseException):
        raise capture
    return capture


class _Reader(threading.Thread):
    """Reads a source until it is retired, opening it again after each loss.

    Args:
        stream: Where frames and losses are told.
        capture: The open source; None opens it first.
    """

    def __init__(self, stream: LiveStream, capture: Capture | None) -> None:
        super().__init__(name=f"reader of {stream.name}", daemon=True)
        self.retired = threading.Event()
        self._sign_of_life_s = self._whole_s = time.monotonic()
        self._stream = stream
        self._capture = capture
        self._opening = capture is None
        self._open_timeouts_s = cycle(
            min(OPEN_TIMEOUT_S, stream._reopen_timeout_s * growth) for growth in REOPEN_GROWTH
        )
        self._open_timeout_s = stream._reopen_timeout_s
        self.start()

    def overdue(self, patience: Patience, interval_s: float | None) -> str | None:
        """What it should have brought by now; None while there is still time.

        A stream that brings broken pictures may mend by itself, as a video does at its next key frame.
        """
        now_s = time.monotonic()
        silent_s, limit_s = now_s - self._sign_of_life_s, patience.stall_s(interval_s)
        if self._opening:
            limit_s = self._open_timeout_s + OPEN_SLACK_S
        elif now_s - self._whole_s > patience.stall_timeout_s >= silent_s:
            return f"gave no whole frame for {patience.stall_timeout_s:g} s"
        return f"gave no frame for {limit_s:.2g} s" if silent_s > limit_s else None

    def retire(self) -> None:
        """Ends it as soon as it can; nothing that it still brings is taken."""
        self.retired.set()
        capture = self._capture
        if capture is not None:
            capture.abort()

    def run(self) -> None:
        """Reads, and mends what broke."""
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        try:
            while not self.retired.is_set():
                reason = self._read_until_lost(backoff)
                if not self.retired.is_set():
                    self._stream._lose(reason)
                self.retired.wait(backoff.pause_s())
        except BaseException as bug:
            with self._stream._changed:
                self._stream._bug = bug  # raised where frames are taken

    def _read_until_lost(self, backoff: Backoff) -> str:
        try:
            if self._capture is None:
                self._open_timeout_s = next(self._open_timeouts_s)
                self._live(opening=True)
                self._capture = self._stream._opener(self._open_timeout_s)
            self._whole_s = time.monotonic()
            begun_s = self._live(opening=False)
            while not self.retired.is_set():
                picture = self._capture.read()
                self._stream._put(picture, self)
                now_s = self._live(opening=False)
                if picture.image_bgr is not None:
                    self._whole_s = now_s
                    if now_s - begun_s >= HEALTHY_S:
                        backoff.reset()
        except CameraError as error:
            return str(error)
        except cv2.error as error:
            return f"cannot be read: OpenCV gave up ({error.err})"
        finally:
            if self._capture is not None:
                self._capture.release()
                self._capture = None
            self._live(opening=True)
        return "is retired"

    def _live(self, *, opening: bool) -> float:
        self._opening, self._sign_of_life_s = opening, time.monotonic()
        return self._sign_of_life_s
