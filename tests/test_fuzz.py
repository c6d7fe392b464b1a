"""No mutated file or stream ends a reader in a traceback, or holds it up."""

from __future__ import annotations

import pytest

from tests.fuzz import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_no_mutated_input_is_more_than_one_sentence(seed: int) -> None:
    finds: list[str] = []
    tried = fuzz(
        20.0, seed=seed, report=lambda kind, content, problem: finds.append(f"{kind} {content!r:.200} {problem}")
    )
    assert not finds, "\n".join(finds[:5])
    assert min(tried.values()) > 10
