"""Draws the head of a page as `report.png` or `field.png`: of the demo's, whose photos are drawn, and no one else's.

python docs/report_page.py demo/runs/latest/bundle/report/index.html report.png
python benchmarks/field.py demo/runs/latest/bundle --full demo/runs/latest --work demo/field --share 0.5 --draws 1
python docs/report_page.py demo/field/sample-audit/index.html field.png
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH_PX, HEIGHT_PX = 960, 1500


def main(page: Path, picture: str) -> None:
    """Opens the page in headless Chromium and takes a picture of it."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or playwright.chromium.executable_path
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        tab = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
        tab.goto(page.absolute().as_uri())
        tab.screenshot(path=Path(__file__).parent / picture)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
