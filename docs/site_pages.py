"""Adds the generated pages of the docs site, and turns links between files into links between pages.

A hook of MkDocs. The source files link to each other as files, so that they also read well in a checkout.
"""

from __future__ import annotations

import os.path
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cli_reference import cli_reference
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]

ELSEWHERE = {
    "calibration.md": "calibration/README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "device-profiles.md": "devices/README.md",
}
"""Pages of the site, with the file of the repository that each shows."""

_PAGES = {source: page for page, source in ELSEWHERE.items()}
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
_IMAGE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for page, source in ELSEWHERE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    files.append(File.generated(config, "cli.md", content=cli_reference()))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links at pages; a link to a file that is no page, such as source code, becomes its name."""
    uri = page.file.src_uri
    folder = PurePosixPath(ELSEWHERE.get(uri, f"docs/{uri}")).parent
    markdown = _IMAGE.sub(lambda link: f"![{link[1]}]({_target(link[2], folder) or link[2]})", markdown)
    return _LINK.sub(
        lambda link: f"[{link[1]}]({target})" if (target := _target(link[2], folder)) else link[1], markdown
    )


def _target(link: str, folder: PurePosixPath) -> str | None:
    """The link within the site; None for a file of the repository that the site does not show."""
    path, hash_sign, anchor = link.partition("#")
    if not path or "://" in path or path.startswith("mailto:"):
        return link
    source = os.path.normpath(folder / path)
    if source in _PAGES:
        return _PAGES[source] + hash_sign + anchor
    if _PAGES.get(f"{source}/README.md"):
        return _PAGES[f"{source}/README.md"] + hash_sign + anchor
    if source.startswith("docs/") and not source.endswith(".py"):
        return source.removeprefix("docs/") + hash_sign + anchor
    return None if (ROOT / source).exists() else link
