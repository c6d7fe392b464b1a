"""Reads the images of a CSI camera from `rpicam-vid`, which uses libcamera.

On today's Raspberry Pi OS, `/dev/video0` of such a camera gives what the sensor saw, raw and at an exposure that nobody
sets. libcamera makes pictures of it, and OpenCV does not know libcamera. `rpicam-vid`, which comes with that system,
does: it runs beside us and writes JPEGs into a pipe. docs/service.md#csi-cameras lists what is relied on.
"""

from __future__ import annotations

import os
import re
import selectors
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgebcnn.camera_view import View
from edgebcnn.errors import CameraError
from edgebcnn.sources import kill_with_parent as leash
from edgebcnn.sources.capture import MAX_DRIVER_LAG_S, Picture
from edgebcnn.sources.jpeg_stream import JpegCutter, decoded

PREFIX = "csi:"
PROGRAMS = ("rpicam-vid", "libcamera-vid")  # its name, and the name that it had until 2023
OPTIONS_VARIABLE = "EDGEBCNN_RPICAM_OPTIONS"

SIZE_PX = (1280, 720)  # rpicam-vid's own is 640x480
QUALITY = 90  # rpicam-vid's own, 50, is for videos that should be small

CHUNK_BYTES = 1 << 16  # as many as a pipe holds
KEPT_BYTES = 4096  # of what it says: its last line counts
LONGEST_WORDS = 200
POLL_S = 0.1  # how soon it is noticed that nobody wants pictures any more
KILL_TIMEOUT_S = 1.0
RELEASE_TIMEOUT_S = 1.5
LIST_TIMEOUT_S = 10.0

_LISTED = re.compile(r"^ *(\d+) : (.+?) (?:\[.*\] )?\((.+)\)$", re.MULTILINE)
_STAMP = re.compile(rb"SensorTimestamp=(\d+)")  # in nanoseconds, by the clock of `time.monotonic`
_FRAMING = re.compile(r"^ERROR: \*\*\* | \*\*\*$|^\[[\d:.]+\] +\[\d+\] +")


@dataclass(frozen=True)
class CsiCamera:
    """A camera that libcamera knows: its place in the list, its sensor, and where on the board it is plugged in."""

    index: int
    sensor: str
    path: str


