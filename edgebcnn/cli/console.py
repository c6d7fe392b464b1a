"""Prints for every command: results go to stdout, progress and notices to stderr."""

from __future__ import annotations

from rich.console import Console

from edgebcnn.progress import TerminalReporter

__all__ = ["TerminalReporter", "stderr", "stdout"]

# Markup is off because product names and paths may hold square brackets; colour comes from `style=` and `Text`.
stdout = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
stderr = Console(highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True)
