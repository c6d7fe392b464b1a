"""Lets a model file into this process only after a process of its own has run it.

A damaged or hostile `.tflite` file can crash the native code that loads or runs it, and no exception handler catches
that. So the first load of a file is a trial: `python -m edgebcnn.device.admission` loads it as this process is about
to, runs one frame of zeros and one of noise, alone and together, and ends. What passed is remembered in the cache, by
the SHA-256 of the file, the runtime and the machine; what failed is tried again the next time.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn import __version__, errors
from edgebcnn.atomic import write_json
from edgebcnn.cache import cache_folder
from edgebcnn.device.interpreter import find_package
from edgebcnn.device.machine import inspect_machine
from edgebcnn.device.profile import DEFAULT_PROFILE, DeviceProfile, load_profile
from edgebcnn.device.runtime import load_runtime
from edgebcnn.errors import BundleError, DeviceError, EdgebcnnError, StorageError, first_line

TIMEOUT_S = 120.0  # the slowest board loads the largest model in 20 s

_KIND = "models"  # of the cache
_CHUNK_BYTES = 1 << 20


def admit(model: Path, profile: DeviceProfile | None = None, *, threads: int | None = None) -> None:
    """Checks that loading and running a `.tflite` file does not end a process here.

    Args:
        model: The file.
        profile: How it will be loaded; by default on the CPU.
        threads: CPU threads, in place of the profile's.

    Raises:
        BundleError: the file crashes the runtime, or cannot be run.
        DeviceError: the runtime is not installed, cannot load the file, or does not come to an end.
    """
    profile = profile or load_profile(DEFAULT_PROFILE)
    verdict = _verdict(model, profile, threads)
    if verdict is not None and verdict.is_file():
        return
    _try(model, profile, threads)
    if verdict is not None:
        with suppress(StorageError):  # without a cache, the file is tried each time
            write_json(verdict, {"passed": True})


def _verdict(model: Path, profile: DeviceProfile, threads: int | None) -> Path | None:
    """Where it is remembered that this file passed here; None where nothing can be remembered."""
    digest = hashlib.sha256()
    try:
        with model.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise BundleError(f"{model} cannot be read ({error.strerror}): copy the bundle again") from error
    package, machine = find_package(profile.runtime), inspect_machine()
    there = (machine.model, machine.cpu, machine.architecture, machine.cpu_features)
    how = (package.name, package.version, profile.delegate, threads or profile.threads)
    key = repr((__version__, digest.hexdigest(), how, there))
    try:
        return cache_folder() / _KIND / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    except StorageError:
        return None


def _try(model: Path, profile: DeviceProfile, threads: int | None) -> None:
    request = json.dumps({"model": str(model), "profile": profile.model_dump(mode="json"), "threads": threads})
    try:
        ended = subprocess.run(
            [sys.executable, "-m", __name__, request],
            capture_output=True,
            env=own_environment(),
            timeout=TIMEOUT_S,
            start_new_session=True,  # Ctrl-C is for us alone
        )
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"{model} did not load and run within {TIMEOUT_S:.0f} s in a process of its own: copy the bundle again, "
            "or use another --precision"
        ) from error
    except OSError as error:
        raise DeviceError(f"no process can be started to try {model} ({error.strerror}): free some memory") from error
    if ended.returncode == 0:
        return
    lines = ended.stdout.splitlines()
    if ended.returncode == EdgebcnnError.exit_code and lines:
        with suppress(ValueError, KeyError, AttributeError):
            failure = json.loads(lines[-1])
            kind: type[EdgebcnnError] = getattr(errors, failure["kind"])
            raise kind(failure["message"])
    raise BundleError(
        f"{model} {_how_it_ended(ended.returncode)} that tried it, so that it was not loaded here: the file is damaged "
        "or does not fit this runtime; copy the bundle again, or export it again"
    )


def own_environment() -> Mapping[str, str]:
    """Ours, so that the process finds this edgebcnn, and no module that happens to lie in the working folder."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended the process with exit code {code}"
    with suppress(ValueError):
        return f"crashed the process ({signal.Signals(-code).name})"
    return f"crashed the process (signal {-code})"


def main(model: str, profile: dict[str, Any], threads: int | None) -> int:
    """The process: loads and runs the file, and prints why that fails where it is an exception."""
    with suppress(OSError):  # where memory runs out, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        _run(Path(model), DeviceProfile.model_validate(profile), threads)
    except EdgebcnnError as error:
        kind = next(known for known in type(error).__mro__ if known.__module__ == errors.__name__)
        return _failed(kind.__name__, str(error))
    except (ValueError, RuntimeError, TypeError, IndexError, OverflowError, MemoryError) as error:
        return _failed(
            BundleError.__name__,
            f"{model} cannot be run ({first_line(error)}): copy the bundle again, or export it again",
        )
    return 0


def _failed(kind: str, message: str) -> int:
    print(json.dumps({"kind": kind, "message": message}), flush=True)
    return EdgebcnnError.exit_code


def _run(model: Path, profile: DeviceProfile, threads: int | None) -> None:
    runtime = load_runtime(model, profile, threads=threads)
    frames = _frames((2, *runtime.input.shape[1:]), runtime.input.dtype)
    for frame in frames:
        runtime.invoke(frame.reshape(runtime.input.shape))
    if batches := getattr(runtime, "invoke_batch", None):
        batches(frames)
    runtime.invoke(frames[:1].reshape(runtime.input.shape))


def _frames(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """One frame of zeros and one of noise, of the range that the type has."""
    frames = np.zeros(shape, dtype)
    noise = np.random.default_rng(0).integers(0, 256, shape[1:], np.uint8)
    frames[1] = noise.view(np.int8) if dtype == np.int8 else noise / 127.5 - 1 if dtype.kind == "f" else noise
    return frames


if __name__ == "__main__":
    sys.exit(main(**json.loads(sys.argv[1])))
