"""Draws `web.png`, the web page of a run: of one that watches the demo's shelf, which is drawn, with the demo's model.

python docs/web_page.py demo/runs/latest/bundle
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import cv2

from edgebcnn.demo.watched_shelf import WatchedShelf
from tests.chromium import chromium
from tests.mjpeg_server import NetworkCamera, network_camera

WIDTH_PX, HEIGHT_PX = 1200, 900
FRAMES_PER_S = 10
SEEN_S = 45  # until several packs have changed


def film(camera: NetworkCamera, shelf: WatchedShelf, over: threading.Event) -> None:
    """Sends the shelf's frames as they are taken."""
    for frame in shelf.frames(fps=FRAMES_PER_S):
        if over.wait(1 / FRAMES_PER_S):
            return
        camera.send(frame.image_bgr)


def main(bundle: Path) -> None:
    """Runs, opens the page in headless Chromium and takes a picture of it."""
    shelf, over = WatchedShelf(seed=1, duration_s=2 * SEEN_S), threading.Event()
    with tempfile.TemporaryDirectory() as folder, network_camera() as camera, chromium() as browser:
        (Path(folder) / "slots.toml").write_text(shelf.toml(empty_picture="empty.png"))
        cv2.imwrite(f"{folder}/empty.png", shelf.empty_picture())
        command = [sys.executable, "-m", "edgebcnn", "run", "--bundle", str(bundle), "--camera", camera.address]
        command += ["--slots", f"{folder}/slots.toml", "--device-id", "shelf-3", "--web", "0", "--quiet"]
        threading.Thread(target=film, args=(camera, shelf, over), daemon=True).start()
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
            assert run.stderr
            address = next(found[0] for line in run.stderr if (found := re.search(r"http://127\S+", line)))
            tab = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
            tab.goto(address)
            tab.wait_for_timeout(1000 * SEEN_S)
            tab.screenshot(path=Path(__file__).parent / "web.png", full_page=True)
            over.set()
            run.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
