"""The Python blocks of the README and of the guide run as they stand, one after the other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.snippets import NOT_RUN, snippets, write_files

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "docs/python.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_blocks_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = snippets(ROOT / page)
    assert blocks
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_that_is_not_run_says_why_and_still_compiles(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    marked = re.findall(rf"^{NOT_RUN}(.*?) -->\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(marked) == text.count(NOT_RUN)
    for reason, block in marked:
        assert reason
        compile(block, page, "exec")
