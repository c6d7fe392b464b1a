"""Lists what this machine has to classify with: runtimes, CPU, GPU, delegates.

Nothing is installed or changed. On systems other than Linux, what cannot be read is left empty.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebcnn.device.interpreter import find_package
from edgebcnn.device.profile import RuntimeName
from edgebcnn.device.runtime import usable_cores
from edgebcnn.device.vulkan import Adapter, find_adapters
from edgebcnn.errors import DeviceError

DELEGATE_LIBRARIES = (
    "libedgetpu.so.1",  # Coral Edge TPU
    "libvx_delegate.so",  # VeriSilicon NPUs (NXP i.MX 8M Plus)
    "libethosu_delegate.so",  # Arm Ethos-U (NXP i.MX 93)
    "libarmnnDelegate.so",  # Arm NN
    "libQnnTFLiteDelegate.so",  # Qualcomm Hexagon
    "libneuron_stable_delegate.so",  # MediaTek APU
    "libteflon.so",  # Mesa's open NPU drivers
)
"""External delegates that their vendors ship."""

CPU_FEATURES = (
    *("avx2", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
    *("neon", "asimd", "asimdhp", "asimddp", "i8mm", "sve"),
)
"""What decides how fast XNNPACK is, as `/proc/cpuinfo` calls it on x86-64 and on ARM."""


@dataclass(frozen=True)
class Machine:
    """A computer, as far as it matters here.

    Attributes:
        model: What its firmware calls the board; empty where it does not say.
        architecture: `x86_64`, `aarch64`, `armv7l`, …
        system: Kernel and its release.
        python: Version of Python.
        cpu: What the processor calls itself.
        cores: Cores that this process may use.
        cpu_features: Those of `CPU_FEATURES` that the processor has.
        memory_mb: All of it; None where the system does not say.
        memory_available_mb: What is free or can be freed.
        temperature_c: The hottest sensor; None where there is none.
    """

    model: str
    architecture: str
    system: str
    python: str
    cpu: str
    cores: int
    cpu_features: tuple[str, ...]
    memory_mb: float | None
    memory_available_mb: float | None
    temperature_c: float | None

    def __str__(self) -> str:
        """`Raspberry Pi 5 Model B Rev 1.0 · aarch64 · 4 cores · 8063 MB · 51 °C`."""
        parts = [self.model or self.cpu, self.architecture, f"{self.cores} core{'s' if self.cores != 1 else ''}"]
        if self.memory_mb is not None:
            parts.append(f"{self.memory_mb:.0f} MB")
        if self.temperature_c is not None:
            parts.append(f"{self.temperature_c:.0f} °C")
        return " · ".join(filter(None, parts))


@dataclass(frozen=True)
class InstalledRuntime:
    """A TFLite runtime; where it cannot be used it has no version, and `problem` says why."""

    name: RuntimeName
    version: str | None
    problem: str | None


@dataclass(frozen=True)
class Inventory:
    """A machine, and what is installed on it.

    Attributes:
        machine: The machine.
        runtimes: Both TFLite runtimes, there or not.
        gpus: What Vulkan sees.
        delegates: Paths of those of `DELEGATE_LIBRARIES` that are there.
    """

    machine: Machine
    runtimes: tuple[InstalledRuntime, ...]
    gpus: tuple[Adapter, ...]
    delegates: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def take_inventory(root: Path = Path("/")) -> Inventory:
    """Inspects this machine and what is installed on it."""
    runtimes = (_runtime("litert"), _runtime("tflite_runtime"))
    return Inventory(inspect_machine(root), runtimes, find_adapters(), _delegates(root))


def inspect_machine(root: Path = Path("/")) -> Machine:
    """Looks at this machine; `root` is the folder of `proc` and `sys`."""
    cpu, memory = _fields(root / "proc/cpuinfo"), _fields(root / "proc/meminfo")
    features = (cpu.get("flags") or cpu.get("Features") or "").split()
    return Machine(
        model=read_kernel_file(root / "proc/device-tree/model")
        or read_kernel_file(root / "sys/class/dmi/id/product_name"),
        architecture=platform.machine(),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        cpu=cpu.get("model name") or cpu.get("Hardware") or platform.processor(),
        cores=usable_cores(),
        cpu_features=tuple(feature for feature in CPU_FEATURES if feature in features),
        memory_mb=_megabytes(memory.get("MemTotal")),
        memory_available_mb=_megabytes(memory.get("MemAvailable")),
        temperature_c=_temperature_c(root),
    )


def _runtime(name: RuntimeName) -> InstalledRuntime:
    try:
        return InstalledRuntime(name, find_package(name).version, None)
    except DeviceError as error:
        return InstalledRuntime(name, None, str(error))


def _delegates(root: Path) -> tuple[str, ...]:
    folders = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    multiarch = getattr(sys.implementation, "_multiarch", "")  # Debian's, such as aarch64-linux-gnu
    folders += [
        root / place / inner for place in ("usr/local/lib", "usr/lib", "usr/lib64") for inner in ("", multiarch)
    ]
    found = (folder / name for folder in folders for name in DELEGATE_LIBRARIES)
    return tuple(dict.fromkeys(str(path) for path in found if path.is_file()))


def _temperature_c(root: Path) -> float | None:
    zones = [read_kernel_file(zone) for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    return max((int(millidegrees) / 1000 for millidegrees in zones if millidegrees.lstrip("-").isdigit()), default=None)


def _fields(path: Path) -> dict[str, str]:
    """`name: value` lines; the first of equal names, which for a processor is the first core."""
    pairs = (line.partition(":") for line in reversed(read_kernel_file(path).splitlines()))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _megabytes(kibibytes: str | None) -> float | None:
    """From `8042312 kB`, as the kernel calls KiB."""
    return round(int(kibibytes.split()[0]) * 1024 / 1e6, 1) if kibibytes else None


def read_kernel_file(path: Path) -> str:
    """The text of a small file of the kernel; empty where it is not there or may not be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
