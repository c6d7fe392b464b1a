"""Measures which precision, runtime, delegate and threads run a bundle fastest and right on this machine.

Every candidate replays the golden photos in a process of its own, where it may crash. Those that are missing, partial
or wrong are dropped, the fastest of the others is taken and remembered, and the record says what became of each.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from edgebcnn import __version__
from edgebcnn.atomic import write_json
from edgebcnn.bundle import Bundle, Precision
from edgebcnn.cache import cache_folder
from edgebcnn.device.classifier import PREFERRED
from edgebcnn.device.delegate import try_delegate
from edgebcnn.device.machine import Inventory, take_inventory
from edgebcnn.device.profile import DeviceProfile, ExternalDelegate, GpuSettings
from edgebcnn.device.runtime import check_threads, default_threads
from edgebcnn.device.selftest import read_golden
from edgebcnn.errors import DeviceError, StorageError
from edgebcnn.progress import Reporter, Silent
from edgebcnn.untrusted.files import read_bytes

AUTO = "auto"

_SILENT = Silent()


class Considered(BaseModel):
    """A candidate and what became of it: its median latency, or why it was dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    profile: DeviceProfile
    latency_p50_ms: float | None
    dropped: str | None

    def __str__(self) -> str:
        """`int8 · litert · XNNPACK · 2 threads: 1.61 ms`."""
        profile = self.profile
        parts = [profile.precision, profile.runtime, profile.processor]
        if profile.threads:
            parts.append(f"{profile.threads} thread{'s' if profile.threads != 1 else ''}")
        return f"{' · '.join(parts)}: {self.dropped or f'{self.latency_p50_ms:.2f} ms'}"


class Choice(BaseModel):
    """The fastest candidate that is right, and all that were considered, the fastest first and the dropped last."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    chosen: DeviceProfile
    considered: tuple[Considered, ...]


@dataclass(frozen=True)
class Wanted:
    """What a user fixed; None where the measurement decides."""

    precision: Precision | None = None
    threads: int | None = None


def measure(bundle: Bundle, wanted: Wanted, *, reporter: Reporter = _SILENT) -> Choice:
    """Measures every candidate of this machine now, and remembers the choice.

    Raises:
        DeviceError: nothing here runs the bundle right, or there are fewer cores than threads.
        BundleError: there is no model of that precision, or there are no golden photos.
    """
    check_threads(wanted.threads, "--threads")
    inventory = take_inventory()
    choice = choose(bundle, list(candidates(bundle, wanted, inventory)), reporter=reporter)
    try:
        write_json(_memory(bundle, wanted, inventory), choice.model_dump(mode="json"))
    except StorageError as error:
        reporter.say(f"The choice is not remembered: {error}")
    return choice


def recall(bundle: Bundle, wanted: Wanted, *, reporter: Reporter = _SILENT) -> Choice:
    """The choice that was remembered for this bundle, machine and wish; measured now where there is none.

    Raises:
        DeviceError: nothing here runs the bundle right, or there are fewer cores than threads.
        BundleError: there is no model of that precision, or there are no golden photos.
    """
    try:
        return Choice.model_validate_json(read_bytes(_memory(bundle, wanted, take_inventory())))
    except (OSError, ValidationError, StorageError):  # never made, written by hand, or nowhere to keep it
        return measure(bundle, wanted, reporter=reporter)


def choose(bundle: Bundle, candidates: Sequence[DeviceProfile], *, reporter: Reporter = _SILENT) -> Choice:
    """Measures candidates, one after the other, and takes the fastest that is right.

    Raises:
        DeviceError: none is right.
        BundleError: there is no model of a candidate's precision, or there are no golden photos.
    """
    considered = []
    with reporter.progress("Measuring devices", len(candidates)) as advance:
        for candidate in candidates:
            considered.append(_considered(bundle, candidate))
            advance(1)
    considered.sort(key=lambda one: one.latency_p50_ms or math.inf)
    if not considered or considered[0].dropped:
        raise nothing_right(bundle, considered)
    return Choice(chosen=considered[0].profile, considered=tuple(considered))


def nothing_right(bundle: Bundle, dropped: Sequence[Considered]) -> DeviceError:
    """The error where every candidate was dropped; each reason, which says what to do, is told once."""
    if not dropped:
        return DeviceError(f"nothing here runs {bundle.given}, no TFLite runtime: pip install ai-edge-litert")
    reasons = {one.dropped: str(one) for one in reversed(dropped)}
    return DeviceError(f"nothing here runs {bundle.given} right ({'; '.join(reversed(reasons.values()))})")


def candidates(bundle: Bundle, wanted: Wanted, inventory: Inventory) -> Iterator[DeviceProfile]:
    """What could run the bundle here: each precision on each delegate that is there, on one thread and on all."""
    precisions = [wanted.precision] if wanted.precision else [one for one in PREFERRED if one in bundle.manifest.models]
    threads = [wanted.threads] if wanted.threads else sorted({1, default_threads()})
    for precision in precisions:
        common: dict[str, Any] = {"name": AUTO, "description": "Chosen by measurement.", "precision": precision}
        for runtime in inventory.runtimes:
            if runtime.version:
                for count in threads:
                    yield DeviceProfile(runtime=runtime.name, delegate="xnnpack", threads=count, **common)
        if any(gpu.kind != "software" for gpu in inventory.gpus):
            yield DeviceProfile(runtime="litert", delegate="gpu", gpu=GpuSettings(), **common)
        for library in inventory.delegates:
            external = ExternalDelegate(library=library)
            yield DeviceProfile(runtime="any", delegate="external", threads=1, external=external, **common)


def _considered(bundle: Bundle, profile: DeviceProfile) -> Considered:
    golden = read_golden(bundle, profile.precision)
    try:
        judged = try_delegate(bundle, profile, golden, precision=profile.precision)
    except DeviceError as error:
        return Considered(profile=profile, latency_p50_ms=None, dropped=str(error))
    if judged.problem:
        return Considered(profile=profile, latency_p50_ms=None, dropped=judged.problem)
    return Considered(profile=profile, latency_p50_ms=judged.trial.latency_ms(0.5), dropped=None)


def _memory(bundle: Bundle, wanted: Wanted, inventory: Inventory) -> Path:
    """Where the choice for this bundle, machine and wish is kept; another runtime or GPU makes it another place."""
    machine = inventory.machine
    there = [machine.model, machine.cpu, machine.cores, machine.architecture, inventory.gpus, inventory.delegates]
    key = repr((__version__, bundle.digest, wanted, there, inventory.runtimes))
    return cache_folder() / f"auto-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
