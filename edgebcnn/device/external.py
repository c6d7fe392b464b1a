"""Loads a vendor's delegate (Edge TPU, NPU) from its library, and explains what is wrong where it fails.

Every such library has two functions, `tflite_plugin_create_delegate` and `tflite_plugin_destroy_delegate`.
"""

from __future__ import annotations

import ctypes
import platform
from pathlib import Path

from edgebcnn.device.interpreter import InterpreterRuntime, Loaded, Package, find_package
from edgebcnn.device.profile import DeviceProfile, ExternalDelegate
from edgebcnn.device.runtime import Runtime
from edgebcnn.errors import DeviceError

_FUNCTIONS = ("tflite_plugin_create_delegate", "tflite_plugin_destroy_delegate")

_ELF_MAGIC = b"\x7fELF"
_ELF_MACHINES = {3: "x86", 40: "armv7l", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
"""`e_machine` of an ELF header, as `platform.machine()` calls it."""


def load(model: Path, profile: DeviceProfile) -> Runtime:
    """Loads a `.tflite` file with a vendor's delegate; XNNPACK gets what the delegate leaves.

    Raises:
        DeviceError: the library is missing, is not one for this machine, is no delegate, or reports a failure; or the
            delegate refuses the model.
    """
    if profile.external is None:
        raise DeviceError(f"the device profile {profile.name} names no library: give it a table [external]")
    package = find_package(profile.runtime)
    delegate = _loaded(package, profile.external)
    return InterpreterRuntime(package, model, threads=profile.threads or 1, external=delegate)


def _loaded(package: Package, external: ExternalDelegate) -> Loaded:
    library = external.library
    _check_library(library)
    try:
        handle = package.module.load_delegate(library, external.options)
    except ValueError as error:
        reason = " ".join(str(error).partition("\n")[2].split()) or "it gives no reason"
        raise DeviceError(
            f"{library} loads but makes no delegate ({reason}): check that its device is connected, "
            "its driver installed, and the options of the profile"
        ) from error
    return Loaded(Path(library).name, handle)


def _check_library(library: str) -> None:
    try:
        opened = ctypes.CDLL(library)
    except OSError as error:
        raise DeviceError(f"{library} {_why_not(library, str(error))}") from error
    missing = [function for function in _FUNCTIONS if not hasattr(opened, function)]
    if missing:
        raise DeviceError(
            f"{library} is a library but no TFLite delegate (it has no {' and no '.join(missing)}): "
            "name the vendor's external delegate"
        )


def _why_not(library: str, said: str) -> str:
    """What the loader's message comes to, and what to do."""
    path = Path(library)
    if not path.is_file():
        if "No such file" in said and not said.startswith(library):
            return f"needs another library that is not there ({said}): install it"
        return "is not there: install the vendor's package, or give its path as `library` in the device profile"
    header = path.read_bytes()[:20]
    if not header.startswith(_ELF_MAGIC):
        return "is not a shared library: download or copy it again"
    machine = int.from_bytes(header[18:20], "little")
    if _ELF_MACHINES.get(machine, platform.machine()) != platform.machine():
        return f"is for {_ELF_MACHINES[machine]}, and this is {platform.machine()}: install the vendor's build for it"
    return f"does not load ({said}): install what it needs, or the vendor's build for this system"
