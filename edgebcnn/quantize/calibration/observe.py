"""Observes the values that flow between the ops of a float model file, and writes chosen ranges into the file.

The file runs as it is on each photo, on plain float kernels, and every tensor is read. A range is an annotation of its
tensor, `min` and `max`, which the quantizer reads; the float model computes the same with it as without.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from edgebcnn.preprocessing import Preprocessing
from edgebcnn.progress import Advance
from edgebcnn.quantize.calibration.ranges import Histogram, Range

MAX_COUNTED = 2**15
"""Values of a tensor that are counted in a photo, spread over the map; lowest and highest are those of all."""

_FILE_IDENTIFIER = b"TFL3"


@dataclass(frozen=True)
class Activation:
    """A tensor that flows between ops.

    Attributes:
        index: Its place in the file.
        tensor: Its name in the file.
        layer: The Keras layer that it comes out of; where several were made one op, the last of them.
        name: The layer, and its op as well where the layer has several.
        feeds: Layers that it goes into.
        is_input: Whether it is the image.
        seen: The values that it took.
        means: `(channels,)` float64, the mean of each of its channels.
        reach: `(channels,)` float64, the largest |x| of each of its channels.
    """

    index: int
    tensor: str
    layer: str
    name: str
    feeds: frozenset[str]
    is_input: bool
    seen: Histogram
    means: NDArray[np.float64]
    reach: NDArray[np.float64]

    @property
    def names(self) -> tuple[str, str]:
        """What a recipe may call it."""
        return self.name, self.layer


def observe(
    float_tflite: bytes, photos_u8: NDArray[np.uint8], *, preprocessing: Preprocessing, advance: Advance
) -> tuple[Activation, ...]:
    """Runs a float model file on photos and notes what every tensor holds.

    Args:
        float_tflite: Content of the file.
        photos_u8: `(n, h, w, 3)` uint8 RGB, n ≥ 1.
        preprocessing: The model's.
        advance: Called with 1 after each photo.
    """
    interpreter = observable(float_tflite)
    activations = flowing(float_tflite)
    (image,) = (activation.index for activation in activations if activation.is_input)
    for photo_u8 in photos_u8:
        interpreter.set_tensor(image, preprocessing.normalize(photo_u8[np.newaxis]))
        interpreter.invoke()
        for activation in activations:
            values = np.atleast_2d(interpreter.get_tensor(activation.index))
            activation.seen.add(values, _sample(values))
            rows = _rows(values)
            activation.means[:] += rows.mean(axis=0, dtype=np.float64) / len(photos_u8)
            np.maximum(activation.reach, np.maximum(rows.max(axis=0), -rows.min(axis=0)), out=activation.reach)
        advance(1)
    return activations


def observable(tflite: bytes) -> Interpreter:
    """An interpreter of a model file that keeps what every tensor holds."""
    interpreter = Interpreter(
        model_content=tflite,
        experimental_preserve_all_tensors=True,
        # XNNPACK would keep what flows between its ops to itself.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    return interpreter


def flowing(float_tflite: bytes) -> tuple[Activation, ...]:
    """The tensors that flow between the ops of a float model file, in the order of computation; nothing seen yet.

    Args:
        float_tflite: Content of the file.
    """
    return tuple(_activations(schema.ModelT.InitFromPackedBuf(float_tflite)))


def annotated(float_tflite: bytes, ranges: Mapping[int, Range]) -> bytes:
    """The same file with ranges at its tensors.

    Args:
        float_tflite: Content of the file.
        ranges: Range by `Activation.index`.
    """
    model = schema.ModelT.InitFromPackedBuf(float_tflite)
    for index, chosen in ranges.items():
        quantization = schema.QuantizationParametersT()
        quantization.min, quantization.max = [chosen.low], [chosen.high]
        model.subgraphs[0].tensors[index].quantization = quantization
    return packed(model)


def packed(model: Any) -> bytes:
    """Content of a `.tflite` file.

    Args:
        model: The schema's `ModelT`.
    """
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def ranges_in_file(int8_tflite: bytes) -> dict[str, Range]:
    """What the int8 tensors of a file can hold, by their names."""
    tensors = schema.ModelT.InitFromPackedBuf(int8_tflite).subgraphs[0].tensors
    in_int8 = (tensor for tensor in tensors if tensor.type == schema.TensorType.INT8)
    return {tensor.name.decode(): held for tensor in in_int8 if (held := range_held(tensor))}


def range_held(tensor: Any) -> Range | None:
    """Lowest and highest value that an int8 tensor can hold; None where it has no scale, or one for each channel.

    Args:
        tensor: The schema's `TensorT`.
    """
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or len(quantization.scale) != 1:
        return None
    scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    return Range((-128 - zero_point) * scale, (127 - zero_point) * scale)


def _activations(model: Any) -> Iterator[Activation]:
    graph = model.subgraphs[0]
    produced = [index for operator in graph.operators for index in operator.outputs]
    indices = [index for index in (*graph.inputs, *produced) if graph.tensors[index].type == schema.TensorType.FLOAT32]
    layers = {index: _layer(graph.tensors[index].name.decode()) for index in indices}
    in_layer = Counter(layers.values())
    for index in indices:
        tensor = graph.tensors[index].name.decode()
        first, _, _ = tensor.partition(";")
        _, _, op = first.rpartition("/")
        yield Activation(
            index=index,
            tensor=tensor,
            layer=layers[index],
            name=layers[index] if in_layer[layers[index]] == 1 else f"{layers[index]}/{op}",
            feeds=_feeds(graph, index, layers),
            is_input=index in graph.inputs,
            seen=Histogram(),
            means=np.zeros([1, *graph.tensors[index].shape][-1]),
            reach=np.zeros([1, *graph.tensors[index].shape][-1]),
        )


def _layer(tensor: str) -> str:
    """`block_1_relu` of `model/block_1_relu/Relu6;model/block_1_BN/FusedBatchNormV3`."""
    first, _, _ = tensor.partition(";")
    return "/".join(first.split("/")[1:-1]) or first


def _feeds(graph: Any, index: int, layers: Mapping[int, str]) -> frozenset[str]:
    consumers = (operator for operator in graph.operators if index in operator.inputs)
    return frozenset(layers[output] for operator in consumers for output in operator.outputs if output in layers)


def _rows(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(locations, channels)` of `(1, ..., channels)`."""
    return values.reshape(-1, values.shape[-1])


def _sample(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """All channels at every n-th location of `(1, ..., channels)`."""
    stride = math.ceil(values.size / MAX_COUNTED)
    # A stride that shares a factor with the width would see some columns alone.
    while math.gcd(stride, values.shape[-2]) > 1:
        stride += 1
    return _rows(values)[::stride]
