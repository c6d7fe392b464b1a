"""Prints for every command: results go to stdout, progress and notices to stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edgebcnn.progress import Advance

# Markup is off because product names and paths may hold square brackets; colour comes from `style=` and `Text`.
stdout = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
stderr = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)


class TerminalReporter:
    """The `edgebcnn.progress.Reporter` of every command."""

    def say(self, sentence: str) -> None:
        """Prints a sentence above the bar, if there is one."""
        stderr.print(sentence)

    @contextmanager
    def progress(self, description: str, total: int) -> Iterator[Advance]:
        """Shows a bar of `total` pieces, 0 where nobody knows, with the time it took and the time it still needs."""
        bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=stderr,
            transient=not total,
            redirect_stdout=False,  # rich would send results to stderr while a bar is shown
        )
        with bars:
            task = bars.add_task(description, total=total or None)
            yield lambda pieces: bars.advance(task, pieces)
