"""Every command of docs/tutorial.md runs, in order, on photos that are drawn here."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.blocks import COLOURS, QUICK, draw_blocks
from tests.typing_in import typed

TUTORIAL = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TUTORIAL, flags=re.S | re.M)
PRODUCTS = ("Oat-Milk", "Oat-Milk-Barista", "Soy-Milk")

SMALLER = {"train": QUICK}
"""What is added to a command so that it takes seconds; the last of two flags counts."""


def commands() -> list[list[str]]:
    """The edgebcnn commands of the page, in order."""
    lines = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("edgebcnn ")]


def test_the_shell_blocks_hold_nothing_but_one_installation_and_edgebcnn_commands() -> None:
    lines = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
    others = [line for line in lines if not line.startswith("edgebcnn ")]
    assert others == ["pip install 'edgebcnn[train,web]'"]
    assert [command[0] for command in commands()] == [
        *("data", "data", "train", "export", "predict", "check", "slots", "slots", "run")
    ]


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs_and_ends_with_a_shelf_that_is_right(tmp_path: Path) -> None:
    draw_photos(tmp_path)
    draw_shelf(tmp_path)
    (slots,) = (block for language, block in BLOCKS if language == "toml")
    (python,) = (block for language, block in BLOCKS if language == "python")
    for command in commands():
        # A video of the shelf takes the camera's place, and any free port that of 8080.
        arguments = ["shelf.avi" if part == "0" else "0" if part == "8080" else part for part in command]
        if command[:2] == ["slots", "--camera"]:
            interrupt_once_it_serves(tmp_path, *arguments)
            (tmp_path / "slots.toml").write_text(slots)  # what a person would have drawn
            continue
        result = typed(tmp_path, *arguments, *SMALLER.get(command[0], ()))
        assert result.exit_code == 0, f"{shlex.join(command)}\n{result.output}"
    run_snippet(tmp_path, python)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert {(event["slot"], event["state"]) for event in events} == {("A1", "right"), ("A2", "right"), ("A3", "right")}
    assert (tmp_path / "drawn.png").is_file() and (tmp_path / "photos.html").is_file()


def interrupt_once_it_serves(folder: Path, *arguments: str) -> None:
    """Runs a command that serves a page until Ctrl-C."""
    command = [sys.executable, "-m", "edgebcnn", *arguments]
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert any("http://" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()


def run_snippet(folder: Path, code: str) -> None:
    """Runs Python of the page in that folder."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(code, "tutorial.md", "exec"), {})
    finally:
        os.chdir(here)


def draw_photos(folder: Path) -> None:
    """Writes `data/<product>/<n>.png`, photos of a product of one color each."""
    draw_blocks(folder / "drawn", per_product={"all": 40})
    for color, product in zip(COLOURS, PRODUCTS, strict=True):
        (folder / "data").mkdir(exist_ok=True)
        (folder / "drawn" / "all" / color).rename(folder / "data" / product)


def draw_shelf(folder: Path) -> None:
    """Writes `shelf.jpg`, the three products side by side, and a video `shelf.avi` of five seconds of it."""
    rng = np.random.default_rng(3)
    shelf = rng.integers(0, 90, (120, 360, 3), np.uint8)
    for place, color in enumerate(COLOURS.values()):
        shelf[30:90, 120 * place + 30 : 120 * place + 90] = color
    cv2.imwrite(str(folder / "shelf.jpg"), shelf)
    video = cv2.VideoWriter(str(folder / "shelf.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (360, 120))
    for _ in range(50):
        video.write(shelf)
    video.release()
