"""Headless Chromium, the system's or Playwright's own; tests that ask for it are skipped where there is none."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest


@contextmanager
def chromium() -> Iterator[Any]:
    """Yields a browser that is closed when the block ends."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install '.[dev]'")
    with api.sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next(filter(None, map(shutil.which, names)), playwright.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("there is no Chromium: apt install chromium, or playwright install chromium")
        # As root, as in a container, Chromium starts without its sandbox only.
        browser = playwright.chromium.launch(executable_path=path, chromium_sandbox=os.geteuid() != 0)
        yield browser
        browser.close()


def wait_for_picture(page: Any) -> None:
    """Waits for the page's picture; unlike `wait_for_function`, under a policy that lets no page evaluate a string."""
    from playwright.sync_api import expect

    expect(page.locator("#picture")).not_to_have_js_property("naturalWidth", 0)
