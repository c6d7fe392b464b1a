"""Tries a model on a delegate in a process of its own.

Delegates crash, hang and abort. `try_model` starts `python -m edgebcnn.device.trial FOLDER`, which replays the golden
photos and leaves its results in the folder; whatever happens there becomes one sentence here.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn import errors
from edgebcnn.atomic import storage_errors, write_json
from edgebcnn.bundle import Bundle, Precision, open_bundle
from edgebcnn.device.admission import own_environment
from edgebcnn.device.classifier import Classifier, Receipt
from edgebcnn.device.profile import DeviceProfile
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import DeviceError, EdgebcnnError

TIMED_CALLS = 200  # the p99 then has two calls above it
TIMING_BUDGET_S = 10.0  # on a slow device fewer calls are timed, and the count says so
TIMEOUT_S = 600.0  # a GPU that the CPU plays takes a minute for the golden photos

_REQUEST, _RESULT, _OUTPUTS, _LOG = "request.json", "result.json", "outputs.npy", "log"
_FATAL = re.compile(r"^(?:F\d{4} .*?\] |Fatal Python error: |.*: symbol lookup error: )(.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Trial:
    """What a model did on a delegate.

    Attributes:
        receipt: What ran it.
        outputs: `(n, classes)` float32 probabilities of the golden photos.
        load_ms: From the model file to the first prediction, in a fresh process that has imported the runtime.
        latencies_ms: Time of each timed photo, input copied in and output read back; none where none was to be.
        memory_mb: Peak of the process, with Python and the golden photos.
    """

    receipt: Receipt
    outputs: NDArray[np.float32]
    load_ms: float
    latencies_ms: tuple[float, ...]
    memory_mb: float

    def latency_ms(self, q: float) -> float:
        """Smallest latency that a share `q` (0-1) of the timed photos did not exceed."""
        return float(np.quantile(self.latencies_ms, q, method="inverted_cdf"))

    @property
    def photos_per_s(self) -> float:
        """One photo after the other."""
        return 1000 / float(np.mean(self.latencies_ms))


def try_model(
    bundle: Bundle,
    profile: DeviceProfile,
    *,
    precision: Precision,
    threads: int | None = None,
    calls: int = TIMED_CALLS,
    timeout_s: float = TIMEOUT_S,
) -> Trial:
    """Loads a model as a profile says and replays the golden photos, in a process of its own.

    Args:
        bundle: The bundle.
        profile: Runtime and delegate.
        precision: Which model.
        threads: CPU threads; by default the profile's.
        calls: How many photos to time after the replay, which is their warm-up; 0 where nobody asks how fast it is.
        timeout_s: When the process is given up.

    Raises:
        DeviceError: the delegate cannot be had, or the process crashed or hung.
        BundleError: the model does not fit the bundle, or there are no golden photos.
    """
    request = {
        "bundle": str(bundle.path.resolve()),
        "profile": profile.model_dump(mode="json"),
        "precision": precision,
        "threads": threads,
        "calls": calls,
    }
    with tempfile.TemporaryDirectory(prefix="edgebcnn-trial-") as name:
        folder = Path(name)
        write_json(folder / _REQUEST, request)
        ended = _run(folder, timeout_s)
        if not (folder / _RESULT).exists():
            remedy = "use the profile cpu" if profile.is_accelerator else "copy the bundle again, or export it again"
            raise DeviceError(f"{profile.processor} {_how_it_ended(folder, ended, timeout_s)}: {remedy}")
        result = json.loads((folder / _RESULT).read_bytes())
        if "error" in result:
            kind: type[EdgebcnnError] = getattr(errors, result["error"])
            raise kind(result["message"])
        outputs = np.load(folder / _OUTPUTS)
    return Trial(
        receipt=Receipt(**result["receipt"]),
        outputs=outputs,
        load_ms=result["load_ms"],
        latencies_ms=tuple(result["latencies_ms"]),
        memory_mb=result["memory_mb"],
    )


def _run(folder: Path, timeout_s: float) -> int | None:
    """Exit code of the trial; negative after a signal, None where it had to be ended."""
    with storage_errors(folder), (folder / _LOG).open("w+b") as log:
        try:
            return subprocess.run(
                [sys.executable, "-m", __name__, folder],
                stdout=log,
                stderr=log,
                env=own_environment(),
                timeout=timeout_s,
                start_new_session=True,  # Ctrl-C is for us alone
            ).returncode
        except subprocess.TimeoutExpired:
            return None


def _how_it_ended(folder: Path, code: int | None, timeout_s: float) -> str:
    if code is None:
        return f"gave no answer within {timeout_s:.0f} s"
    log = (folder / _LOG).read_text(errors="replace")
    fatal = _FATAL.findall(log) or log.strip().splitlines()[-1:]
    how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
    return f"ended its process {how}" + (f" ({fatal[-1].strip()})" if fatal else "")


def main(folder: Path) -> None:
    """The process: reads the request, tries the model, leaves the results."""
    request = json.loads((folder / _REQUEST).read_bytes())
    try:
        trial = _tried(**request)
    except EdgebcnnError as error:
        kind = next(known for known in type(error).__mro__ if known.__module__ == errors.__name__)
        write_json(folder / _RESULT, {"error": kind.__name__, "message": str(error)})
        return
    np.save(folder / _OUTPUTS, trial.outputs)
    fields = {name: getattr(trial, name) for name in ("load_ms", "latencies_ms", "memory_mb")}
    write_json(folder / _RESULT, {"receipt": asdict(trial.receipt), **fields})


def _tried(bundle: str, profile: dict[str, Any], precision: Precision, threads: int | None, calls: int) -> Trial:
    opened = open_bundle(Path(bundle))
    golden = read_golden(opened, precision)
    chosen = DeviceProfile.model_validate(profile)
    started_s = time.monotonic()
    classifier = Classifier.load_untried(opened, precision=precision, threads=threads, profile=chosen)
    load_ms = 1000 * (time.monotonic() - started_s)
    outputs = classifier.probabilities(golden.pixels)
    latencies_ms = _latencies_ms(classifier, golden.pixels, calls)
    return Trial(classifier.receipt, outputs, load_ms, latencies_ms, _peak_memory_mb())


def _latencies_ms(classifier: Classifier, pixels: NDArray[np.uint8], calls: int) -> tuple[float, ...]:
    """Photo after photo; the replay before it was the warm-up."""
    latencies: list[float] = []
    until_s = time.monotonic() + TIMING_BUDGET_S
    while len(latencies) < calls and time.monotonic() < until_s:
        photo = pixels[len(latencies) % len(pixels)][np.newaxis]
        started_s = time.monotonic()
        classifier.probabilities(photo)
        latencies.append(1000 * (time.monotonic() - started_s))
    return tuple(latencies)


def _peak_memory_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024)  # bytes on macOS, KiB elsewhere


if __name__ == "__main__":
    main(Path(sys.argv[1]))
