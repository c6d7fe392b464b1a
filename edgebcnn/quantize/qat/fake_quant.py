"""Rebuilds a model file as a network that trains with simulated quantization.

Op by op, it is built again in Keras, and tensorflow-model-optimization wraps every op: what flows out of it, and the
weights that learn, are rounded to the steps of the int8 file that was made of it. Rounding is a staircase; its gradient
is taken as 1 within the range and 0 outside (Jacob et al. 2018, arXiv 1712.05877). So the network computes what the
int8 file computes, and what it learns goes back into the float file.

The library's own rules are not used: with them ranges would begin at ±6 and follow the values slowly, weights of a
depthwise convolution would share one range, and layers of ours would stay in float. Here every rounding lies where it
lies in the file, with the ranges that calibration chose, and they stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import tensorflow_model_optimization as tfmot
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgebcnn.errors import QuantizationError
from edgebcnn.model.keras import keras, tf
from edgebcnn.quantize.calibration.observe import packed, range_held
from edgebcnn.quantize.inspect.audit import op_name
from edgebcnn.quantize.inspect.layer_error import paired
from edgebcnn.quantize.qat.file_ops import (
    LinearOp,
    PlainOp,
    from_file,
    has_weights,
    is_known,
    options_of,
    to_file,
    units,
)
from edgebcnn.quantize.tflite.bias import add_constant, constant

_LAST = "SOFTMAX"  # the network ends before it, because the loss is computed from logits

_register = keras.saving.register_keras_serializable(package="edgebcnn")


class FakeQuantized:
    """A network that computes what an int8 file computes, and learns.

    Attributes:
        network: Keras model, `(n, h, w, 3)` float image, normalized, to `(n, k)` logits; of any height and width.

    Args:
        float_tflite: Content of the float file.
        int8_tflite: The int8 file that was made of it.
        learning: Names of the Keras layers whose weights learn.

    Raises:
        QuantizationError: one cannot learn through an op of the file, or nothing would learn.
    """

    def __init__(self, float_tflite: bytes, int8_tflite: bytes, *, learning: Collection[str]) -> None:
        self._model = schema.ModelT.InitFromPackedBuf(float_tflite)
        self._int8 = schema.ModelT.InitFromPackedBuf(int8_tflite)
        self._learning = frozenset(learning)
        self._learned: dict[str, Any] = {}
        self.network = tfmot.quantization.keras.quantize_apply(
            self._annotated(), AsItIs(), quantized_layer_name_prefix=""
        )
        if not self._learned:
            raise QuantizationError("this model has no layer to fine-tune: export it without --qat")

    def float_file(self) -> bytes:
        """The float file with what was learned, unrounded."""
        for name, operator in self._learned.items():
            weights = {_short_name(each): each.numpy() for each in self.network.get_layer(name).weights}
            kernel = to_file(self._kind(operator), weights["kernel"] * weights["kernel_unit"])
            bias = weights["bias"] * weights["bias_unit"]
            x, *constants = operator.inputs
            learned = zip(constants, (kernel, bias), strict=False)  # not every layer has a bias
            operator.inputs = [x, *(add_constant(self._model, index, values) for index, values in learned)]
        return packed(self._model)

    def _annotated(self) -> Any:
        operators = paired(self._model, self._int8)
        (given,), image = self._model.subgraphs[0].inputs, keras.Input((None, None, 3), name="image")
        taken = next(int8.inputs[0] for operator, int8 in operators if given in operator.inputs)
        values = {given: self._in_steps(PlainOp("QUANTIZE", {}, name="image_steps"), taken)(image)}
        for operator, int8 in operators:
            if self._kind(operator) == _LAST:
                return keras.Model(image, values[operator.inputs[0]])
            flowing = [values[index] for index in operator.inputs if index in values]
            annotated = self._layer(operator, int8)
            values[operator.outputs[0]] = annotated(flowing if len(flowing) > 1 else flowing[0])
            if isinstance(annotated.layer, LinearOp):
                step = float(self._int8.subgraphs[0].tensors[int8.outputs[0]].quantization.scale[0])
                annotated.layer.set_weights(units(*self._kernel_and_bias(operator, int8), step=step))
        raise QuantizationError(f"the model does not end in {_LAST}: export it without --qat")

    def _layer(self, operator: Any, int8: Any) -> Any:
        kind, options, name = self._kind(operator), options_of(operator), f"op_{operator.outputs[0]}"
        if not is_known(kind, options):
            raise QuantizationError(f"--qat cannot train through {kind}, which this model has: export it without --qat")
        learns = has_weights(kind) and bool(self._layers(operator) & self._learning)
        if learns:
            self._learned[name] = operator
        if has_weights(kind):
            kernel, bias = self._kernel_and_bias(operator, int8)
            layer = LinearOp(kind, options, kernel.shape, learns, bias is not None, name=name)
        else:
            layer = PlainOp(kind, {**options, "constants": list(self._constants(int8))}, name=name)
        return self._in_steps(layer, int8.outputs[0], learns=learns)

    def _in_steps(self, layer: Any, index: int, *, learns: bool = False) -> Any:
        """A layer whose output is rounded as an int8 tensor is."""
        held = range_held(self._int8.subgraphs[0].tensors[index])
        if held is None:
            raise QuantizationError("the int8 model keeps ops in float, through which --qat cannot train: leave it out")
        return tfmot.quantization.keras.quantize_annotate_layer(layer, InSteps(held.low, held.high, learns))

    def _kernel_and_bias(self, operator: Any, int8: Any) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Those of the float file where they learn, because the network rounds them; else what int8 makes of them."""
        learns = f"op_{operator.outputs[0]}" in self._learned
        model, (_, kernel, *bias) = (self._model, operator.inputs) if learns else (self._int8, int8.inputs)
        has_bias = any(index >= 0 for index in bias)
        return from_file(self._kind(operator), constant(model, kernel)), constant(model, bias[0]) if has_bias else None

    def _constants(self, int8: Any) -> Iterator[Any]:
        """What an op without weights reads from the file, as int8 has it."""
        for index in int8.inputs:
            tensor = self._int8.subgraphs[0].tensors[index]
            content = self._int8.buffers[tensor.buffer].data
            if content is not None:
                is_index = tensor.type == schema.TensorType.INT32
                values = np.frombuffer(bytes(content), np.int32) if is_index else constant(self._int8, index)
                yield values.reshape(tensor.shape).tolist()

    def _kind(self, operator: Any) -> str:
        """Name of an op; TensorFlow has no gradient of grouped convolutions on CPUs, which so are another kind."""
        kind = op_name(self._model.operatorCodes[operator.opcodeIndex])
        if kind != "CONV_2D":
            return kind
        x, kernel = (self._model.subgraphs[0].tensors[index].shape[-1] for index in operator.inputs[:2])
        return kind if x == kernel else f"grouped {kind}"

    def _layers(self, operator: Any) -> set[str]:
        """`conv`, `bn` and `relu` of `model/relu/Relu6;model/bn/FusedBatchNormV3;model/conv/Conv2D`."""
        tensor = self._model.subgraphs[0].tensors[operator.outputs[0]].name.decode()
        return {"/".join(part.split("/")[1:-1]) for part in tensor.split(";")}


