"""Measures the memory that a thousand reconnects of an RTSP stream cost.

    python -m benchmarks.reconnects [--times 1400]

Connects, takes five pictures and lets go, again and again, as `edgebcnn run` does where a camera's line is bad. Prints
the resident memory, and how often the test's server (GStreamer, see tests/test_rtsp.py) did not answer within two
seconds. Exit code 1 where the second half of the connections took more than 1 MB, or one was not answered.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from benchmarks.flaky_cameras import rtsp_server
from edgebcnn.errors import CameraError
from edgebcnn.sources.rtsp import WholeVideo

EVERY = 50
MAX_GROWTH_MB = 1.0


@click.command()
@click.option("--times", default=1400, type=click.IntRange(4 * EVERY), help="Connections.")
def main(times: int) -> None:
    """Connects to a camera that films red pictures, again and again."""
    unanswered, resident_mb = 0, []
    with rtsp_server() as port:
        for number in range(1, times + 1):
            try:
                take_five(f"rtsp://127.0.0.1:{port}/shelf")
            except CameraError:
                unanswered += 1
            if number % EVERY == 0:
                resident_mb.append(resident())
                print(f"{number:5} connections  {resident_mb[-1]:6.1f} MB  {unanswered} unanswered", flush=True)
    sys.exit(resident_mb[-1] - resident_mb[len(resident_mb) // 2] > MAX_GROWTH_MB or unanswered > 0)


def take_five(address: str) -> None:
    """Connects, takes five pictures and lets go."""
    video = WholeVideo(address, timeout_s=2, silence_s=2)
    for _ in range(5):
        video.read()
    video.release()


def resident() -> float:
    """This process's memory in MB."""
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


if __name__ == "__main__":
    main()
