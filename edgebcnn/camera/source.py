"""Where do frames come from, and which were lost on the way?

Files and folders are read frame by frame and nothing is dropped. Cameras and network streams are read in a thread that
keeps the newest frame, so that a slow model sees the shelf as it is now and not a growing queue of the past.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import cv2
import numpy as np
from numpy.typing import NDArray

from edgebcnn.camera.truth import photo_truth, video_truth
from edgebcnn.errors import CameraError, UnreadablePhotoError
from edgebcnn.preprocessing import PHOTO_SUFFIXES, read_photo
from edgebcnn.progress import Reporter, Silent

STALL_TIMEOUT_S = 10.0  # longer than a camera's own pauses (exposure change, key frame), shorter than a person waits
OPEN_TIMEOUT_S = 10.0  # a camera that wakes up answers within seconds
READ_SLACK_S = 1.0  # the stall is ours to report; FFmpeg's own limit, a little later, frees the reading thread
STOP_POLL_S = 0.1  # how soon a wait for a frame notices that it should stop
MAX_FAILED_READS = 5  # a webcam's broken JPEG fails once; an unplugged camera or an ended stream, each time
RETRY_PAUSE_S = 0.1
JOIN_TIMEOUT_S = 2.0  # a driver that does not return must not hold up the end; the thread is a daemon

_INDEX = re.compile(r"[0-9]{1,4}")  # what is longer is no camera, and OpenCV refuses it by a traceback
_ADDRESS = re.compile(r"(?:https?|rtsps?)://", re.IGNORECASE)
_SILENT = Silent()

Done = Callable[[], bool]


@dataclass(frozen=True)
class Frame:
    """One picture from a source.

    Attributes:
        index: Its number in the source, from 0; dropped and unreadable frames have numbers too.
        image_bgr: `(h, w, 3)` uint8 BGR.
        captured_monotonic_s: `time.monotonic()` at its arrival here.
        photo: Path within the folder, for photos.
        truth: Product that it really shows, where the source knows.
    """

    index: int
    image_bgr: NDArray[np.uint8]
    captured_monotonic_s: float
    photo: str | None = None
    truth: str | None = None


class Source(ABC):
    """Something that gives frames; `contextlib.closing` lets go of the camera or file.

    Attributes:
        name: What was asked for, without user, password and query.
        total: Number of frames, where it is known beforehand.
        fps: Frames a second of a video file, where it says so; they are read at another speed than they were taken at.
        dropped: Frames that a newer one replaced before anyone took them.
        unreadable: Frames or photos that are there but broken; the reporter was told of those in files and folders.
    """

    def __init__(self, name: str, reporter: Reporter, *, total: int | None = None) -> None:
        self.name = name
        self._reporter = reporter
        self.total = total
        self.fps: float | None = None
        self.dropped = 0
        self.unreadable = 0

    @abstractmethod
    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields frames until the source ends or `done()`, which is asked before each frame and while waiting for one.

        Raises:
            CameraError: a live source ended or stalled, or nothing in a file or folder could be read.
        """

    def close(self) -> None:  # noqa: B027 - photos hold nothing open
        """Lets go of the camera or file."""


