"""Lists the cameras of this machine, with the path by which each is found again after it was unplugged.

No camera is opened; CSI cameras come from libcamera's own list. On systems other than Linux the list is empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgebcnn.device.machine import read_kernel_file
from edgebcnn.sources.csi import PREFIX, csi_cameras

LINKS = (Path("/dev/v4l/by-id"), Path("/dev/v4l/by-path"))  # by model and serial number; by the socket it sits in


def lasting_path(device: int | str, *, links: tuple[Path, ...] = LINKS) -> str | None:
    """The link that leads to the same camera whatever number it has next, or None where the system keeps none.

    A camera that is plugged in again may become `/dev/video1`, and another one `/dev/video0`.

    Args:
        device: Index or path.
        links: Folders of links that udev keeps, the best first.
    """
    path = Path(f"/dev/video{device}" if isinstance(device, int) else device)
    if path.parent in links:
        return str(path)
    for folder in links:
        for link in sorted(folder.glob("*")):
            if link.resolve() == path.resolve():
                return str(link)
    return None


@dataclass(frozen=True)
class Camera:
    """A camera: its device or `csi:` and its number, its name, and a path that it keeps whatever its number, if any."""

    device: str
    name: str
    stable_path: str | None

    def __str__(self) -> str:
        """`/dev/video0 · HD Webcam · /dev/v4l/by-id/usb-…`."""
        return " · ".join(filter(None, (self.device, self.name, self.stable_path)))


def attached_cameras(root: Path = Path("/")) -> tuple[Camera, ...]:
    """Cameras with a V4L2 device; `root` is the folder of `dev` and `sys`."""
    links = tuple(root / folder.relative_to("/") for folder in LINKS)
    return tuple(
        Camera(
            f"/dev/{entry.name}",
            read_kernel_file(entry / "name"),
            lasting_path(str(root / "dev" / entry.name), links=links),
        )
        for entry in sorted((root / "sys/class/video4linux").glob("video*"))
        if read_kernel_file(entry / "index") in ("", "0")  # further entries of one camera give metadata, not pictures
    )


def csi_attached() -> tuple[Camera, ...]:
    """Cameras that libcamera sees, where `rpicam-vid` is installed; that takes it about a second."""
    return tuple(Camera(f"{PREFIX}{each.index}", each.sensor, f"{PREFIX}{each.path}") for each in csi_cameras())
