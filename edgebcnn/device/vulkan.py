"""Lists the GPUs that Vulkan sees; these are the ones that LiteRT can use on Linux.

Drivers crash when they are asked, so `find_adapters` runs this file as a process of its own.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from dataclasses import asdict, dataclass

TIMEOUT_S = 20.0  # a driver that wakes a GPU answers within seconds

# vulkan_core.h
_SUCCESS = 0
_INSTANCE_CREATE_INFO = 1
_KINDS = ("other", "integrated", "discrete", "virtual", "software")  # VkPhysicalDeviceType
_NAME_BYTES = 256
_PROPERTIES_BYTES = 4096  # VkPhysicalDeviceProperties takes 824


SWIFTSHADER = "SwiftShader"
"""The software GPU that LiteRT accepts. Of others, such as Mesa's llvmpipe, it says that it finds no GPU."""


@dataclass(frozen=True)
class Adapter:
    """A GPU, or what plays one; `kind` is integrated, discrete, virtual, software (the CPU plays it) or other."""

    name: str
    kind: str

    def __str__(self) -> str:
        """`NVIDIA Orin (integrated)`, and of a software GPU what LiteRT makes of it."""
        if self.kind != "software":
            return f"{self.name} ({self.kind})"
        use = "for tests only" if SWIFTSHADER in self.name else "not usable by LiteRT"
        return f"{self.name} (software, {use})"


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.c_void_p),
        ("layer_count", ctypes.c_uint32),
        ("layers", ctypes.c_void_p),
        ("extension_count", ctypes.c_uint32),
        ("extensions", ctypes.c_void_p),
    )


class _PropertiesHead(ctypes.Structure):
    _fields_ = (
        ("versions_and_ids", ctypes.c_uint32 * 4),
        ("kind", ctypes.c_uint32),
        ("name", ctypes.c_char * _NAME_BYTES),
    )


def find_adapters() -> tuple[Adapter, ...]:
    """The GPUs that Vulkan sees; none where it is not installed, or where its drivers crash or hang."""
    try:
        done = subprocess.run(
            [sys.executable, "-I", __file__], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return ()
    return tuple(Adapter(**adapter) for adapter in json.loads(done.stdout))


def enumerate_adapters() -> list[Adapter]:
    """Asks Vulkan in this process.

    Raises:
        OSError: Vulkan is not installed.
    """
    vulkan = ctypes.CDLL("libvulkan.so.1")
    instance, count = ctypes.c_void_p(), ctypes.c_uint32()
    if vulkan.vkCreateInstance(ctypes.byref(_InstanceCreateInfo(_INSTANCE_CREATE_INFO)), None, ctypes.byref(instance)):
        return []
    if vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None) != _SUCCESS:
        return []
    devices = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), devices)
    return [_properties(vulkan, ctypes.c_void_p(device)) for device in devices]


def _properties(vulkan: ctypes.CDLL, device: ctypes.c_void_p) -> Adapter:
    buffer = ctypes.create_string_buffer(_PROPERTIES_BYTES)
    vulkan.vkGetPhysicalDeviceProperties(device, buffer)
    head = _PropertiesHead.from_buffer(buffer)
    return Adapter(head.name.decode(errors="replace"), _KINDS[head.kind] if head.kind < len(_KINDS) else _KINDS[0])


if __name__ == "__main__":
    try:
        print(json.dumps([asdict(adapter) for adapter in enumerate_adapters()]))
    except OSError:
        print("[]")