def open_source(
    spec: str,
    *,
    labels: Collection[str] = (),
    reporter: Reporter = _SILENT,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> Source:
    """Opens a camera, video, folder of photos or network stream.

    Args:
        spec: Index (`0`), device (`/dev/video0`), video file, photo, folder of photos, or an http, https, rtsp or rtsps
            address.
        labels: Names of the bundle's products; truth is looked for where there are any.
        reporter: Told what cannot be read.
        stall_timeout_s: How long a live source may give no frame.

    Raises:
        CameraError: there is nothing there, or nothing that can be read.
        DataError: the source's truth file is malformed.
    """
    _silence_opencv()
    try:
        return _opened(spec, labels, reporter, stall_timeout_s)
    except OSError as error:
        raise CameraError(
            f"{masked(spec)} cannot be opened ({error.strerror}): check the path and its permissions"
        ) from error


class PhotoFolder(Source):
    """All photos of a folder and its subfolders, in the order of their paths; or one photo.

    Raises:
        CameraError: there is no photo.
    """

    def __init__(self, path: Path, labels: Collection[str], *, reporter: Reporter) -> None:
        self._root = path if path.is_dir() else path.parent
        self._photos = _photos_below(path) if path.is_dir() else [path]
        if not self._photos:
            raise CameraError(f"there is no photo in {path}: put {', '.join(sorted(PHOTO_SUFFIXES))} files there")
        self._labels = labels
        super().__init__(str(path), reporter, total=len(self._photos))

    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields every photo; one that cannot be read is named, counted and passed over."""
        for index, path in enumerate(self._photos):
            if done():
                return
            try:
                image = read_photo(path)
            except UnreadablePhotoError as error:
                self.unreadable += 1
                self._reporter.say(f"skipped {error}")
                continue
            photo = path.relative_to(self._root)
            truth = photo_truth(self._root.name / photo, self._labels)
            yield Frame(index, image, time.monotonic(), photo.as_posix(), truth)
        if self.unreadable == len(self._photos):
            raise CameraError(f"none of the {len(self._photos)} photos of {self.name} can be read: replace them")


class VideoFile(Source):
    """Every frame of a video file, in order.

    Raises:
        CameraError: the file is not a video that OpenCV can read.
        DataError: its truth file is malformed.
    """

    def __init__(self, path: Path, labels: Collection[str], *, reporter: Reporter) -> None:
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise CameraError(f"{path} is not a video that OpenCV can read, or is cut short: convert or copy it again")
        self._truth = video_truth(path, labels) if labels else {}
        promised = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        super().__init__(str(path), reporter, total=promised if promised > 0 else None)
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS)) or None

    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields every frame; frames that the header promises and that do not come are counted as unreadable."""
        index = 0
        while not done():
            ok, image = self._capture.read()
            if not ok:
                self._count_missing(index)
                return
            yield Frame(index, np.asarray(image, np.uint8), time.monotonic(), truth=self._truth.get(index))
            index += 1

    def close(self) -> None:
        """Closes the file."""
        self._capture.release()

    def _count_missing(self, read: int) -> None:
        if not read:
            raise CameraError(f"no frame of {self.name} can be read: convert the video or copy it again")
        self.unreadable = max(0, (self.total or 0) - read)
        if self.unreadable:
            self._reporter.say(
                f"{self.name} promises {self.total} frames and {read} can be read: it is damaged, and frame numbers "
                "may be shifted"
            )


class LiveStream(Source):
    """A camera or network stream, read in a thread that keeps the newest frame."""

    def __init__(self, capture: cv2.VideoCapture, name: str, *, reporter: Reporter, stall_timeout_s: float) -> None:
        super().__init__(name, reporter)
        self._capture = capture
        self._stall_timeout_s = stall_timeout_s
        self._arrival = threading.Condition()
        self._newest: Frame | None = None
        self._ended = False
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._keep_newest, name=f"reader of {name}", daemon=True)
        self._reader.start()

    def frames(self, done: Done) -> Iterator[Frame]:
        """Yields the newest frame each time, never one twice.

        Raises:
            CameraError: the stream ended, or gave no frame for the stall timeout.
        """
        waiting_since = time.monotonic()
        while not done():
            frame, ended = self._take()
            if frame is not None:
                yield frame
                waiting_since = time.monotonic()
            elif ended:
                raise CameraError(f"{self.name} stopped giving frames: check the camera, its cable or network")
            elif time.monotonic() - waiting_since > self._stall_timeout_s:
                raise CameraError(
                    f"{self.name} gave no frame for {self._stall_timeout_s:g} s: check the camera, its cable or network"
                )

    def close(self) -> None:
        """Stops the thread, which lets go of the camera."""
        self._closing.set()
        self._reader.join(JOIN_TIMEOUT_S)

    def _take(self) -> tuple[Frame | None, bool]:
        with self._arrival:
            if self._newest is None and not self._ended:
                self._arrival.wait(STOP_POLL_S)
            frame, self._newest = self._newest, None
            return frame, self._ended

    def _keep_newest(self) -> None:
        index = failed = 0
        try:
            while failed < MAX_FAILED_READS and not self._closing.is_set():
                ok, image = self._capture.read()
                if ok:
                    self._put(Frame(index, np.asarray(image, np.uint8), time.monotonic()), broken_before=failed)
                    failed = 0
                else:
                    failed += 1
                    self._closing.wait(RETRY_PAUSE_S)
                index += 1
        except cv2.error as error:
            self._reporter.say(f"{self.name}: OpenCV gave up ({error.err})")
        finally:
            self._capture.release()
            with self._arrival:
                self._ended = True
                self._arrival.notify()

    def _put(self, frame: Frame, *, broken_before: int) -> None:
        with self._arrival:
            self.unreadable += broken_before
            self.dropped += self._newest is not None
            self._newest = frame
            self._arrival.notify()


