"""How a test reads a page, and how it opens one in a browser."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest


class Parts(HTMLParser):
    """Every address on a page, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.addresses += [value or "" for name, value in attributes if name in {"src", "href", "srcset", "action"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def check_in_chromium(browser: Any, file: Path, width_px: int, *, pictures: int) -> None:
    """Checks that a page asks for nothing, reports no error, shows all its pictures and fits a screen of that width."""
    asked, said = [], []
    tab = browser.new_page(viewport={"width": width_px, "height": 800})
    tab.on("request", lambda request: asked.append(request.url))
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.goto(file.as_uri())
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()]
    assert said == []
    assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert tab.evaluate("document.images.length") == pictures
    assert tab.evaluate("document.documentElement.scrollWidth") == width_px
    seen = "h1, h2, h3, p, .plot, .stack, .photos"
    cut = f"[...document.querySelectorAll('{seen}')].filter(each => each.getBoundingClientRect().right > innerWidth)"
    assert tab.evaluate(f"{cut}.map(each => each.outerHTML.slice(0, 80))") == []
    for scheme in ("light", "dark"):
        tab.emulate_media(color_scheme=scheme)
        assert violations(tab) == []
    tab.close()


def violations(tab: Any) -> list[tuple[str, str]]:
    """What axe finds wrong with a page: the rule, and the first part that breaks it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    return [(each["id"], each["nodes"][0]["html"][:200]) for each in axe.run(tab).response["violations"]]
