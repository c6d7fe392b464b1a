"""The poolings, one file each: the file's name is the pooling's, and nothing else has to list it."""

from __future__ import annotations

import pkgutil
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names alone, as a command line lists them, need no NumPy
    from edgebcnn.model.head import Head

FULL = "outer"
"""The pooling of the full model; every other one can replace it in the compact model."""


def names() -> tuple[str, ...]:
    """Names of all poolings, that of the full model first."""
    found = {module.name for module in pkgutil.iter_modules(__path__)}
    return (FULL, *sorted(found - {FULL}))


def compact_names() -> tuple[str, ...]:
    """Names of the poolings that a compact model can have."""
    return names()[1:]


def find(name: str) -> Head:
    """The pooling of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in names():
        raise ValueError(f"unknown pooling {name!r}: choose one of {', '.join(names())}")
    head: Head = import_module(f"{__name__}.{name}").HEAD
    return head


def find_compact(name: str) -> Head:
    """The pooling of that name, for a compact model.

    Raises:
        ValueError: there is none, or it is that of the full model.
    """
    if name not in compact_names():
        raise ValueError(f"the compact model cannot have {name!r} pooling: choose one of {', '.join(compact_names())}")
    return find(name)
