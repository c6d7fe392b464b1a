"""Counts the damaged frames of a video with lost packets that are taken for undamaged ones.

    python -m benchmarks.lost_packets

Films a red scene once, loses a share of its RTP packets at random, and compares each picture that a capture gives, bit
by bit, with those of the same capture where nothing is lost. One line of JSON for each capture and share.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import click
import numpy as np

from edgebcnn.errors import CameraError
from edgebcnn.sources.capture import Capture, open_with_ffmpeg, silence_opencv
from edgebcnn.sources.rtsp import WholeVideo
from tests.rtsp_camera import filmed, packed, rtsp_camera

PICTURES = 1500  # a minute
TIMEOUT_S = 20.0
CAPTURES: dict[str, Callable[[str], Capture]] = {
    "opencv": lambda address: open_with_ffmpeg(address, TIMEOUT_S, silence_s=TIMEOUT_S),
    "pyav": lambda address: WholeVideo(address, timeout_s=TIMEOUT_S, silence_s=TIMEOUT_S),
}


def seen(packets: list[bytes], opened: Callable[[str], Capture]) -> tuple[list[int], int]:
    """A hash of each picture that came, and how many were reported as broken."""
    given, broken = [], 0
    with rtsp_camera(packets) as address:
        capture = opened(address)
        try:
            while True:
                picture = capture.read()
                broken += picture.broken
                if picture.image_bgr is not None:
                    given.append(hash(picture.image_bgr.tobytes()))
        except CameraError:  # the end
            return given, broken
        finally:
            capture.release()


@click.command()
@click.option("--lost", "shares", multiple=True, type=float, default=(0.001, 0.01, 0.05, 0.2), show_default=True)
def main(shares: tuple[float, ...]) -> None:
    """Counts damaged pictures that were taken for whole ones."""
    silence_opencv()
    packets = packed(filmed(pictures=PICTURES, options={"preset": "ultrafast", "tune": "zerolatency"}))
    for name, opened in CAPTURES.items():
        whole = set(seen(packets, opened)[0])
        for share in shares:
            rng = np.random.default_rng(1)
            given, broken = seen([packet for packet in packets if rng.random() >= share], opened)
            damaged = sum(picture not in whole for picture in given)
            line = {"capture": name, "lost_share": share, "sent": PICTURES, "given": len(given), "damaged": damaged}
            click.echo(json.dumps({**line, "reported_broken": broken}))


if __name__ == "__main__":
    main()