def masked(address: str) -> str:
    """An address fit to be shown: user, password and query replaced by `***`.

    A password may hold any character, so everything between the scheme and the last `@` goes.
    """
    return re.sub(r"\?.*", "?***", re.sub(r"^(\w+:/*).*@", r"\1***@", address, flags=re.DOTALL), flags=re.DOTALL)


def _opened(spec: str, labels: Collection[str], reporter: Reporter, stall_timeout_s: float) -> Source:
    path = Path(spec)
    if _INDEX.fullmatch(spec):
        return _open_device(int(spec), f"camera {spec}", reporter, stall_timeout_s)
    if "://" in spec:
        return _open_address(spec, reporter, stall_timeout_s)
    is_photo = path.is_file() and path.suffix.lower() in PHOTO_SUFFIXES
    if is_photo or (spec and path.is_dir()):
        return PhotoFolder(path, labels, reporter=reporter)
    if path.is_file():
        return VideoFile(path, labels, reporter=reporter)
    if spec.startswith("/dev/"):
        return _open_device(spec, spec, reporter, stall_timeout_s)
    raise CameraError(f"there is no file or folder {masked(spec)!r}: give a camera's index, a path or an address")


def _open_device(device: int | str, name: str, reporter: Reporter, stall_timeout_s: float) -> LiveStream:
    backend = cv2.CAP_V4L2 if isinstance(device, str) or sys.platform == "linux" else cv2.CAP_ANY
    capture = cv2.VideoCapture(device, backend)
    if not capture.isOpened():
        raise CameraError(_why_no_camera(device))
    return LiveStream(capture, name, reporter=reporter, stall_timeout_s=stall_timeout_s)


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


def _open_address(address: str, reporter: Reporter, stall_timeout_s: float) -> LiveStream:
    name = masked(address)
    if not _ADDRESS.match(address):
        raise CameraError(f"{name} is not an address that can be read: give http, https, rtsp or rtsps")
    timeouts_ms = [
        *(cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, round(1000 * OPEN_TIMEOUT_S)),
        *(cv2.CAP_PROP_READ_TIMEOUT_MSEC, round(1000 * (stall_timeout_s + READ_SLACK_S))),
    ]
    capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, timeouts_ms)
    if not capture.isOpened():
        raise CameraError(
            f"{name} cannot be opened: nothing answers there within {OPEN_TIMEOUT_S:g} s, it refuses the user and "
            "password, or it is not a video stream; check the address in a video player"
        )
    return LiveStream(capture, name, reporter=reporter, stall_timeout_s=stall_timeout_s)


def _photos_below(folder: Path) -> Sequence[Path]:
    """Photos at any depth; hidden ones are passed over, as in training."""

    def refuse(error: OSError) -> NoReturn:
        raise CameraError(f"{error.filename} cannot be read ({error.strerror}): allow reading it") from error

    names = (Path(parent, name) for parent, _, files in os.walk(folder, onerror=refuse) for name in files)
    return sorted(path for path in names if path.suffix.lower() in PHOTO_SUFFIXES and not path.name.startswith("."))


def _silence_opencv() -> None:
    """Our messages say what failed; OpenCV's and FFmpeg's would repeat it in several lines, with passwords.

    FFmpeg's options are read from the environment each time a capture is opened: TCP is OpenCV's own default for RTSP,
    and discardcorrupt drops a picture that was cut off, which would otherwise be filled up with grey or with the one
    before. A user's own options are kept.
    """
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fflags;discardcorrupt")
    if hasattr(cv2, "setLogLevel"):
        cv2.setLogLevel(0)
    else:  # OpenCV 5 moved it
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
