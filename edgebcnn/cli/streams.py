"""How does a command print when its terminal lacks a character, or is not there?"""

from __future__ import annotations

import io
import os
import sys


def prepare_streams() -> None:
    """Makes stderr exist, and both streams escape a character that their encoding lacks, rather than end a command."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass  # a closed one's number would go to the next file, and what is printed into it
    os.close(descriptor)
    if sys.stderr is None:  # closed by whoever started us
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - it lives as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
