"""What does this machine have that can classify or see: runtimes, CPU, GPU, delegates, cameras?

Nothing is installed or changed, and no camera opened but by libcamera's own list. On systems other than Linux, what
cannot be read is left empty.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgebcnn.camera.csi import PREFIX, csi_cameras
from edgebcnn.camera.devices import LINKS, lasting_path
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
class Camera:
    """A camera: its device or `csi:` and its number, its name, and a path that it keeps whatever its number, if any."""

    device: str
    name: str
    stable_path: str | None

    def __str__(self) -> str:
        """`/dev/video0 · HD Webcam · /dev/v4l/by-id/usb-…`."""
        return " · ".join(filter(None, (self.device, self.name, self.stable_path)))


@dataclass(frozen=True)
class Inventory:
    """A machine, and what is installed on it or plugged into it.

    Attributes:
        machine: The machine.
        runtimes: Both TFLite runtimes, there or not.
        gpus: What Vulkan sees.
        delegates: Paths of those of `DELEGATE_LIBRARIES` that are there.
        cameras: Cameras.
    """

    machine: Machine
    runtimes: tuple[InstalledRuntime, ...]
    gpus: tuple[Adapter, ...]
    delegates: tuple[str, ...]
    cameras: tuple[Camera, ...]

    def as_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def take_inventory(root: Path = Path("/")) -> Inventory:
    """Looks at this machine, at what is installed on it and at what is plugged into it."""
    runtimes = (_runtime("litert"), _runtime("tflite_runtime"))
    return Inventory(inspect_machine(root), runtimes, find_adapters(), _delegates(root), _cameras(root))


def with_csi_cameras(inventory: Inventory) -> Inventory:
    """Adds the cameras that libcamera sees, where `rpicam-vid` is installed; that takes it about a second."""
    found = (Camera(f"{PREFIX}{each.index}", each.sensor, f"{PREFIX}{each.path}") for each in csi_cameras())
    return replace(inventory, cameras=(*inventory.cameras, *found))


def inspect_machine(root: Path = Path("/")) -> Machine:
    """Looks at this machine; `root` is the folder of `proc` and `sys`."""
    cpu, memory = _fields(root / "proc/cpuinfo"), _fields(root / "proc/meminfo")
    features = (cpu.get("flags") or cpu.get("Features") or "").split()
    return Machine(
        model=_read(root / "proc/device-tree/model") or _read(root / "sys/class/dmi/id/product_name"),
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


def _cameras(root: Path) -> tuple[Camera, ...]:
    links = tuple(root / folder.relative_to("/") for folder in LINKS)
    return tuple(
        Camera(f"/dev/{entry.name}", _read(entry / "name"), lasting_path(str(root / "dev" / entry.name), links=links))
        for entry in sorted((root / "sys/class/video4linux").glob("video*"))
        if _read(entry / "index") in ("", "0")  # further entries of one camera give metadata, not pictures
    )


def _temperature_c(root: Path) -> float | None:
    zones = [_read(zone) for zone in (root / "sys/class/thermal").glob("thermal_zone*/temp")]
    return max((int(millidegrees) / 1000 for millidegrees in zones if millidegrees.lstrip("-").isdigit()), default=None)


def _fields(path: Path) -> dict[str, str]:
    """`name: value` lines; the first of equal names, which for a processor is the first core."""
    pairs = (line.partition(":") for line in reversed(_read(path).splitlines()))
    return {name.strip(): value.strip() for name, _, value in pairs}


def _megabytes(kibibytes: str | None) -> float | None:
    """From `8042312 kB`, as the kernel calls KiB."""
    return round(int(kibibytes.split()[0]) * 1024 / 1e6, 1) if kibibytes else None


def _read(path: Path) -> str:
    """The text of a small file of the kernel; empty where it is not there or may not be read."""
    try:
        return path.read_text(errors="replace").strip("\0 \n")
    except OSError:
        return ""