class AsItIs(tfmot.quantization.keras.QuantizeScheme, tfmot.quantization.keras.QuantizeLayoutTransform):  # type: ignore[misc]
    """Leaves the layers as they are: what the converter fuses, the file has fused, and every layer has its rounding."""

    def get_layout_transformer(self) -> AsItIs:
        """Itself."""
        return self

    def get_quantize_registry(self) -> Any:
        """Default of the library, for layers without their own."""
        return tfmot.quantization.keras.default_8bit.Default8BitQuantizeRegistry()

    def apply(self, model: Any, layer_quantize_map: Any) -> tuple[Any, Any]:
        """Changes nothing."""
        return model, layer_quantize_map


class OutputSteps(tfmot.quantization.keras.quantizers.Quantizer):  # type: ignore[misc]
    """Rounds what flows out of an op to the steps of a range that stays as it is.

    Args:
        low: The lowest value.
        high: The highest value.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Has no variables."""
        return {}

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """Rounds a tensor."""
        return tf.quantization.fake_quant_with_min_max_args(inputs, self.low, self.high)

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {"low": self.low, "high": self.high}


class KernelSteps(tfmot.quantization.keras.quantizers.Quantizer):  # type: ignore[misc]
    """Rounds a kernel to -127 to 127 steps, for each channel of its last axis as wide as its largest weight needs."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Has no variables."""
        return {}

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """Rounds a kernel."""
        largest = tf.stop_gradient(tf.reduce_max(tf.abs(inputs), axis=list(range(len(inputs.shape) - 1))))
        rows = tf.reshape(inputs, (-1, inputs.shape[-1]))
        rounded = tf.quantization.fake_quant_with_min_max_vars_per_channel(rows, -largest, largest, narrow_range=True)
        return tf.reshape(rounded, inputs.shape)

    def get_config(self) -> dict[str, Any]:
        """Has no constructor arguments."""
        return {}


@_register
class InSteps(tfmot.quantization.keras.QuantizeConfig):  # type: ignore[misc]
    """Has the output of an op rounded to a range, and its kernel where it learns.

    Args:
        low: The lowest value of the output.
        high: Its highest value.
        learns: Whether the kernel does.
    """

    def __init__(self, low: float, high: float, learns: bool) -> None:
        self.low, self.high, self.learns = low, high, learns

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """The kernel, where it learns."""
        return [(layer.kernel, KernelSteps())] if self.learns else []

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Nothing: what an op fuses is part of its output."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: list[Any]) -> None:
        """Gives the layer its rounded kernel."""
        if self.learns:
            (layer.kernel,) = quantize_weights

    def set_quantize_activations(self, layer: Any, quantize_activations: list[Any]) -> None:
        """Has nothing to set."""

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The output's."""
        return [OutputSteps(self.low, self.high)]

    def get_config(self) -> dict[str, Any]:
        """Constructor arguments, for saving."""
        return {"low": self.low, "high": self.high, "learns": self.learns}


def _short_name(weight: Any) -> str:
    """`kernel` of `op_7/kernel:0`."""
    name, _, _ = str(weight.name).partition(":")
    return name.rpartition("/")[2]