def csi_cameras(*, timeout_s: float = LIST_TIMEOUT_S) -> tuple[CsiCamera, ...]:
    """What `rpicam-vid --list-cameras` lists; nothing where it is not installed, fails or takes longer."""
    program = _program()
    if program is None:
        return ()
    try:
        ended = subprocess.run(
            [program, "--list-cameras"], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout_s
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    listed = ended.stdout.decode(errors="replace")
    return tuple(CsiCamera(int(index), sensor, path) for index, sensor, path in _LISTED.findall(listed))


class CsiOpener:
    """Opens one CSI camera, now and after each loss.

    Args:
        wanted: Its index, or its path or an end of that, as `rpicam-vid --list-cameras` lists both.
        view: Size and rate; a camera that is not asked for a size films in `SIZE_PX`.
    """

    def __init__(self, wanted: str, view: View) -> None:
        self._wanted, self._view = wanted, view
        self._before: CsiCapture | None = None

    def __call__(self, timeout_s: float) -> CsiCapture:
        """Opens it in at most so many seconds.

        Raises:
            CameraError: it cannot be opened, or does not film in the size that was asked for.
        """
        program = _program()
        if program is None:
            raise CameraError(
                f"cannot be opened: {PROGRAMS[0]}, which reads it, is not on this machine; on Raspberry Pi OS, "
                "sudo apt install rpicam-apps-lite"
            )
        if self._before is not None:
            self._before.release()
            if self._before.is_stuck():  # another one would hang as well, and each has its memory
                raise CameraError("hangs in its driver and cannot be ended: restart this machine")
        self._before = capture = CsiCapture(self._command(program, timeout_s), size_px=self._view.size_px)
        try:
            capture.await_first(timeout_s)
        except CameraError:
            capture.release()
            raise
        return capture

    def _command(self, program: str, timeout_s: float) -> list[str]:
        width_px, height_px = self._view.size_px or SIZE_PX
        return [
            *(program, "--camera", self._index(timeout_s), "--width", str(width_px), "--height", str(height_px)),
            *(("--framerate", f"{self._view.rate_fps:g}") if self._view.rate_fps else ()),
            *("--codec", "mjpeg", "--quality", str(QUALITY), "--timeout", "0", "--nopreview"),
            *("--flush", "--output", "-"),  # else the end of a picture waits for the next
            *_own_options(),
        ]

    def _index(self, timeout_s: float) -> str:
        if self._wanted.isascii() and self._wanted.isdigit():
            return self._wanted
        cameras = csi_cameras(timeout_s=timeout_s)
        found = [each for each in cameras if f"/{each.path}".endswith(f"/{self._wanted.lstrip('/')}")]
        if len(found) != 1:
            there = ", ".join(f"{PREFIX}{each.index} or {PREFIX}{each.path}" for each in cameras) or "none"
            which = f"{len(found)} cameras have such a path" if found else "no camera has such a path"
            raise CameraError(f"cannot be opened: {which}; {PROGRAMS[0]} --list-cameras lists {there}")
        return str(found[0].index)


class CsiCapture:
    """A camera that `rpicam-vid` reads.

    A thread of its own starts the program, takes all that it writes at once, and ends it. One thread, because the
    program ends with the thread that started it (see `kill_with_parent.py`). At once, because pictures that nobody
    takes pile up in the program's memory and grow old there. Only the newest is decoded.

    When the sensor took a picture is told a moment after the picture itself: a picture is taken for as old at its
    arrival as the one before it was.

    Args:
        command: The program and its arguments.
        size_px: What pictures must have; None takes any.
    """

    def __init__(self, command: Sequence[str], *, size_px: tuple[int, int] | None = None) -> None:
        self._command, self._size_px = command, size_px
        self._program = Path(command[0]).name
        self._first: Picture | None = None
        self._over = threading.Event()
        self._changed = threading.Condition()  # guards the three below
        self._newest: tuple[bytes, float] | None = None
        self._passed_over = 0
        self._end: str | BaseException | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._cutter = JpegCutter()
        self._arrived_s = self._lag_s = 0.0
        self._stamps = self._words = b""
        self._receiver = threading.Thread(target=self._receive, name="filming", daemon=True)
        self._receiver.start()

    def await_first(self, timeout_s: float) -> None:
        """Waits until it films; `read` gives that picture.

        Raises:
            CameraError: it does not, or not in the size that pictures must have.
        """
        try:
            self._first = self._next(timeout_s)
        except _Silent as silent:
            reason = silent.reason or f"{self._program} gave no picture within {timeout_s:.3g} s{self._last_words()}"
            raise CameraError(
                f"cannot be opened: {reason}; {self._program} --list-cameras lists what is there, and only one program "
                "at a time can use a camera"
            ) from None
        image_bgr, asked_px = self._first.image_bgr, self._size_px
        if image_bgr is None or asked_px is None:
            return
        films_px = image_bgr.shape[1], image_bgr.shape[0]
        if films_px != asked_px:
            films, asked = ("{}x{}".format(*size_px) for size_px in (films_px, asked_px))
            raise CameraError(f"films in {films}, not in {asked}: give a --size that it has, or none")

    def read(self) -> Picture:
        """Waits for the next picture; where several came meanwhile, the newest is decoded."""
        first, self._first = self._first, None
        if first is not None:
            return first
        try:
            return self._next(None)
        except _Silent as silent:
            raise CameraError(f"stopped giving frames: {silent.reason}") from None

    def abort(self) -> None:
        """Ends a read that waits."""
        self._over.set()
        self._finish("it was aborted")

    def release(self) -> None:
        """Ends the program."""
        self._over.set()
        self._receiver.join(RELEASE_TIMEOUT_S)

    def is_stuck(self) -> bool:
        """Whether the program is still there after its end, which no signal can hasten."""
        return self._child is not None and self._child.poll() is None

    def _next(self, timeout_s: float | None) -> Picture:
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._end, timeout_s)
            if self._newest is None:
                if isinstance(self._end, BaseException):
                    raise self._end
                raise _Silent(self._end)
            (jpeg, captured_s), self._newest = self._newest, None
            passed_over, self._passed_over = self._passed_over, 0
        image_bgr = decoded(jpeg)
        return Picture(image_bgr, captured_s, passed_over=passed_over, broken=int(image_bgr is None))

    def _finish(self, end: str | BaseException) -> None:
        with self._changed:
            self._end = self._end or end
            self._changed.notify()

    def _receive(self) -> None:
        try:
            with _filming(self._command) as (child, stamps):
                self._child = child
                self._listen(child, stamps)
            self._finish(f"{self._program} {_how_it_ended(child.returncode)}{self._last_words()}")
        except OSError as error:
            self._finish(f"{self._program} cannot be run ({error.strerror})")
        except BaseException as error:  # raised again where the camera is read
            self._finish(error)

    def _listen(self, child: subprocess.Popen[bytes], stamps: IO[bytes]) -> None:
        """Takes what comes through any of the three pipes, pictures first, until all are closed."""
        assert child.stdout and child.stderr
        takers = {child.stdout: self._take_pictures, stamps: self._take_stamps, child.stderr: self._take_words}
        with selectors.DefaultSelector() as selector:
            for pipe in takers:
                selector.register(pipe, selectors.EVENT_READ)
            while selector.get_map() and not self._over.is_set():
                ready = {key.fd for key, _ in selector.select(POLL_S)}
                for pipe, take in takers.items():
                    if pipe.fileno() not in ready:
                        continue
                    if received := os.read(pipe.fileno(), CHUNK_BYTES):
                        take(received)
                    else:
                        selector.unregister(pipe)

    def _take_pictures(self, received: bytes) -> None:
        if not (pictures := self._cutter.cut(received)):
            return
        self._arrived_s = time.monotonic()
        with self._changed:
            self._passed_over += len(pictures) - 1 + (self._newest is not None)
            self._newest = pictures[-1], self._arrived_s - self._lag_s
            self._changed.notify()

    def _take_stamps(self, received: bytes) -> None:
        *lines, rest = (self._stamps + received).split(b"\n")
        self._stamps = rest[-KEPT_BYTES:]
        for line in lines:
            if stamp := _STAMP.fullmatch(line):
                lag_s = self._arrived_s - int(stamp[1]) / 1e9
                self._lag_s = lag_s if 0 <= lag_s < MAX_DRIVER_LAG_S else 0.0

    def _take_words(self, received: bytes) -> None:
        self._words = (self._words + received)[-KEPT_BYTES:]

    def _last_words(self) -> str:
        """The last line that is no figure of a frame, in brackets; empty where there is none."""
        lines = (line.strip() for line in self._words.decode(errors="replace").splitlines())
        *_, last = ("", *(line for line in lines if line and not line.startswith("#")))
        plain = "".join(filter(str.isprintable, _FRAMING.sub("", last)))
        return f" ({plain[:LONGEST_WORDS]})" if plain else ""


