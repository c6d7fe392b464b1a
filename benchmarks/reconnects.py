"""What does it cost in memory that an RTSP stream is lost and found again, a thousand times?

    python -m benchmarks.reconnects [--times 1400]

Connects, takes five pictures and lets go, again and again, as `edgebcnn run` does where a camera's line is bad. Prints
the resident memory; what of the heap is in use, which a leak raises and a heap in pieces does not; and how often the
test's server (GStreamer, see tests/test_rtsp.py) did not answer within two seconds. Exit code 1 where the second half
of the connections left more than 1 MB in use, or one was not answered. For Linux with glibc 2.33 or newer.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import click

from benchmarks.flaky_cameras import rtsp_server
from edgebcnn.camera.whole_video import WholeVideo
from edgebcnn.errors import CameraError

EVERY = 50
MAX_GROWTH_MB = 1.0


@click.command()
@click.option("--times", default=1400, type=click.IntRange(4 * EVERY), help="Connections.")
def main(times: int) -> None:
    """Connects to a camera that films red pictures, again and again."""
    unanswered, used_mb = 0, []
    with rtsp_server() as port:
        for number in range(1, times + 1):
            try:
                take_five(f"rtsp://127.0.0.1:{port}/shelf")
            except CameraError:
                unanswered += 1
            if number % EVERY == 0:
                used_mb.append(heap_in_use())
                memory = f"{resident():6.1f} MB resident  {used_mb[-1]:6.2f} MB of the heap in use"
                print(f"{number:5} connections  {memory}  {unanswered} unanswered", flush=True)
    sys.exit(used_mb[-1] - used_mb[len(used_mb) // 2] > MAX_GROWTH_MB or unanswered > 0)


def take_five(address: str) -> None:
    """Connects, takes five pictures and lets go."""
    video = WholeVideo(address, timeout_s=2, silence_s=2)
    for _ in range(5):
        video.read()
    video.release()


def resident() -> float:
    """This process's memory in MB."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks"),
            *("fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def heap_in_use() -> float:
    """MB that this process has allocated and not freed, in all arenas of malloc."""
    mallinfo2 = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return float(info.uordblks + info.hblkhd) / 1e6


if __name__ == "__main__":
    main()
