"""Runs a model in the `Interpreter` of LiteRT or tflite-runtime, on the CPU or with a vendor's delegate.

LiteRT (`ai-edge-litert`) is the default, and the old `tflite-runtime`, whose `Interpreter` is the same, serves 32-bit
ARM, for which LiteRT has no wheel. Which one runs is always said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgebcnn.device.profile import DeviceProfile, RuntimeName
from edgebcnn.device.runtime import Runtime, TensorSpec
from edgebcnn.errors import DeviceError, first_line

_PACKAGES: dict[RuntimeName, tuple[str, str, str]] = {
    "litert": ("LiteRT", "ai-edge-litert", "ai_edge_litert"),
    "tflite_runtime": ("tflite-runtime", "tflite-runtime", "tflite_runtime"),
}
"""What its makers call it, what pip calls it, and its module; the better one first."""

_DELEGATE_NODE = "DELEGATE"
_TOO_NEW_OP = re.compile(r"Didn't find op for builtin opcode '(\w+)' version '(\d+)'")


@dataclass(frozen=True)
class Package:
    """An installed runtime.

    Attributes:
        name: What its makers call it.
        version: Of the package.
        distribution: What pip calls it.
        module: Its module with `Interpreter` and `load_delegate`.
    """

    name: str
    version: str
    distribution: str
    module: ModuleType


@dataclass(frozen=True)
class Loaded:
    """A vendor's delegate, as `load_delegate` gave it, and the name of its library."""

    library: str
    handle: Any


def load(model: Path, profile: DeviceProfile) -> Runtime:
    """Loads a `.tflite` file on the CPU.

    Raises:
        DeviceError: the runtime is not installed, or cannot load the file.
    """
    package = find_package(profile.runtime)
    return InterpreterRuntime(package, model, threads=profile.threads or 1, xnnpack=profile.delegate == "xnnpack")


def find_package(runtime: RuntimeName) -> Package:
    """The runtime of that name; for `any`, the best that is installed.

    Raises:
        DeviceError: it is not installed, or does not load.
    """
    wanted = _PACKAGES if runtime == "any" else {runtime: _PACKAGES[runtime]}
    for name, distribution, module in wanted.values():
        try:
            interpreter = import_module(f"{module}.interpreter")
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != module:
                raise DeviceError(
                    f"{distribution} needs {error.name}, which is not installed: reinstall {distribution}"
                ) from error
        except ImportError as error:
            raise DeviceError(f"{distribution} is installed but does not load ({error}): reinstall it") from error
        else:
            return Package(name, import_module(module).__version__, distribution, interpreter)
    if runtime == "any":
        raise DeviceError("no TFLite runtime is installed: pip install ai-edge-litert, or on 32-bit ARM tflite-runtime")
    name, distribution, _ = _PACKAGES[runtime]
    raise DeviceError(f"{name} is not installed: pip install {distribution}, or use another device profile")


