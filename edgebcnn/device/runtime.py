"""Loads a model in the runtime and delegate of a device profile.

This is the seam: a runtime is a module with `load(model, profile)`, and `_LOADERS` says which module serves which
delegate of a device profile. Nothing else knows of runtimes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.profile import DEFAULT_PROFILE, Delegate, DeviceProfile, load_profile
from edgebcnn.errors import DeviceError

MAX_DEFAULT_THREADS = 4  # boards with more cores have four fast ones; a slow one holds up every layer

_LOADERS: dict[Delegate, str] = {
    "none": "edgebcnn.device.interpreter",
    "xnnpack": "edgebcnn.device.interpreter",
    "external": "edgebcnn.device.external",
    "gpu": "edgebcnn.device.gpu",
}


@dataclass(frozen=True)
class TensorSpec:
    """Input or output of a loaded model: `real = (quantized - zero_point) * scale`, with scale 0 for floats."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scale: float
    zero_point: int


class Runtime(Protocol):
    """A model, loaded and ready.

    Attributes:
        name: Name of the runtime.
        version: Version of its package.
        delegate: What took ops from the runtime's own kernels, or None where nothing did.
        adapter: The processor behind the delegate, where it says so.
        threads: CPU threads it may use; None where the CPU does not compute.
        taken: Names of the ops that the delegate runs, in the model's order.
        left: Names of the ops that it left.
        input: The model's only input.
        output: The model's only output.
    """

    name: str
    version: str
    delegate: str | None
    adapter: str | None
    threads: int | None
    taken: tuple[str, ...]
    left: tuple[str, ...]
    input: TensorSpec
    output: TensorSpec

    def invoke(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Runs the model once.

        Args:
            batch: `(1, h, w, 3)`, of the input's dtype.

        Returns:
            `(1, classes)`, of the output's dtype; the caller's own copy.

        Raises:
            DeviceError: the runtime or its delegate failed.
        """
        ...


def load_runtime(model: Path, profile: DeviceProfile | None = None, *, threads: int | None = None) -> Runtime:
    """Loads a `.tflite` file as a device profile says.

    What the delegate computes is not looked at here; `edgebcnn.device.delegate` does that.

    Args:
        model: The file.
        profile: How; by default on the CPU, in the best runtime that is installed.
        threads: CPU threads, in place of the profile's.

    Raises:
        DeviceError: the runtime or the delegate is not installed, or cannot load the file.
    """
    profile = profile or load_profile(DEFAULT_PROFILE)
    asked = profile.model_copy(update={"threads": threads or profile.threads or default_threads()})
    runtime: Runtime = import_module(_LOADERS[profile.delegate]).load(model, asked)
    return runtime


def default_threads() -> int:
    """Cores that this process may use, at most `MAX_DEFAULT_THREADS`."""
    return min(usable_cores(), MAX_DEFAULT_THREADS)


def usable_cores() -> int:
    """Cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only; it knows of containers' and taskset's limits
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def check_threads(threads: int | None, asked_by: str) -> None:
    """Checks that there are cores for `threads` threads; None, which lets edgebcnn choose, always fits.

    Raises:
        DeviceError: more threads than cores; they would wait for each other.
    """
    cores = usable_cores()
    if threads is not None and threads > cores:
        raise DeviceError(
            f"{asked_by} asks for {threads} threads, and this process may use {cores} core{'s' if cores != 1 else ''}: "
            f"give --threads {cores} or fewer"
        )
