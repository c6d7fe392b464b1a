"""Draws `web.png`, the page of a run that watches a shelf on which one product is wrong and one is missing.

The shelf is drawn, and the model is that of the demo: `python docs/web_page.py demo/runs/latest/bundle`.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
import threading
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from edgebcnn.demo.watched_shelf import EMPTY, WatchedShelf
from tests.chromium import chromium
from tests.mjpeg_server import NetworkCamera, network_camera

WIDTH_PX, HEIGHT_PX = 1280, 1150
FRAMES_PER_S = 10
COLORS = 256  # of the PNG, which is then a quarter as large
WRONG, MISSING = 1, 6  # slots


def film(camera: NetworkCamera, shelf: WatchedShelf, contents: list[str], over: threading.Event) -> None:
    """Sends frames of the shelf with the contents of the moment."""
    for index in count():
        if over.wait(1 / FRAMES_PER_S):
            return
        camera.send(shelf.picture(contents, time_s=index / FRAMES_PER_S, rng=np.random.default_rng(index)))


def main(bundle: Path) -> None:
    """Runs, opens the page in headless Chromium and takes a screenshot of it."""
    shelf, over = WatchedShelf(seed=1), threading.Event()
    contents = [product.name for product in shelf.expected]
    with tempfile.TemporaryDirectory() as folder, network_camera() as camera, chromium() as browser:
        (Path(folder) / "slots.toml").write_text(shelf.toml(empty_picture="empty.png"))
        cv2.imwrite(f"{folder}/empty.png", shelf.empty_picture())
        command = [sys.executable, "-m", "edgebcnn", "run", "--bundle", str(bundle), "--camera", camera.address]
        command += ["--slots", f"{folder}/slots.toml", "--web", "0", "--quiet"]
        command += ["--config", "events.device_id = 'shelf-3'"]
        threading.Thread(target=film, args=(camera, shelf, contents, over), daemon=True).start()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr
            address = next(found[0] for line in run.stderr if (found := re.search(r"http://127\S+", line)))
            tab = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
            tab.goto(address)
            tab.wait_for_selector("#verdict.right", timeout=60_000)
            contents[WRONG] = next(name for name in shelf.fitting(WRONG) if name != contents[WRONG])
            contents[MISSING] = EMPTY
            tab.wait_for_selector("#problems li:nth-child(2)", timeout=60_000)
            tab.wait_for_timeout(2000)  # until the pictures of the history have come
            screenshot = Image.open(io.BytesIO(tab.screenshot()))
            screenshot.quantize(COLORS).save(Path(__file__).parent / "web.png", optimize=True)
            over.set()
            run.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
