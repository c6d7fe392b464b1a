"""Opens a camera or network stream with OpenCV and reads its images.

A capture is one connection: it is read until it ends, and never mends itself. `edgebcnn.sources.live` opens the next.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.camera_view import View
from edgebcnn.errors import CameraError

MAX_FAILED_READS = 5  # a webcam's broken JPEG fails once; an unplugged camera or an ended stream, each time
RETRY_PAUSE_S = 0.1
MAX_DRIVER_LAG_S = 10.0  # a capture time that is older, or in the future, is of another clock

OPTIONS_VARIABLE = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
# TCP is OpenCV's own default for RTSP; discardcorrupt drops pictures that were cut off, where FFmpeg's receiver knows.
OPENCV_OPTIONS = "rtsp_transport;tcp|fflags;discardcorrupt"

_MJPG = cv2.VideoWriter.fourcc(*"MJPG")


@dataclass(frozen=True)
class Picture:
    """What one read brought.

    Attributes:
        image_bgr: `(h, w, 3)` uint8 BGR, or None where the picture is broken.
        captured_monotonic_s: `time.monotonic()` when it was taken, where the driver tells; else when it was here whole.
        passed_over: Pictures before it that were older and were not decoded.
        broken: Pictures that were there and cannot be decoded, up to and including this one.
    """

    image_bgr: NDArray[np.uint8] | None
    captured_monotonic_s: float
    passed_over: int = 0
    broken: int = 0


class Capture(Protocol):
    """An open camera or stream. One thread opens, reads and releases; any may abort."""

    def read(self) -> Picture:
        """Waits for the next picture.

        Raises:
            CameraError: the connection is over; the message goes on after the source's name.
        """
        ...

    def abort(self) -> None:
        """Ends a read that waits, where the connection allows that."""
        ...

    def release(self) -> None:
        """Lets go of the camera or connection."""
        ...


Opener = Callable[[float], Capture]
"""Opens the source, in at most so many seconds where that can be limited; raises CameraError."""


class OpenCvCapture:
    """A camera or stream that OpenCV reads."""

    def __init__(self, capture: cv2.VideoCapture, *, driver_tells_time: bool = False) -> None:
        self._capture = capture
        self._driver_tells_time = driver_tells_time
        self._aborted = threading.Event()

    def read(self) -> Picture:
        """Waits for the next picture; single failed reads are tried again."""
        for failed in range(MAX_FAILED_READS):
            ok, image = self._capture.read()
            if ok:
                return Picture(np.asarray(image, np.uint8), self._captured_s(), broken=failed)
            if self._aborted.wait(RETRY_PAUSE_S):
                break
        raise CameraError("stopped giving frames")

    def abort(self) -> None:
        """Ends the next read; one inside the driver ends by the driver's own limit."""
        self._aborted.set()

    def release(self) -> None:
        """Lets go of it."""
        self._capture.release()

    def _captured_s(self) -> float:
        """V4L2 stamps frames by the monotonic clock when the sensor was read; some drivers stamp by another."""
        now_s = time.monotonic()
        if self._driver_tells_time:
            stamped_s = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            if now_s - MAX_DRIVER_LAG_S < stamped_s <= now_s:
                return stamped_s
        return now_s


def open_device(device: int | str, view: View) -> OpenCvCapture:
    """Opens a camera by index or path.

    Raises:
        CameraError: there is none, it may not be opened, or it does not film in the size that was asked for.
    """
    v4l2 = isinstance(device, str) or sys.platform == "linux"
    capture = cv2.VideoCapture(device, cv2.CAP_V4L2 if v4l2 else cv2.CAP_ANY)
    if not capture.isOpened():
        raise CameraError(_why_no_camera(device))
    _ask(capture, view)
    width_px, height_px = (int(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if view.size_px not in (None, (width_px, height_px)):
        capture.release()
        raise CameraError(
            f"the camera films in {width_px}x{height_px}, not in {view.size_px[0]}x{view.size_px[1]}: "
            "give a --size that it has (v4l2-ctl --list-formats-ext lists them), or none"
        )
    return OpenCvCapture(capture, driver_tells_time=v4l2)


def open_with_ffmpeg(address: str, timeout_s: float, *, silence_s: float) -> OpenCvCapture:
    """Opens an RTSP stream, or what else FFmpeg reads from the network, damaged pictures included.

    Raises:
        CameraError: nothing answers in time, or it is not a video.
    """
    limits_ms = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * timeout_s)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * silence_s)),
    ]
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, limits_ms)
    if not capture.isOpened():
        raise not_opened(timeout_s)
    return OpenCvCapture(capture)


def not_opened(timeout_s: float) -> CameraError:
    """FFmpeg does not say in a few words why it failed, and repeats the address with its password."""
    return CameraError(
        f"cannot be opened: nothing answers there within {timeout_s:.3g} s, it refuses the user and password, or "
        "it is not a video stream; check the address in a video player"
    )


def silence_opencv() -> None:
    """Our messages say what failed; OpenCV's and FFmpeg's would repeat it in several lines, with passwords.

    FFmpeg's options are read from the environment each time a capture is opened. A user's own are kept.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault(OPTIONS_VARIABLE, OPENCV_OPTIONS)
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:  # OpenCV 5 moved it
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def _ask(capture: cv2.VideoCapture, view: View) -> None:
    if view.asks_the_camera:
        capture.set(cv2.CAP_PROP_FOURCC, _MJPG)  # uncompressed, USB 2 carries 1280x720 ten times a second
    if view.size_px:
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, view.size_px[0])
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, view.size_px[1])
    if view.rate_fps:
        capture.set(cv2.CAP_PROP_FPS, view.rate_fps)


def _why_no_camera(device: int | str) -> str:
    asked = f"no camera at index {device}" if isinstance(device, int) else f"no camera at {device}"
    path = Path(f"/dev/video{device}" if isinstance(device, int) else device)
    if path.exists():
        readable = os.access(path, os.R_OK | os.W_OK)
        in_use = "it is in use or not a camera: close what uses it, or give another"
        return f"{asked}: {path} exists, but {in_use if readable else 'you may not open it: join the group video'}"
    others = ", ".join(str(other) for other in sorted(Path("/dev").glob("video*")))
    there = f"there is {others}" if others else "none was found on this machine"
    return f"{asked}: {there}; plug a camera in, or give a file, folder or address"