class InterpreterRuntime:
    """A model in an `Interpreter`, with XNNPACK where the runtime applies it, or with a vendor's delegate.

    Args:
        package: The runtime.
        model: The file.
        threads: CPU threads.
        xnnpack: Whether XNNPACK may take ops, of all or of those that `external` left.
        external: The vendor's delegate.

    Raises:
        DeviceError: the runtime cannot load the file, the delegate refuses it, or the model has more than one input or
            output.
    """

    adapter: str | None = None

    def __init__(
        self, package: Package, model: Path, *, threads: int, xnnpack: bool = True, external: Loaded | None = None
    ) -> None:
        self.name, self.version = package.name, package.version
        self.threads: int | None = threads
        self._takes_batches = external is None  # a vendor's delegate compiled the graph for one photo
        interpreter = self._interpreter = _opened(package, model, threads=threads, xnnpack=xnnpack, external=external)
        self.input, self.output = model_tensors(interpreter, model)
        self._input_index = interpreter.get_input_details()[0]["index"]
        self._output_index = interpreter.get_output_details()[0]["index"]
        taken_by_external = split_ops(interpreter._get_ops_details())  # XNNPACK takes its ops in the next step
        with _refusals(package, model):
            interpreter.allocate_tensors()
        self.taken, self.left = taken_by_external if external else split_ops(interpreter._get_ops_details())
        self.delegate = (external.library if external else "XNNPACK") if self.taken else None

    def invoke(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Runs the model once: `(1, h, w, 3)` of the input's dtype to `(1, classes)` of the output's dtype."""
        self._interpreter.set_tensor(self._input_index, batch)
        try:
            self._interpreter.invoke()
        except RuntimeError as error:
            raise DeviceError(
                f"{self.delegate or self.name} failed while it ran the model ({first_line(error)}): "
                "look at its device and driver, or use another delegate"
            ) from error
        output: NDArray[Any] = self._interpreter.get_tensor(self._output_index)
        return output

    def invoke_batch(self, batch: NDArray[Any]) -> NDArray[Any] | None:
        """Runs the model on several photos at once, where its graph and delegate allow that.

        Args:
            batch: `(n, h, w, 3)`, of the input's dtype.

        Returns:
            `(n, classes)`, or None where they take one photo alone.
        """
        if not self._takes_batches:
            return None
        try:
            self._resize(len(batch))
            output = self.invoke(batch)
        except (ValueError, RuntimeError, DeviceError):  # an op that cannot be resized says so here or there
            self._takes_batches = False
        self._resize(1)
        return output if self._takes_batches and len(output) == len(batch) else None

    def _resize(self, photos: int) -> None:
        self._interpreter.resize_tensor_input(self._input_index, (photos, *self.input.shape[1:]))
        self._interpreter.allocate_tensors()


def model_tensors(interpreter: Any, model: Path) -> tuple[TensorSpec, TensorSpec]:
    """Input and output of a model that an `Interpreter` opened; its memory need not be allocated.

    Raises:
        DeviceError: it has more than one of either.
    """
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    if len(inputs) != 1 or len(outputs) != 1:
        raise DeviceError(
            f"{model} has {len(inputs)} inputs and {len(outputs)} outputs instead of one each: export again"
        )
    return _spec(inputs[0]), _spec(outputs[0])


def split_ops(nodes: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the ops that delegates took, and of those that they left, in the model's order.

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
    names = [str(op["op_name"]) for op in ops]
    return (
        tuple(name for index, name in enumerate(names) if index in taken),
        tuple(name for index, name in enumerate(names) if index not in taken),
    )


def _opened(package: Package, model: Path, *, threads: int, xnnpack: bool, external: Loaded | None) -> Any:
    options: dict[str, Any] = {}
    if external:
        options["experimental_delegates"] = [external.handle]
    if not xnnpack:
        resolvers = package.module.OpResolverType
        options["experimental_op_resolver_type"] = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    with _refusals(package, model):
        try:
            return package.module.Interpreter(model_path=str(model), num_threads=threads, **options)
        except RuntimeError as error:  # a broken file is a ValueError
            if not external:
                raise
            raise DeviceError(
                f"{external.library} loads but refuses {model} ({first_line(error)}): "
                "look in its documentation for the ops that it takes, or use another delegate"
            ) from error


@contextmanager
def _refusals(package: Package, model: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        said = f"{package.name} {package.version} cannot load {model}"
        if missing := _TOO_NEW_OP.search(str(error)):
            op, version = missing.groups()
            raise DeviceError(
                f"{said}: it has no {op} of version {version}, the model is too new for it; "
                f"pip install --upgrade {package.distribution}, or export with the TensorFlow of its time"
            ) from error
        raise DeviceError(f"{said} ({first_line(error)}): install a newer runtime or export again") from error


def _spec(details: Mapping[str, Any]) -> TensorSpec:
    scale, zero_point = details["quantization"]
    shape = tuple(int(size) for size in details["shape"])
    return TensorSpec(shape, np.dtype(details["dtype"]), float(scale), int(zero_point))
