"""Decides where a new run may be created, and locks a run against other processes."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from edgebcnn.atomic import storage_errors
from edgebcnn.errors import RunError, StorageError

LATEST = "latest"


def new_name() -> str:
    """Default name of a run: the local time, sortable."""
    return datetime.now().astimezone().strftime("%Y%m%d-%H%M%S")


def check_place(run: Path) -> None:
    """Checks, before anything long, that a new run can be made there.

    Raises:
        RunError: the name is taken, or `latest` in the same folder is not a link.
        StorageError: the folder of runs cannot be written.
    """
    link = run.parent / LATEST
    if run.name == LATEST:
        raise RunError(f"{LATEST!r} is the name of the link to the newest run: choose another --name")
    with storage_errors(run):
        if run.exists():
            raise RunError(f"{run} exists: choose another --name, or resume it with --resume")
        if link.exists() and not link.is_symlink():
            raise RunError(f"{link} is not a link to the newest run: rename it, or choose another --runs")
    check_writable(run.parent)


def check_writable(folder: Path) -> None:
    """Checks, before anything long, that files can be made in a folder or, where it does not exist, it itself.

    Raises:
        StorageError: they cannot.
    """
    with storage_errors(folder):
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            raise StorageError(f"cannot write {folder}: choose a path that you can write")


@contextmanager
def created(run: Path) -> Iterator[Path]:
    """Makes the folder of a new run whole or not at all: yields the one to fill, which takes the run's name at the end.

    Raises:
        StorageError: the run exists by now, or cannot be written.
    """
    part = run.with_name(f".{run.name}.part")
    with storage_errors(run):
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        try:
            yield part
            part.rename(run)  # fails where another process has made the run meanwhile
        finally:
            shutil.rmtree(part, ignore_errors=True)


def point_latest_at(run: Path) -> None:
    """Points the link `latest`, in the folder of the run, at the run.

    Raises:
        StorageError: the link cannot be written.
    """
    link, part = run.parent / LATEST, run.parent / f".{LATEST}.part"
    with storage_errors(link):
        part.unlink(missing_ok=True)
        part.symlink_to(run.name, target_is_directory=True)
        part.replace(link)


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Keeps a second process out of a run folder; the lock goes with the process, however it ends.

    Raises:
        RunError: another process is working in it.
    """
    with storage_errors(run):
        descriptor = os.open(run / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"another edgebcnn train is working in {run}: wait for it, or choose another --name"
            ) from None
        yield
    finally:
        os.close(descriptor)
