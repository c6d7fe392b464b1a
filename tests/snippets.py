"""The Python blocks of a Markdown file, and the files that they read.

`python -m tests.snippets FILE.md DIR` writes those files and `snippets.py` to DIR, for machines without TensorFlow.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from tests.tiny_bundle import LABELS, make_tiny_bundle, write_photos, write_video

NOT_RUN = "<!-- not run: "
"""Stands, with the reason, on the line above a block that a test cannot run."""

_BLOCK = re.compile(r"(?P<above>^[^\n]*\n)^```python\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def snippets(page: Path) -> list[str]:
    """The blocks to run, in their order; each is moved down so that a traceback shows its line in the page."""
    text = page.read_text(encoding="utf-8")
    return [
        "\n" * text.count("\n", 0, block.start("code")) + block["code"]
        for block in _BLOCK.finditer(text)
        if not block["above"].startswith(NOT_RUN)
    ]


def write_files(folder: Path) -> None:
    """Writes what the blocks read: a bundle where `export` puts it, a photo, a folder of photos, and a video."""
    make_tiny_bundle(folder / "runs" / "latest" / "bundle")
    write_photos(folder / "photos")
    shutil.copy(folder / "photos" / "Red" / "0.png", folder / "shelf.jpg")
    write_video(folder / "shelf.avi", [label.name for label in LABELS] * 5)


if __name__ == "__main__":
    page, folder = map(Path, sys.argv[1:])
    write_files(folder)
    (folder / "snippets.py").write_text("\n".join(map(str.strip, snippets(page))) + "\n", encoding="utf-8")
