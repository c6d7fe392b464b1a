"""How the terminal is kept free of what native code prints on its own."""

from __future__ import annotations

import faulthandler
import fcntl
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr
from tempfile import TemporaryFile
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


@contextmanager
def native_stderr() -> Iterator[Callable[[], str]]:
    """Yields a function that returns what was written to file descriptor 2 since, and keeps that from the terminal.

    Where descriptor 2 is a file that can be read, it stays as it is: after a crash, what was written is found there.
    """
    sys.stderr.flush()
    with ExitStack() as stack:
        if not _is_readable_file(2):
            kept = os.dup(2)
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, 2)
            file = stack.enter_context(TemporaryFile())
            os.dup2(file.fileno(), 2)
        start = os.fstat(2).st_size
        yield lambda: os.pread(2, os.fstat(2).st_size - start, start).decode(errors="replace")


def _is_readable_file(descriptor: int) -> bool:
    is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
    return is_file and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
