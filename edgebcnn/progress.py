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


class TerminalReporter:
    """Prints notices and progress bars to stderr, so that stdout holds results alone."""

    def __init__(self) -> None:
        from rich.console import Console  # not at the top: who only reports to somebody needs none

        # Markup is off because product names and paths may hold square brackets.
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)

    def say(self, sentence: str) -> None:
        """Prints a sentence above the bar, if there is one."""
        self._console.print(sentence)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        """Shows a bar of `total` pieces, 0 where nobody knows, with the time it took and the time it still needs."""
        from rich import progress

        bars = progress.Progress(
            progress.TextColumn("{task.description}", markup=False),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
            console=self._console,
            transient=not total,
            redirect_stdout=False,  # rich would send results to stderr while a bar is shown
        )
        with bars:
            task = bars.add_task(description, total=total or None)
            yield lambda pieces: bars.advance(task, pieces)
