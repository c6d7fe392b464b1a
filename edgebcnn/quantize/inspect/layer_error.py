"""Measures the error of each layer of a quantized model file.

Two measures, on the same photos:

- **propagated**: the float file and the quantized one run side by side, and the output of every layer is compared. It
  holds the errors of all layers before, so that it grows along the network.
- **alone**: the float file with a single layer in int8: its weights and biases are those of the int8 file, and what it
  takes and gives is rounded to that file's steps, by TFLite's own FAKE_QUANT. The change of the probabilities is
  the cost of this layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from edgebcnn.device.classifier import INT8_OFFSET
from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance
from edgebcnn.quantize.calibration.observe import flowing, observable, packed, range_held
from edgebcnn.quantize.inspect.audit import op_name
from edgebcnn.quantize.inspect.layers import LayerError
from edgebcnn.quantize.tflite.bias import add_constant, constant, op_code

_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_OUTPUT = "probabilities"
_BITS = 8

MAX_PASSES = 512
"""Of a photo through the float file, in `alone`: half a minute of a large model."""

MIN_PHOTOS, MAX_PHOTOS = 4, 16
"""Photos per layer: the effect of one layer is similar from photo to photo."""


def as_input(photos_u8: NDArray[np.uint8], dtype: Any, preprocessing: Preprocessing) -> NDArray[Any]:
    """What a file takes for prepared photos.

    Args:
        photos_u8: `(n, h, w, 3)` uint8 RGB.
        dtype: Of its input: uint8, int8 or float32.
        preprocessing: The model's.
    """
    if dtype == np.float32:
        return preprocessing.normalize(photos_u8)
    return photos_u8 if dtype == np.uint8 else (photos_u8.astype(np.int16) - INT8_OFFSET).astype(np.int8)


def paired(model: Any, quantized: Any) -> list[tuple[Any, Any]]:
    """Ops of a float file with those that they became: quantizing keeps their order, and adds conversions between them.

    Args:
        model: The float file, the schema's `ModelT`.
        quantized: The file that was made of it.

    Raises:
        ValueError: the second file was not made of the first.
    """
    return list(zip(_computing(model), _computing(quantized), strict=True))


def propagated(
    float_tflite: bytes,
    quantized_tflite: bytes,
    photos_u8: NDArray[np.uint8],
    *,
    preprocessing: Preprocessing,
    advance: Advance = lambda photos: None,
) -> tuple[LayerError, ...]:
    """Compares every layer of two files that run side by side.

    Args:
        float_tflite: Content of the float file.
        quantized_tflite: Content of the file that was made of it.
        photos_u8: `(n, h, w, 3)` uint8 RGB, n ≥ 1.
        preprocessing: The model's.
        advance: Called with 1 after each photo.
    """
    model, quantized = (schema.ModelT.InitFromPackedBuf(each) for each in (float_tflite, quantized_tflite))
    names = _names(float_tflite)
    pairs = [pair for pair in paired(model, quantized) if pair[0].outputs[0] in names]
    runs = [_Observed(each) for each in (float_tflite, quantized_tflite)]
    sums = np.zeros((len(pairs), 4))  # Σx², Σy², Σxy, Σ(x - y)²
    for photo_u8 in photos_u8:
        for run in runs:
            run.invoke(photo_u8, preprocessing)
        for row, (first, second) in zip(sums, pairs, strict=True):
            x, y = runs[0].values(first.outputs[0]), runs[1].values(second.outputs[0])
            row += [np.sum(product, dtype=np.float64) for product in (x * x, y * y, x * y, (x - y) ** 2)]
        advance(1)
    return tuple(
        _layer_error(
            names[first.outputs[0]],
            op_name(quantized.operatorCodes[second.opcodeIndex]),
            runs[1].dtype(second.outputs[0]),
            row,
        )
        for (first, second), row in zip(pairs, sums, strict=True)
    )


class Simulation:
    """The float file with some layers in the numbers of the int8 file that was made of it.

    Attributes:
        layers: Names of all layers but the last, whose probabilities stay as they are: rounded to 1/256, dozens of
            small ones vanish, which changes no prediction and would hide everything else.
    """

    def __init__(self, float_tflite: bytes, int8_tflite: bytes) -> None:
        self._content = float_tflite
        self._int8 = schema.ModelT.InitFromPackedBuf(int8_tflite)
        names = _names(float_tflite)
        model = schema.ModelT.InitFromPackedBuf(float_tflite)
        self._pairs = paired(model, self._int8)[:-1]
        self._layers = {names[op.outputs[0]]: op.outputs[0] for op, _ in self._pairs}
        self._consumers = {
            name: frozenset(names[op.outputs[0]] for op in _computing(model) if index in op.inputs)
            for name, index in self._layers.items()
        }
        self.layers = tuple(self._layers)

    def fed_by(self, layer: str) -> frozenset[str]:
        """Layers that a layer goes into, the last one left out."""
        return self._consumers[layer].intersection(self.layers)

    def tflite(self, in_int8: Collection[str]) -> bytes:
        """Content of the file in which these layers compute in int8.

        What a layer gives is rounded where itself or a layer that takes it is among them.

        Args:
            in_int8: Names of layers.
        """
        model = schema.ModelT.InitFromPackedBuf(self._content)
        names = {index: name for name, index in self._layers.items()}
        for operator, (_, int8) in zip(_computing(model)[:-1], self._pairs, strict=True):
            name = names[operator.outputs[0]]
            if name in in_int8:
                self._round_constants(model, operator, int8)
            if name in in_int8 or self._consumers[name].intersection(in_int8):
                self._round_output(model, operator, int8)
        return packed(model)

    def _round_constants(self, model: Any, operator: Any, int8: Any) -> None:
        operator.inputs = [
            add_constant(model, index, constant(self._int8, rounded)) if _is_float_constant(model, index) else index
            for index, rounded in zip(operator.inputs, int8.inputs, strict=True)
        ]

    def _round_output(self, model: Any, operator: Any, int8: Any) -> None:
        held = range_held(self._int8.subgraphs[0].tensors[int8.outputs[0]])
        if held is None:
            return  # an op that has no int8 form
        graph, given = model.subgraphs[0], operator.outputs[0]
        raw = len(graph.tensors)
        graph.tensors.append(copy.copy(graph.tensors[given]))
        graph.tensors[raw].name = b"%s/%d" % (graph.tensors[given].name, raw)
        rounding = schema.OperatorT()
        rounding.opcodeIndex = op_code(model, schema.BuiltinOperator.FAKE_QUANT)
        rounding.inputs, rounding.outputs = [raw], [given]
        options = schema.FakeQuantOptionsT()
        options.min, options.max = held.low, held.high
        options.numBits = _BITS
        rounding.builtinOptionsType, rounding.builtinOptions = schema.BuiltinOptions.FakeQuantOptions, options
        operator.outputs = [raw]
        graph.operators.insert(graph.operators.index(operator) + 1, rounding)


def photos_needed(float_tflite: bytes) -> int:
    """Number of photos for measuring the layers of a file: fewer where there are many layers."""
    return min(max(MAX_PASSES // len(_names(float_tflite)), MIN_PHOTOS), MAX_PHOTOS)


def layer_costs(
    simulation: Simulation, reference: FloatReference, *, advance: Advance = lambda layers: None
) -> dict[str, float]:
    """Change of the probabilities with each layer alone in int8, by its name.

    Args:
        simulation: The two files.
        reference: The float file on some photos.
        advance: Called with 1 after each layer.
    """
    moved = {}
    for layer in simulation.layers:
        moved[layer] = reference.distance(simulation.tflite([layer]))
        advance(1)
    return moved


class FloatReference:
    """The predictions of the float file on some photos, against which other files are compared.

    Args:
        float_tflite: Content of the float file.
        photos_u8: `(n, h, w, 3)` uint8 RGB, n ≥ 1.
        preprocessing: The model's.
    """

    def __init__(self, float_tflite: bytes, photos_u8: NDArray[np.uint8], preprocessing: Preprocessing) -> None:
        self._images = [preprocessing.normalize(photo_u8[np.newaxis]) for photo_u8 in photos_u8]
        self._float_tflite = float_tflite

    @cached_property
    def _reference(self) -> NDArray[np.float32]:
        return self._of(self._float_tflite)

    def distance(self, tflite: bytes) -> float:
        """Mean total variation ½ Σ |p - q| of the probabilities of a file that takes and gives float32."""
        return float(np.abs(self._of(tflite) - self._reference).sum(axis=1).mean() / 2)

    def _of(self, tflite: bytes) -> NDArray[np.float32]:
        # One thread: a choice that follows from these numbers must not depend on the machine's cores.
        runner = Interpreter(model_content=tflite, num_threads=1).get_signature_runner()
        return np.concatenate([runner(image=image)["probabilities"] for image in self._images])


class _Observed:
    """A file whose every tensor can be read after each photo."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = observable(content)
        (self._input,) = self._interpreter.get_input_details()
        self._details = {details["index"]: details for details in self._interpreter.get_tensor_details()}

    def invoke(self, photo_u8: NDArray[np.uint8], preprocessing: Preprocessing) -> None:
        image = as_input(photo_u8[np.newaxis], self._input["dtype"], preprocessing)
        self._interpreter.set_tensor(self._input["index"], image)
        self._interpreter.invoke()

    def dtype(self, index: int) -> str:
        """Name of a tensor's dtype."""
        return str(np.dtype(self._details[index]["dtype"]).name)

    def values(self, index: int) -> NDArray[np.float32]:
        """What a tensor holds, as real numbers."""
        held: NDArray[Any] = self._interpreter.get_tensor(index)
        if held.dtype == np.float32:
            return held
        scale, zero_point = self._details[index]["quantization"]
        real: NDArray[np.float32] = (held.astype(np.float32) - zero_point) * np.float32(scale)
        return real


def _computing(model: Any) -> list[Any]:
    operators: Iterable[Any] = model.subgraphs[0].operators
    return [op for op in operators if op_name(model.operatorCodes[op.opcodeIndex]) not in _CONVERSIONS]


def _names(float_tflite: bytes) -> dict[int, str]:
    names = {activation.index: activation.name for activation in flowing(float_tflite)}
    *_, last = names  # the file's output, whose name in the file means nothing
    return {**names, last: _OUTPUT}


def _layer_error(name: str, op: str, dtype: str, sums: NDArray[np.float64]) -> LayerError:
    x2, y2, xy, noise = sums.tolist()
    return LayerError(
        name=name,
        op=op,
        dtype=dtype,
        sqnr_db=round(10 * math.log10(x2 / noise), 2) if x2 and noise else None,
        cosine=round(xy / math.sqrt(x2 * y2), 6) if x2 and y2 else None,
    )


def _is_float_constant(model: Any, index: int) -> bool:
    if index < 0:  # an optional input that is left out
        return False
    tensor = model.subgraphs[0].tensors[index]
    return tensor.type == schema.TensorType.FLOAT32 and model.buffers[tensor.buffer].data is not None
