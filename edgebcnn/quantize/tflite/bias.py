"""Corrects the biases for the mean error that rounding the weights adds to the output of a layer.

Rounded weights w + Δ shift the mean of an output channel by E[Δ·x] = Δ·E[x], summed over the kernel. The shift is the
same for all photos, so the bias can take it back: b - Δ·E[x] (Nagel et al. 2019, arXiv 1906.04721, section 4.2, with
E[x] measured on the calibration photos). Zeros that padding adds at the border are not counted.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgebcnn.quantize.calibration.observe import packed

_CONV, _DEPTHWISE, _DENSE = (
    schema.BuiltinOperator.CONV_2D,
    schema.BuiltinOperator.DEPTHWISE_CONV_2D,
    schema.BuiltinOperator.FULLY_CONNECTED,
)

LAYERS = (_CONV, _DEPTHWISE, _DENSE)
"""Ops that have weights."""

_DTYPES: dict[int, type[np.generic]] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.INT32: np.int32,
}


def bias_corrected(float_tflite: bytes, int8_tflite: bytes, means: Mapping[int, NDArray[np.float64]]) -> bytes:
    """The float file with biases that make up for what rounding its weights adds. A layer without one stays as it is.

    Args:
        float_tflite: Content of the file.
        int8_tflite: What it was quantized to.
        means: E[x] `(channels,)` of the tensors that flow, by their index in the float file.
    """
    model, int8 = (schema.ModelT.InitFromPackedBuf(content) for content in (float_tflite, int8_tflite))
    for operator, _, bias in _corrections(model, int8, means):
        _replace_bias(model, operator, bias)
    return packed(model)


def with_corrected_biases(
    quantized_tflite: bytes, float_tflite: bytes, means: Mapping[int, NDArray[np.float64]]
) -> bytes:
    """A file of rounded weights and float biases, with biases that make up for what rounding its weights adds.

    Args:
        quantized_tflite: Content of the file.
        float_tflite: What it was made of.
        means: E[x] `(channels,)` of the tensors that flow, by their index in the float file.
    """
    model, quantized = (schema.ModelT.InitFromPackedBuf(content) for content in (float_tflite, quantized_tflite))
    for _, rounded, bias in _corrections(model, quantized, means):
        _replace_bias(quantized, rounded, bias)
    return packed(quantized)


def constant(model: Any, index: int) -> NDArray[np.float64]:
    """Value of a constant tensor of the main subgraph; of an integer one, what it stands for.

    Args:
        model: The schema's `ModelT`.
        index: Of the tensor.
    """
    tensor = model.subgraphs[0].tensors[index]
    dtype = _DTYPES[tensor.type]
    values = np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype).reshape(tensor.shape).astype(np.float64)
    if dtype is np.float32:
        return values
    scales = np.asarray(tensor.quantization.scale, np.float64)
    if len(scales) == 1:
        return (values - int(tensor.quantization.zeroPoint[0])) * float(scales[0])
    shape = np.ones(values.ndim, np.int64)
    shape[tensor.quantization.quantizedDimension] = len(scales)
    return values * scales.reshape(shape)


def _corrections(
    model: Any, quantized: Any, means: Mapping[int, NDArray[np.float64]]
) -> Iterator[tuple[Any, Any, NDArray[np.float64]]]:
    """Each float layer that has a bias, the layer that it became, and its corrected bias."""
    # Quantizing keeps the order of the ops, and renames tensors.
    for (kind, operator), (_, rounded) in zip(_with_weights(model), _with_weights(quantized), strict=True):
        x, weights, bias = operator.inputs[:3]
        if x in means and bias >= 0:
            added = constant(quantized, rounded.inputs[1]) - constant(model, weights)
            yield operator, rounded, constant(model, bias) - _shift(kind, added, means[x])


def _replace_bias(model: Any, operator: Any, values: NDArray[np.float64]) -> None:
    x, weights, bias = operator.inputs[:3]
    operator.inputs = [x, weights, add_constant(model, bias, values)]


def _with_weights(model: Any) -> Iterator[tuple[int, Any]]:
    """Kind and operator of every layer with constant weights."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind in LAYERS:
            weights = graph.tensors[operator.inputs[1]]
            if model.buffers[weights.buffer].data is not None:
                yield kind, operator


def _shift(kind: int, added: NDArray[np.float64], means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Δ·E[x] of every output channel. Kernels are `(1, h, w, out)` (depthwise), `(out, h, w, in)` or `(out, in)`."""
    if kind == _DEPTHWISE:
        per_channel: NDArray[np.float64] = added.sum(axis=(0, 1, 2))
        return per_channel * np.repeat(means, len(per_channel) // len(means))
    per_input = added.sum(axis=(1, 2)) if kind == _CONV else added
    groups = len(means) // per_input.shape[1]
    of_group = np.repeat(means.reshape(groups, -1), len(per_input) // groups, axis=0)
    shift: NDArray[np.float64] = (per_input * of_group).sum(axis=1)
    return shift


def add_constant(model: Any, like: int, values: NDArray[np.float64]) -> int:
    """Index of a new float tensor: layers whose biases are equal share one, and theirs differ from now on.

    Args:
        model: The schema's `ModelT`.
        like: Index of the tensor whose place it takes; -1, which stands for none, stays.
        values: What it holds.
    """
    if like < 0:
        return like
    tensors, buffer = model.subgraphs[0].tensors, schema.BufferT()
    buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor = copy.copy(tensors[like])
    tensor.buffer, tensor.name = len(model.buffers) - 1, b"%s/%d" % (tensor.name, len(tensors))
    tensors.append(tensor)
    return len(tensors) - 1


def op_code(model: Any, kind: int) -> int:
    """Index of the code of an op, which is added where no op of the file has it.

    Args:
        model: The schema's `ModelT`.
        kind: The schema's `BuiltinOperator`.
    """
    for index, code in enumerate(model.operatorCodes):
        if code.builtinCode == kind:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
