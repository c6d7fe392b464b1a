"""How is a loop that runs for a year watched, and what ends it when it hangs?"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from edgebcnn.camera.frames import Source
from edgebcnn.camera.replay import STAGE
from edgebcnn.camera.systemd import ServiceManager
from edgebcnn.camera.watchdog import OnHang, Watchdog
from edgebcnn.errors import CameraError, DeviceError, EdgebcnnError, StorageError

_TO_BLAME: dict[str, type[EdgebcnnError]] = {
    "classify": DeviceError,
    STAGE: DeviceError,
    "write": StorageError,
    "close": StorageError,
}


def end_at_once(stage: str, took_s: float) -> None:
    """Says which stage hangs and ends the process: what hangs in native code would never let it end otherwise.

    Readings are handed to the system one by one, so that none is lost.
    """
    print(
        f"Error: the loop hangs: it has been at '{stage}' for {took_s:.0f} s; start it again, and let systemd do that "
        "for you (docs/service.md)",
        file=sys.stderr,
        flush=True,
    )
    os._exit(_TO_BLAME.get(stage, CameraError).exit_code)


@contextmanager
def watched(
    source: Source, *, on_hang: OnHang = end_at_once, manager: ServiceManager | None = None
) -> Iterator[Watchdog]:
    """Yields the watchdog of a loop that reads `source`, and keeps systemd informed until the block ends.

    Args:
        source: Open by now; its status is what `systemctl status` shows.
        on_hang: What to do when a stage hangs.
        manager: systemd, by default as the environment says.
    """
    manager = manager or ServiceManager()
    watchdog = Watchdog(on_hang=on_hang, on_turn=lambda: manager.alive(source.status()))
    manager.ready()
    try:
        with watchdog.watching():
            yield watchdog
    finally:
        manager.stopping()
