"""Reads the tensors of a PyTorch weights file without PyTorch, and without running anything that is in it.

A `.pth` file of PyTorch before 1.6 is a row of pickles (magic number, protocol, system, a dictionary of tensors, the
keys of their storages) and then each storage as its length and its numbers. A pickle may name any function to call; the
unpickler here knows tensors and ordered dictionaries, refuses all else by name, and every tensor is checked to lie
within its storage before it is read.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgebcnn.errors import TrainingError

MAX_BYTES = 1 << 30
"""EfficientNet-Lite4, the largest network that is read here, has 52 MB."""

_MAGIC = 0x1950A86A20F9469CFC6C
_KINDS = {"FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8"}
_MAX_DIMENSIONS = 8


@dataclass
class _Storage:
    kind: str
    size: int
    numbers: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: Sequence[int]
    strides: Sequence[int]

    def array(self) -> NDArray[Any]:
        """A copy of the tensor.

        Raises:
            ValueError: it does not lie within its storage.
        """
        numbers, whole = self.storage.numbers, (self.offset, *self.shape, *self.strides)
        if numbers is None or len(self.shape) != len(self.strides) or len(self.shape) > _MAX_DIMENSIONS:
            raise ValueError("a tensor without numbers or of an impossible shape")
        if any(type(each) is not int or each < 0 for each in whole):
            raise ValueError("a tensor of an impossible shape")
        size = int(np.prod(self.shape, dtype=object))
        last = self.offset + sum(stride * (side - 1) for side, stride in zip(self.shape, self.strides, strict=True))
        if size > len(numbers) or (size and last >= len(numbers)):
            raise ValueError("a tensor that is larger than its storage")
        strides = [stride * numbers.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, strides).copy()


class _TensorsOnly(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *_: _Tensor(storage, offset, shape, strides)
        if module == "torch" and name in _KINDS:
            return name
        raise _ForeignClassError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, size, *_ = pid
        return self.storages.setdefault(str(key), _Storage(str(kind), int(size)))


class _ForeignClassError(Exception):
    """The file names something that is no tensor."""


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Reads every tensor of a PyTorch weights file in the format before 1.6, by its name.

    Args:
        path: The file.

    Raises:
        TrainingError: the file is not there, is of another format, is cut short, or names anything but tensors.
    """
    advice = "give --weights another file, or install it again"
    try:
        with path.open("rb") as file:
            if path.stat().st_size > MAX_BYTES:
                raise TrainingError(
                    f"{path} is larger than {MAX_BYTES >> 20} MiB, which no stream's weights are: {advice}"
                )
            return {name: tensor.array() for name, tensor in _read(file).items()}
    except _ForeignClassError as error:
        raise TrainingError(
            f"{path} holds {error}, which is no tensor, and was not read any further: {advice}"
        ) from None
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror}): {advice}") from error
    # Whatever a pickle that was damaged makes of these few classes.
    except (ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError) as error:
        raise TrainingError(f"{path} is damaged or cut short: {advice}") from error
    except (pickle.UnpicklingError, struct.error, TypeError, ValueError, RecursionError) as error:
        raise TrainingError(f"{path} is no whole PyTorch weights file of the format before 1.6: {advice}") from error


def _read(file: BinaryIO) -> Mapping[str, _Tensor]:
    if _TensorsOnly(file).load() != _MAGIC:
        raise ValueError("another format")
    for _ in ("protocol", "system"):
        _TensorsOnly(file).load()
    reader = _TensorsOnly(file)
    tensors = reader.load()
    for key in _TensorsOnly(file).load():
        storage = reader.storages[key]
        dtype = np.dtype(_KINDS[storage.kind])
        (size,) = struct.unpack("<q", file.read(8))
        content = file.read(dtype.itemsize * storage.size) if size == storage.size and size >= 0 else b""
        if len(content) != dtype.itemsize * storage.size:
            raise EOFError
        storage.numbers = np.frombuffer(content, dtype)
    if not all(isinstance(name, str) and isinstance(tensor, _Tensor) for name, tensor in tensors.items()):
        raise ValueError("no dictionary of tensors")
    return dict(tensors)
