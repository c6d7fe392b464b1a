"""Draws `slots.png`, the page on which slots are drawn: on the demo's shelf, with the demo's model.

python docs/slots_page.py demo/runs/latest/bundle
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2

from edgebcnn.demo.watched_shelf import WatchedShelf
from tests.chromium import chromium

WIDTH_PX, HEIGHT_PX = 1200, 700


def main(bundle: Path) -> None:
    """Opens the page in headless Chromium, asks the model and takes a picture."""
    shelf = WatchedShelf(seed=1, duration_s=1)
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        (Path(folder) / "slots.toml").write_text(shelf.toml())
        cv2.imwrite(f"{folder}/shelf.png", next(shelf.frames()).image_bgr)
        command = [sys.executable, "-m", "edgebcnn", "slots", "--bundle", str(bundle.resolve())]
        command += ["--camera", "shelf.png", "--slots", "slots.toml"]
        with subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True) as slots:
            assert slots.stderr
            address = next(found[0] for line in slots.stderr if (found := re.search(r"http://127\S+", line)))
            tab = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
            tab.goto(address)
            tab.get_by_role("button", name="What does the model see?").click()
            tab.locator("#slots button", has_text="the model sees").nth(1).click()
            tab.screenshot(path=Path(__file__).parent / "slots.png", full_page=True)
            slots.terminate()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
