"""Shows a run in a window, from a process of its own, so that a window that hangs or dies never delays the loop.

`python -m edgebcnn.sinks.window TITLE` is that process: it reports that it is ready, shows the images that come in, and
ends when its input ends or the window is closed.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from select import select
from typing import IO, TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.admission import own_environment
from edgebcnn.errors import SinkError
from edgebcnn.loop.reading import Reading
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.progress import Reporter
from edgebcnn.shelf.draw import Colour, enlarged, mark, write
from edgebcnn.shelf.watch import SlotState
from edgebcnn.sources.frames import Frame
from edgebcnn.worker import BackgroundTask

if TYPE_CHECKING:
    from edgebcnn.shelf.watch import ShelfWatch

IMAGES_PER_S = 10
LARGEST_PX = 1280  # of the longer side
START_S = 30.0
LEAVE_S = 0.5
POLL_MS = 30

READY, NO_WINDOWS = b"ready\n", 3
_SIZE = struct.Struct("<II")
_KEYS = {27, ord("q")}  # Escape

# The colors of the web page.
_COLORS: dict[SlotState | None, Colour] = {
    SlotState.RIGHT: (147, 206, 111),
    SlotState.WRONG: (128, 138, 255),
    SlotState.EMPTY: (80, 180, 230),
    SlotState.UNKNOWN: (221, 217, 213),
    SlotState.OCCLUDED: (240, 161, 195),
    None: (221, 217, 213),
}


class Window:
    """A frame sink that shows the newest frame with its reading in a window.

    Args:
        title: Title of the window.
        watch: The watched slots; None where whole frames are read.
        stop: Set when the window is closed.
        reporter: Informed when the window fails; the run continues.
        command: Command of the process with the window.

    Raises:
        SinkError: OpenCV has no windows, or there is no screen.
    """

    def __init__(
        self,
        title: str,
        *,
        watch: ShelfWatch | None,
        stop: threading.Event,
        reporter: Reporter,
        command: Sequence[str] = (sys.executable, "-m", __name__),
    ) -> None:
        self._outlines = watch.slot_map.outlines() if watch else []
        self._stop, self._reporter = stop, reporter
        self._newest: tuple[Frame, Reading | ShelfReading] | None = None
        self._process = _opened([*command, title])
        self._task = BackgroundTask("window", self._work)
        self._task.start()

    def write(self, frame: Frame, reading: Reading) -> None:
        """Takes a frame and its reading."""
        self._newest = frame, reading

    def write_shelf(self, frame: Frame, reading: ShelfReading) -> None:
        """Takes a frame and the states of its slots."""
        self._newest = frame, reading

    def close(self) -> None:
        """Closes the window, and ends its process if it hangs."""
        self._task.stop()
        self._task.join(LEAVE_S)
        self._process.kill()
        self._process.wait()
        self._task.raise_failure()

    def _work(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        shown: tuple[Frame, Reading | ShelfReading] | None = None
        with suppress(OSError), pipe:  # it ended in the meantime
            while self._process.poll() is None and not self._task.pause(1 / IMAGES_PER_S):
                newest = self._newest
                if newest is not None and newest is not shown:
                    shown = newest
                    _send(pipe, draw_frame(*newest, self._outlines))
        if self._task.is_stopping:
            return
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVE_S)
        if self._process.poll() == 0:
            self._stop.set()
        else:
            self._reporter.say(f"the window ended by itself ({self._process.poll()}): the run continues without it")


def draw_frame(
    frame: Frame, reading: Reading | ShelfReading, outlines: Sequence[Sequence[tuple[float, float]]]
) -> NDArray[np.uint8]:
    """Draws the frame in a size for the screen, with its products or the states of its slots.

    Args:
        frame: The frame.
        reading: Its reading.
        outlines: Corners of each slot, in shares of the frame.

    Returns:
        `(h, w, 3)` uint8 BGR.
    """
    shrink = LARGEST_PX / max(frame.image_bgr.shape[:2])
    drawn = enlarged(frame.image_bgr)
    if shrink < 1:
        drawn = np.asarray(
            cv2.resize(frame.image_bgr, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), np.uint8
        )
    height_px, width_px = drawn.shape[:2]
    if isinstance(reading, ShelfReading):
        for slot, outline in zip(reading.slots, outlines, strict=True):
            lines = [f"{slot.slot}: {slot.state.value if slot.state else 'not settled'}"]
            lines += [slot.product.name] if slot.product else []
            mark(drawn, np.round(np.asarray(outline) * (width_px, height_px)), lines, _COLORS[slot.state])
    lines = [f"skipped: {reading.reason}"] if reading.reason else []
    if isinstance(reading, Reading):
        lines += [f"{product.label} {100 * product.score:.1f} %" for product in reading.top3]
    write(drawn, lines, (0, 0), _COLORS[None])
    return drawn


def _opened(command: Sequence[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=own_environment(),
        start_new_session=True,  # Ctrl-C reaches the main process alone
    )
    assert process.stdout is not None
    if select([process.stdout], [], [], START_S)[0] and process.stdout.readline() == READY:
        return process
    with suppress(subprocess.TimeoutExpired):
        process.wait(LEAVE_S)
    process.kill()
    if process.wait() == NO_WINDOWS:
        raise SinkError(
            "--show needs an OpenCV with windows, and opencv-python-headless has none: pip uninstall "
            "opencv-python-headless, then pip install opencv-python, or look at --web instead"
        )
    raise SinkError("--show cannot open a window here: start it where there is a screen, or look at --web instead")


def _send(pipe: IO[bytes], picture_bgr: NDArray[np.uint8]) -> None:
    pipe.write(_SIZE.pack(*picture_bgr.shape[:2]) + np.ascontiguousarray(picture_bgr).tobytes())
    pipe.flush()


def pictures(pipe: IO[bytes]) -> Iterator[NDArray[np.uint8]]:
    """Yields the images that `Window` sends, `(h, w, 3)` uint8 BGR, until it closes the pipe."""
    while len(size := pipe.read(_SIZE.size)) == _SIZE.size:
        height_px, width_px = _SIZE.unpack(size)
        content = pipe.read(3 * height_px * width_px)
        if len(content) == 3 * height_px * width_px:
            yield np.frombuffer(content, np.uint8).reshape(height_px, width_px, 3)


def main(title: str) -> int:
    """Opens the window, and shows the images that come in."""
    try:
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
    except cv2.error:
        return NO_WINDOWS
    newest: list[NDArray[np.uint8]] = []
    over = threading.Event()

    def read() -> None:
        for picture in pictures(sys.stdin.buffer):
            newest[:] = [picture]
        over.set()

    threading.Thread(target=read, daemon=True).start()
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    size_px = (0, 0)
    while not over.is_set():
        if newest:
            picture = newest.pop()
            if picture.shape[:2] != size_px:
                size_px = picture.shape[:2]
                cv2.resizeWindow(title, size_px[1], size_px[0])
            cv2.imshow(title, picture)
        if cv2.waitKey(POLL_MS) & 0xFF in _KEYS or not _is_open(title):
            break
    return 0


def _is_open(title: str) -> bool:
    try:
        return cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1
    except cv2.error:  # Qt raises this once its last window is closed
        return False


if __name__ == "__main__":
    # At once: the interpreter's own end aborts while a thread waits for input.
    os._exit(main(sys.argv[1]))
