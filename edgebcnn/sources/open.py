"""Opens the source that a user names: a camera, stream, video, photo or folder.

Files and folders are read frame by frame and nothing is dropped (`files`). Cameras and network streams are read in a
thread that keeps the newest frame and comes back when it was lost (`live`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from edgebcnn.camera_view import AS_IT_IS, View
from edgebcnn.errors import CameraError
from edgebcnn.preprocessing import PHOTO_SUFFIXES
from edgebcnn.progress import Reporter, Silent
from edgebcnn.sources.cameras import lasting_path
from edgebcnn.sources.capture import Capture, Opener, open_device, open_with_ffmpeg, silence_opencv
from edgebcnn.sources.csi import PREFIX as CSI
from edgebcnn.sources.csi import CsiOpener
from edgebcnn.sources.files import PhotoFolder, VideoFile, is_pattern, photos_below, photos_like
from edgebcnn.sources.frames import Done, Frame, Source
from edgebcnn.sources.http_mjpeg import INSECURE, NotPictures, open_http
from edgebcnn.sources.live import LiveStream
from edgebcnn.sources.reconnect import Patience

__all__ = ["Done", "Frame", "Source", "masked", "open_source"]

_INDEX = re.compile(r"[0-9]{1,4}")  # what is longer is no camera, and OpenCV refuses it by a traceback
_ADDRESS = re.compile(r"(?:https?|https\+insecure|rtsps?)://", re.IGNORECASE)
_SECRETS = re.compile(r"([?#]|(?:us(?:e?r)|login|pass|pwd|token|auth|secret|key)\w*?=).*", re.IGNORECASE | re.DOTALL)
_MAX_SPEC_BYTES = 1 << 16
READ_SLACK_S = 1.0  # a stall is `live`'s to report; the connection's own limit, a little later, frees the thread
DAMAGE_UNNOTICED = (
    "{name} is read by OpenCV, which does not tell damaged pictures from whole ones, so that lost packets can become "
    "wrong products: pip install 'edgebcnn[rtsp]'"
)
_SILENT = Silent()
_PATIENT = Patience()


def open_source(
    spec: str,
    *,
    labels: Collection[str] = (),
    reporter: Reporter = _SILENT,
    patience: Patience = _PATIENT,
    view: View = AS_IT_IS,
    usual: View = AS_IT_IS,
) -> Source:
    """Opens a camera, video, folder of photos or network stream.

    Args:
        spec: Index (`0`), device (`/dev/v4l/by-id/...`), CSI camera (`csi:0`), video file, photo, folder of photos,
            pattern of their names (`shelf/*.jpg`, `shelf/%04d.jpg`), or an http, https, rtsp or rtsps address. So that
            a password shows nowhere, `env:NAME` takes all this from an environment variable, and `file:PATH` from the
            first line of a file. `https+insecure` addresses are https without checking the certificate.
        labels: Names of the bundle's products; truth is looked for where there are any.
        reporter: Told what cannot be read, what was lost and what came back.
        patience: For a live source, when it counts as lost and for how long it reconnects.
        view: Size, rate and rotation.
        usual: What counts where `view` asks nothing: size and rate of a camera, rotation of any live source. Files are
            taken as they are.

    Raises:
        CameraError: there is nothing there, or nothing that can be read, or a file is asked for a size or rate.
        DataError: the source's truth file is malformed.
    """
    silence_opencv()
    spec = _resolved(spec)
    if not spec.strip():
        raise CameraError("no source is named: give an index, device, file or address (an empty variable names none)")
    try:
        return _live(spec, reporter, patience, view, usual) or _filed(spec, labels, reporter, view)
    except OSError as error:
        raise CameraError(
            f"{masked(spec)} cannot be opened ({error.strerror}): check the path and its permissions"
        ) from error


def masked(address: str) -> str:
    """An address fit to be shown: user, password, query and fragment replaced by `***`.

    A password may hold any character, so everything between the scheme and the last `@` goes, and where a path names a
    user or password as DVRs do (`/user=admin_password=x_channel=1`), all that follows. The path of a CSI camera has an
    `@` and no password.
    """
    if address.startswith(CSI):
        return address
    without_user = re.sub(r"^([\w+]+:/*).*@", r"\1***@", address, flags=re.DOTALL)
    return _SECRETS.sub(lambda found: f"{found[1]}***", without_user, count=1)


def _resolved(spec: str) -> str:
    """What `env:NAME` or `file:PATH` stands for; any other source is what it says itself."""
    kind, _, name = spec.partition(":")
    if kind not in ("env", "file") or os.path.lexists(spec):
        return spec
    if kind == "env":
        return os.environ.get(name, "").strip()
    try:
        with Path(name).open(encoding="utf-8") as file:  # may be a pipe, as a shell makes for `<(...)`
            lines = file.read(_MAX_SPEC_BYTES).splitlines()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise CameraError(f"{spec} cannot be read ({reason}): give a file with the source in its first line") from None
    return lines[0].strip() if lines else ""


def _live(spec: str, reporter: Reporter, patience: Patience, view: View, usual: View) -> LiveStream | None:
    """The camera or stream, or None where `spec` means neither."""
    if spec.startswith(CSI):
        return _named(spec, CsiOpener(spec.removeprefix(CSI), view), reporter, patience, view)
    if "://" in spec:
        _refuse_wishes(masked(spec), view)
        return _open_address(spec, reporter, patience, view.over(View(rotate=usual.rotate)))
    is_index = _INDEX.fullmatch(spec) is not None
    if not is_index and not (spec.startswith("/dev/") and not Path(spec).is_file() and not Path(spec).is_dir()):
        return None
    view = view.over(usual)
    name, device = (f"camera {spec}", int(spec)) if is_index else (spec, spec)
    return LiveStream(name, _device_opener(device, view), reporter=reporter, patience=patience, view=view)


def _filed(spec: str, labels: Collection[str], reporter: Reporter, view: View) -> Source:
    path = Path(spec)
    _refuse_wishes(masked(spec), view)
    if spec and path.is_dir():
        return PhotoFolder(spec, photos_below(path), root=path, labels=labels, reporter=reporter, view=view)
    if path.is_file() and path.suffix.lower() in PHOTO_SUFFIXES:
        return PhotoFolder(spec, [path], root=path.parent, labels=labels, reporter=reporter, view=view)
    if path.is_file():
        return VideoFile(path, labels, reporter=reporter, view=view)
    if is_pattern(spec):
        photos = photos_like(spec)
        root = Path(*Path(spec).parts[: _plain_parts(Path(spec))])
        return PhotoFolder(spec, photos, root=root, labels=labels, reporter=reporter, view=view)
    raise CameraError(f"there is no file or folder {masked(spec)!r}: give a camera's index, a path or an address")


def _plain_parts(pattern: Path) -> int:
    """How many folders of a pattern's path, from its beginning, are no patterns themselves."""
    return next(count for count, part in enumerate(pattern.parts) if is_pattern(part))


