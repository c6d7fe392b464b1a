"""Draws `report.png`, the head of a bundle's report: of the demo's, whose photos are drawn, and no one else's.

python docs/report_page.py demo/runs/latest/bundle
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH_PX, HEIGHT_PX = 960, 1500


def main(bundle: Path) -> None:
    """Opens the page in headless Chromium and takes a picture of it."""
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or playwright.chromium.executable_path
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=False)
        tab = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX})
        tab.goto((bundle.absolute() / "report" / "index.html").as_uri())
        tab.screenshot(path=Path(__file__).parent / "report.png")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
