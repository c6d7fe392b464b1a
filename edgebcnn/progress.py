"""How long work tells what it is doing, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Advance = Callable[[int], None]
"""Called with the number of further pieces that are done."""


class Reporter(Protocol):
    """Whoever listens: a terminal, a log, nobody."""

    def say(self, sentence: str) -> None:
        """Tells one thing that the user must know."""

    def progress(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Opens a progress bar of `total` pieces; the block calls what it yields with the number of further ones."""


class Silent:
    """Nobody listens."""

    def say(self, sentence: str) -> None:
        """Drops the sentence."""

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        """Yields a function that does nothing."""
        yield lambda pieces: None