def _refuse_wishes(name: str, view: View) -> None:
    if view.asks_the_camera:
        raise CameraError(
            f"{name} has the size and rate that it has: leave out --size and --camera-fps, which a camera obeys"
        )


def _device_opener(device: int | str, view: View) -> Opener:
    """Opens that camera now, and later the same one, also where it was plugged in again under another number."""
    known: list[str] = []

    def opened(_timeout_s: float) -> Capture:
        capture = open_device(known[0] if known else device, view)
        if not known and (path := lasting_path(device)):
            known.append(path)
        return capture

    return opened


def _open_address(address: str, reporter: Reporter, patience: Patience, view: View) -> LiveStream:
    name = masked(address)
    if not _ADDRESS.match(address):
        raise CameraError(f"{name} is not an address that can be read: give http, https, rtsp or rtsps")

    silence_s = patience.stall_timeout_s + READ_SLACK_S
    video = re.sub(rf"^{re.escape(INSECURE)}(?=://)", "https", address, flags=re.IGNORECASE)  # as FFmpeg calls it
    tells_damage = find_spec("av") is not None
    warned: list[str] = []

    def opened(timeout_s: float) -> Capture:
        if address.lower().startswith("http"):
            try:
                return open_http(address, timeout_s=timeout_s, silence_s=silence_s)
            except NotPictures:
                pass
        if tells_damage:
            # Not at the top: most runs film with a camera of their own, and need no second FFmpeg.
            from edgebcnn.sources.rtsp import WholeVideo

            return WholeVideo(video, timeout_s=timeout_s, silence_s=silence_s)
        if not warned:
            warned.append(DAMAGE_UNNOTICED.format(name=name))
            reporter.say(warned[0])
        return open_with_ffmpeg(video, timeout_s, silence_s=silence_s)

    return _named(name, opened, reporter, patience, view)


def _named(name: str, opener: Opener, reporter: Reporter, patience: Patience, view: View) -> LiveStream:
    """The source, whose opener's messages go on after its name."""
    try:
        return LiveStream(name, opener, reporter=reporter, patience=patience, view=view)
    except CameraError as error:
        raise CameraError(f"{name} {error}") from error