class _Silent(Exception):
    """No picture came; `reason` is None where one may still come."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(reason)
        self.reason = reason


@contextmanager
def _filming(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The program, and the pipe in which it tells of its pictures; at the end of the block, both are gone."""
    reading, writing = os.pipe()
    with open(reading, "rb", 0) as stamps:
        with open(writing, "wb", 0) as told:
            child = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command),
                    *("--metadata", f"/dev/fd/{told.fileno()}", "--metadata-format", "txt"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[told.fileno()],
                start_new_session=True,  # a group of its own to kill, and out of reach of the terminal's Ctrl-C
                env={**os.environ, "LIBCAMERA_LOG_NO_COLOR": "1"},
            )
        try:
            yield child, stamps
        finally:
            _kill(child)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Ends it with all that it started. It has nothing to save, and one that hangs in its camera heeds nothing else."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        child.wait(KILL_TIMEOUT_S)
    for pipe in (child.stdout, child.stderr):
        assert pipe
        pipe.close()


def _how_it_ended(code: int | None) -> str:
    if code is None:
        return "closed its output and cannot be ended"
    return f"ended with exit code {code}" if code >= 0 else f"was ended by signal {-code}"


def _program() -> str | None:
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


def _own_options() -> list[str]:
    """What the user wants of the program besides."""
    try:
        return shlex.split(os.environ.get(OPTIONS_VARIABLE, ""))
    except ValueError as error:
        raise CameraError(f"cannot be opened: {OPTIONS_VARIABLE} is no list of options ({error}): correct it") from None
