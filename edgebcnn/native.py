"""How the terminal is kept free of what native code prints on its own."""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from typing import TextIO


@contextmanager
def muted_native_stderr() -> Iterator[None]:
    """Drops what C++ prints to file descriptor 2; Python's stderr, where progress is shown, goes on.

    A crash of native code is still told, by `faulthandler`, on the stderr that was there.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with ExitStack() as stack:
        if _is_descriptor_2(sys.stderr):
            # Never closed: a logging handler that is made meanwhile keeps it.
            shown = open(os.dup(kept), "w", encoding=sys.stderr.encoding, errors=sys.stderr.errors, buffering=1)  # noqa: SIM115
            stack.enter_context(redirect_stderr(shown))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        stack.callback(os.close, kept)
        stack.callback(os.dup2, kept, 2)
        if not faulthandler.is_enabled():
            faulthandler.enable(kept)
            stack.callback(faulthandler.disable)
        yield


def _is_descriptor_2(stream: TextIO) -> bool:
    try:
        return stream.fileno() == 2
    except (OSError, ValueError):  # a stream in memory has no descriptor
        return False
