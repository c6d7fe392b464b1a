"""Which TFLite runtime runs a model here, and what part of the model did its delegate take?

Two runtimes with one API: LiteRT (`ai-edge-litert`) is the default, and the old `tflite-runtime` serves 32-bit ARM, for
which LiteRT has no wheel. Which one runs is always said.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgebcnn.errors import DeviceError

MAX_DEFAULT_THREADS = 4  # boards with more cores have four fast ones; a slow one holds up every layer

_RUNTIMES = {"ai-edge-litert": ("LiteRT", "ai_edge_litert"), "tflite-runtime": ("tflite-runtime", "tflite_runtime")}
_DELEGATE_NODE = "DELEGATE"


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
        threads: CPU threads it may use.
        ops_taken: Ops that the delegate runs.
        ops_left: Ops that the runtime's own kernels run.
        input: The model's only input.
        output: The model's only output.
    """

    name: str
    version: str
    delegate: str | None
    threads: int
    ops_taken: int
    ops_left: int
    input: TensorSpec
    output: TensorSpec

    def invoke(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Runs the model once.

        Args:
            batch: `(1, h, w, 3)`, of the input's dtype.

        Returns:
            `(1, classes)`, of the output's dtype; the caller's own copy.
        """
        ...


class TfliteRuntime:
    """A model in the `Interpreter` of LiteRT or tflite-runtime, on the CPU, with XNNPACK where the runtime applies it.

    Raises:
        DeviceError: the runtime cannot load the file, or the model has more than one input or output.
    """

    def __init__(self, module: ModuleType, model: Path, *, name: str, version: str, threads: int) -> None:
        self.name, self.version, self.threads = name, version, threads
        try:
            self._interpreter = module.Interpreter(model_path=str(model), num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise DeviceError(
                f"{name} {version} cannot load {model} ({reason}): install a newer runtime or export again"
            ) from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise DeviceError(
                f"{model} has {len(inputs)} inputs and {len(outputs)} outputs instead of one each: export again"
            )
        self._input_index, self._output_index = inputs[0]["index"], outputs[0]["index"]
        self.input, self.output = _spec(inputs[0]), _spec(outputs[0])
        self.ops_taken, self.ops_left = _count_delegated(self._interpreter._get_ops_details())
        self.delegate = "XNNPACK" if self.ops_taken else None

    def invoke(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Runs the model once: `(1, h, w, 3)` of the input's dtype to `(1, classes)` of the output's dtype."""
        self._interpreter.set_tensor(self._input_index, batch)
        self._interpreter.invoke()
        output: NDArray[Any] = self._interpreter.get_tensor(self._output_index)
        return output

    def invoke_batch(self, batch: NDArray[Any]) -> NDArray[Any] | None:
        """Runs the model on several photos at once, where its graph allows that.

        Args:
            batch: `(n, h, w, 3)`, of the input's dtype.

        Returns:
            `(n, classes)`, or None where the graph is made for one photo alone.
        """
        try:
            self._resize(len(batch))
            output = self.invoke(batch)
        except (ValueError, RuntimeError):  # an op that cannot be resized says so here or there
            output = None
        self._resize(1)
        return output if output is not None and len(output) == len(batch) else None

    def _resize(self, photos: int) -> None:
        self._interpreter.resize_tensor_input(self._input_index, (photos, *self.input.shape[1:]))
        self._interpreter.allocate_tensors()


def load_runtime(model: Path, *, threads: int | None = None) -> Runtime:
    """Loads a `.tflite` file into the best runtime that is installed.

    Args:
        model: The file.
        threads: CPU threads; by default the cores this process may use, at most `MAX_DEFAULT_THREADS`.

    Raises:
        DeviceError: no runtime is installed, or the one that is cannot load the file.
    """
    for package, (name, module) in _RUNTIMES.items():
        try:
            interpreter = import_module(f"{module}.interpreter")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != module:
                raise DeviceError(
                    f"{package} needs {error.name}, which is not installed: reinstall {package}"
                ) from error
        except ImportError as error:
            raise DeviceError(f"{package} is installed but does not load ({error}): reinstall it") from error
        else:
            threads = threads or default_threads()
            release = import_module(module).__version__
            return TfliteRuntime(interpreter, model, name=name, version=release, threads=threads)
    raise DeviceError("no TFLite runtime is installed: pip install ai-edge-litert, or on 32-bit ARM tflite-runtime")


def default_threads() -> int:
    """Cores that this process may use, at most `MAX_DEFAULT_THREADS`."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux only; it knows of containers' and taskset's limits
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_THREADS)


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = details["quantization"]
    shape = tuple(int(size) for size in details["shape"])
    return TensorSpec(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))


def _count_delegated(nodes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """Ops that delegates took, and ops that they left.

    A delegated graph keeps its original nodes and gains a DELEGATE node for each part that was taken. That part is what
    lies between the node's outputs and inputs, found by walking back from producer to producer; this spares loading the
    model a second time without delegates.
    """
    ops = [node for node in nodes if node["op_name"] != _DELEGATE_NODE]
    producer = {int(tensor): index for index, op in enumerate(ops) for tensor in op["outputs"]}
    taken: set[int] = set()
    for part in nodes:
        if part["op_name"] != _DELEGATE_NODE:
            continue
        given = {int(tensor) for tensor in part["inputs"]}
        pending = [int(tensor) for tensor in part["outputs"]]
        while pending:
            tensor = pending.pop()
            op = producer.get(tensor)
            if tensor in given or op is None or op in taken:
                continue
            taken.add(op)
            pending.extend(int(source) for source in ops[op]["inputs"])
    return len(taken), len(ops) - len(taken)
