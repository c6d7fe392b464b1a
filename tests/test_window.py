"""`run --show`: what the window shows, and that one that is missing, closed, broken or stuck costs the run nothing."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from edgebcnn.bundle import Label
from edgebcnn.errors import SinkError
from edgebcnn.loop.shelf_reading import ShelfReading
from edgebcnn.shelf.watch import SlotReading, SlotState
from edgebcnn.sinks.window import LARGEST_PX, READY, Window, draw_frame
from tests.broker import wait_until
from tests.readings import reading
from tests.shelf_video import make_shelf
from tests.typing_in import typed
from tests.web_run import Told, frame

GREY = np.full((480, 640, 3), 99, np.uint8)


def window(child: str, *, told: Told, stop: threading.Event) -> Window:
    """One whose process runs these lines of Python once it has said that it is ready."""
    code = f"import os, sys, time\nsys.stdout.write({READY.decode()!r})\nsys.stdout.flush()\n{child}"
    return Window("shelf", watch=None, stop=stop, reporter=told, command=[sys.executable, "-c", code])


def test_without_windows_or_a_screen_the_run_does_not_begin(tmp_path: Path) -> None:
    make_shelf(tmp_path)
    result = typed(tmp_path, "run", "--bundle", "bundle", "--camera", "shelf.avi", "--show")
    assert (result.exit_code, result.stdout) == (SinkError.exit_code, "")
    if re.search(r"GUI:\s+NONE", cv2.getBuildInformation()):
        assert result.stderr.startswith(
            "Error: --show needs an OpenCV with windows, and opencv-python-headless has none"
        )
    assert (result.stderr[:13], result.stderr.count("\n")) == ("Error: --show", 1)
    with pytest.raises(SinkError, match="--show cannot open a window here: start it where there is a screen"):
        Window(
            "shelf",
            watch=None,
            stop=threading.Event(),
            reporter=Told(),
            command=[sys.executable, "-c", "import os; os.abort()"],  # as Qt does where it finds no screen
        )


def test_slots_are_drawn_in_the_colour_of_their_state_and_a_frame_with_its_products() -> None:
    shelf = ShelfReading(
        source="0",
        frame=0,
        time="",
        changes=(),
        slots=(
            SlotReading("Top", "A1", Label(name="Red"), SlotState.RIGHT, Label(name="Red"), 0.9),
            SlotReading("Top", "A2", Label(name="Red"), SlotState.WRONG, Label(name="Blue"), 0.9),
        ),
        shelves=(),
        age_ms=1.0,
        latency_ms=1.0,
    )
    outlines = [((0.1, 0.1), (0.4, 0.1), (0.4, 0.9), (0.1, 0.9)), ((0.6, 0.1), (0.9, 0.1), (0.9, 0.9), (0.6, 0.9))]
    drawn = draw_frame(frame(0, GREY), shelf, outlines)
    height, width = drawn.shape[:2]
    assert (width, height) == (1280, 960), "small frames are enlarged"
    bottom = round(0.9 * height)
    assert drawn[bottom, round(0.25 * width)].tolist() == [147, 206, 111]
    assert drawn[bottom, round(0.75 * width)].tolist() == [128, 138, 255]
    assert (drawn[bottom - 9, round(0.25 * width)] == 99).all()
    plain = draw_frame(frame(0, np.full((2160, 3840, 3), 99, np.uint8)), reading(), ())
    assert plain.shape[1] == LARGEST_PX
    assert (plain[:40, :120] != 99).any() and (plain[60:] == 99).all()
    assert (draw_frame(frame(0, GREY), reading(reason="black", top3=()), ()) != 99).any()


def test_the_window_gets_the_newest_frame_and_closing_it_ends_the_run(tmp_path: Path) -> None:
    told, stop = Told(), threading.Event()
    child = f"""
import numpy as np
from edgebcnn.sinks.window import pictures
np.save({str(tmp_path / "shown.npy")!r}, next(pictures(sys.stdin.buffer)))
os._exit(0)"""
    shown = window(child, told=told, stop=stop)
    seen = frame(7)
    shown.write(seen, reading(7))
    wait_until(stop.is_set, 60)
    shown.close()
    assert told.sentences == []
    assert np.array_equal(np.load(tmp_path / "shown.npy"), draw_frame(seen, reading(7), ()))


def test_a_window_that_dies_is_told_and_the_run_goes_on() -> None:
    told, stop = Told(), threading.Event()
    broken = window("os._exit(7)", told=told, stop=stop)
    wait_until(lambda: bool(told.sentences), 60)
    broken.write(frame(0), reading())
    broken.close()
    (sentence,) = told.sentences
    assert "the window ended by itself (7)" in sentence
    assert not stop.is_set()


def test_a_window_that_hangs_neither_keeps_the_loop_waiting_nor_its_end() -> None:
    told, stop = Told(), threading.Event()
    stuck = window("time.sleep(60)", told=told, stop=stop)
    slowest_s = 0.0
    for number in range(5):
        begun_s = time.monotonic()
        stuck.write(frame(number, GREY), reading(number))
        slowest_s = max(slowest_s, time.monotonic() - begun_s)
        time.sleep(0.1)
    stuck.close()
    assert slowest_s < 1.0
    assert told.sentences == [] and not stop.is_set()
