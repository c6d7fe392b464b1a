"""A stand-in for `rpicam-vid`: it takes its arguments, and plays what a test wrote down for each of its starts.

It knows no options but those of rpicam-apps 1.0 to 1.13 that edgebcnn gives it, and refuses others as that does.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LISTED = """Available cameras
-----------------
0 : imx708 [4608x2592 10-bit RGGB] (/base/axi/pcie@1000120000/rp1/i2c@88000/imx708@1a)
    Modes: 'SRGGB10_CSI2P' : 1536x864 [120.13 fps - (768, 432)/3072x1728 crop]
                             2304x1296 [56.03 fps - (0, 0)/4608x2592 crop]

1 : imx219 [3280x2464] (/base/axi/pcie@1000120000/rp1/i2c@80000/imx219@10)
    Modes: 'SRGGB10_CSI2P' : 640x480 [206.65 fps - (1000, 752)/1280x960 crop]

"""
WITH_VALUE = {
    *("--camera", "--width", "--height", "--framerate", "--codec", "--quality", "--timeout", "--output"),
    *("--metadata", "--metadata-format", "--lens-position"),
}
PR_SET_PDEATHSIG = 1
FLAGS = {"--nopreview", "--flush", "--list-cameras"}


def main(folder: Path, *arguments: str) -> int:
    """Plays; what `rpicam-vid` would return."""
    given = parsed(arguments)
    if "--list-cameras" in given:
        print(LISTED)
        return 0
    with (folder / "starts").open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "given": given}) + "\n")
    plays = json.loads((folder / "plays").read_text())
    start = len((folder / "starts").read_text().splitlines()) - 1
    stage = Stage(folder, given)
    for act, *how in plays[min(start, len(plays) - 1)]:
        code = getattr(stage, act)(*how)
        if code is not None:
            return int(code)
    return 0


def parsed(arguments: tuple[str, ...]) -> dict[str, str]:
    """Options and their values."""
    given, left = {}, list(arguments)
    while left:
        name = left.pop(0)
        if name not in WITH_VALUE | FLAGS:
            raise SystemExit(fails(f"unrecognised option '{name}'"))
        given[name] = left.pop(0) if name in WITH_VALUE else ""
    return given


def fails(why: str) -> int:
    print(f"ERROR: *** {why} ***", file=sys.stderr, flush=True)
    return 255


class Stage:
    """What can happen, one method each; one that returns a number ends the program with it."""

    def __init__(self, folder: Path, given: dict[str, str]) -> None:
        self.folder = folder
        self.told = open(given["--metadata"], "w")  # noqa: SIM115 - as long as the program
        self.fps = float(given.get("--framerate", "50"))

    def show(self, level: int, times: int = 1, sensed_s_ago: float = 0.0) -> None:
        """A grey picture of that level, so many times; the sensor took each so many seconds ago."""
        for _ in range(times):
            self.write((self.folder / f"{level}.jpg").read_bytes())
            stamp_ns = time.monotonic_ns() - round(1e9 * sensed_s_ago)
            self.told.write(f"ExposureTime=9999\nSensorTimestamp={stamp_ns}\nFrameDuration=33333\n\n")
            self.told.flush()
            print(f"#{level} (30.00 fps) exp 9999.00 ag 1.00 dg 1.00", file=sys.stderr, flush=True)
            time.sleep(1 / self.fps)

    def cut(self, level: int, share: float) -> None:
        """The first part of a picture and its end marker; its middle is missing."""
        whole = (self.folder / f"{level}.jpg").read_bytes()
        self.write(whole[: int(share * len(whole))] + b"\xff\xd9")
        time.sleep(1 / self.fps)

    def rubbish(self, count: int) -> None:
        self.write(bytes(count))

    def chatter(self, count: int) -> None:
        print("[0:08:40.093] [1781]  INFO Camera camera_manager.cpp:293 libcamera\n" * count, file=sys.stderr)

    def fail(self, why: str) -> int:
        return fails(why)

    def exit(self, code: int) -> int:
        return code

    def hang(self, *_: Any) -> None:
        time.sleep(600)

    def hang_with_a_child(self) -> None:
        child = subprocess.Popen(["sleep", "600"])
        (self.folder / "child").write_text(str(child.pid))
        time.sleep(600)

    def outlive(self) -> None:
        """From now on, it does not end with the thread that started it."""
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0)

    def write(self, content: bytes) -> None:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
