"""By which path is a camera found again after it was unplugged?"""

from __future__ import annotations

from pathlib import Path

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
