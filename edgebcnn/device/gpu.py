"""Runs a model on the GPU with LiteRT's `CompiledModel` (Vulkan on Linux and Windows, Metal on macOS).

The GPU alone is asked for: where the CPU may help, LiteRT calls a model fully accelerated that never left the CPU. Some
graphs abort the process, so `edgebcnn.device.trial` loads a model in a process of its own first.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.interpreter import Package, find_package, model_tensors, split_ops
from edgebcnn.device.profile import DeviceProfile, GpuSettings
from edgebcnn.device.runtime import Runtime
from edgebcnn.errors import DeviceError
from edgebcnn.native import native_stderr

_ADAPTER = re.compile(r"Selected adapter: (?P<name>.+?), arch=.*?backend=(?P<backend>\w+), adapterType=(?P<kind>.+)")
_REJECTED_OPS = re.compile(r"not supported by GPU delegate:\n(?P<ops>.+?)\n\d+ operations will run", re.DOTALL)
_NO_ADAPTER = "No adapters found"


def load(model: Path, profile: DeviceProfile) -> Runtime:
    """Loads a `.tflite` file onto the GPU.

    Raises:
        DeviceError: this LiteRT has no `CompiledModel`, there is no GPU, only one that the CPU plays, or one that
            rejects an op.
    """
    return GpuRuntime(find_package("litert"), model, profile.gpu or GpuSettings())


class GpuRuntime:
    """A model on the GPU, all of it.

    Raises:
        DeviceError: see `load`.
    """

    delegate: str | None = "GPU"
    threads: int | None = None

    def __init__(self, package: Package, model: Path, settings: GpuSettings) -> None:
        self.name, self.version = package.name, package.version
        interpreter = package.module.Interpreter(model_path=str(model))
        self.input, self.output = model_tensors(interpreter, model)
        _, self.taken = split_ops(interpreter._get_ops_details())
        self.left: tuple[str, ...] = ()
        self._model, said = _compiled(package, model, settings)
        self.adapter = _adapter(said, settings)
        self._inputs = self._model.create_input_buffers(0)
        self._outputs = self._model.create_output_buffers(0)

    def invoke(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Runs the model once: `(1, h, w, 3)` of the input's dtype to `(1, classes)` of the output's dtype."""
        if batch.shape != self.input.shape or batch.dtype != self.input.dtype:
            raise ValueError(
                f"the input must be {self.input.dtype} {self.input.shape}, not {batch.dtype} {batch.shape}"
            )
        try:
            self._inputs[0].write(batch)  # it would take a batch that is too short
            self._model.run_by_index(0, self._inputs, self._outputs)
            output = self._outputs[0].read(int(np.prod(self.output.shape)), self.output.dtype.type)
        except RuntimeError as error:
            raise DeviceError(
                f"the GPU ({self.adapter}) failed while it ran the model ({_last_line(str(error))}): "
                "look at its driver, or use the profile cpu"
            ) from error
        return np.array(output, self.output.dtype).reshape(self.output.shape)


def _compiled(package: Package, model: Path, settings: GpuSettings) -> tuple[Any, str]:
    """The model, and what LiteRT printed meanwhile: the only place where it names its adapter and rejected ops."""
    try:
        api = import_module("ai_edge_litert.compiled_model")
    except ImportError as error:
        raise DeviceError(
            f"LiteRT {package.version} cannot use a GPU ({error}): pip install 'ai-edge-litert>=2'"
        ) from error
    options = api.Options(
        hardware_accelerators=api.HardwareAccelerator.GPU,
        gpu_options=api.GpuOptions(enforce_f32=settings.enforce_f32),
    )
    with native_stderr() as said:
        try:
            return api.CompiledModel.from_file(str(model), options=options), said()
        except RuntimeError as error:
            raise DeviceError(_why_not(model, said(), str(error))) from error


def _why_not(model: Path, said: str, error: str) -> str:
    if _NO_ADAPTER in said:
        return (
            "LiteRT finds no GPU: install the GPU's Vulkan driver and libvulkan1 (`edgebcnn devices` lists what Vulkan "
            "sees), or use the profile cpu"
        )
    if rejected := _REJECTED_OPS.search(said):
        # Without a reason: the DEQUANTIZE of fp16 weights, which it takes.
        ops = "; ".join(line for line in rejected["ops"].splitlines() if not line.rstrip().endswith(":"))
        return f"the GPU rejects ops of {model} ({ops}): export without them, or use the profile cpu"
    return f"the GPU cannot run {model} ({_last_line(error)}): look at its driver, or use the profile cpu"


def _adapter(said: str, settings: GpuSettings) -> str | None:
    """`NVIDIA Orin, Vulkan`; None where LiteRT does not say."""
    adapter = _ADAPTER.search(said)
    if not adapter:
        return None
    name = f"{adapter['name']}, {adapter['backend']}"
    if re.search("cpu|software", adapter["kind"], re.IGNORECASE):
        name += ", software"
        if not settings.software_adapter:
            raise DeviceError(
                f"the only GPU here is {name}, which the CPU plays: install the GPU's Vulkan driver, use the profile "
                "cpu, or for a test set software_adapter = true in the table [gpu] of a profile"
            )
    return name


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2].lstrip("└ ").strip()
