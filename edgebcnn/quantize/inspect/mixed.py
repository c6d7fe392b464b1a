"""Chooses the few layers of an int8 model that are worth float arithmetic, and measures what they cost.

Layers are taken in the order of their own error, largest first, with the layers that they feed, so that what flows
between them is not rounded either. It ends when the predictions are half as far from the float model's as
those of int8, or at `MAX_TAKEN` layers; then the best number of layers up to there counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from pydantic import BaseModel, ConfigDict, Field

from edgebcnn.progress import Advance
from edgebcnn.quantize.calibration.observe import flowing
from edgebcnn.quantize.inspect.layer_error import FloatReference, Simulation
from edgebcnn.quantize.tflite.bias import LAYERS

MAX_TAKEN = 8
"""With more, a float16 or float32 file would do."""

_ENOUGH = 0.5  # of the distance of int8

_WEIGHT_BYTES = 4 - 1  # a float32 weight in place of an int8 one


class Mixed(BaseModel):
    """The layers of an int8 model that compute in float.

    Attributes:
        layers: Their names, in the order of computation.
        distance_int8: Distance of the int8 probabilities from those of the float model (`LayerErrors.distance`).
        distance: The same with these layers in float.
        extra_bytes: By how much their weights make the file larger.
        multiply_adds: Their share of all multiply-adds, 0-1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    layers: tuple[str, ...] = Field(strict=False)
    distance_int8: float
    distance: float
    extra_bytes: int
    multiply_adds: float

    def __str__(self) -> str:
        """One line: how many layers, what they gain and what they cost."""
        return (
            f"{len(self.layers)} layers in float ({', '.join(self.layers)}): probabilities move by {self.distance:.4f} "
            f"instead of {self.distance_int8:.4f}, for {self.extra_bytes / 1e3:.0f} kB and float arithmetic in "
            f"{100 * self.multiply_adds:.1f} % of the multiply-adds"
        )


def choose_wide(
    float_tflite: bytes,
    simulation: Simulation,
    reference: FloatReference,
    moved: Mapping[str, float],
    *,
    advance: Advance = lambda layers: None,
) -> Mixed:
    """Finds the layers whose float arithmetic pays off.

    Args:
        float_tflite: Content of the float file.
        simulation: It and the int8 file.
        reference: The float file on some photos.
        moved: Cost of each layer by itself, from `layer_costs`.
        advance: Called with 1 after each set of layers that was tried, of at most `MAX_TAKEN`.
    """
    distance_int8 = reference.distance(simulation.tflite(simulation.layers))
    tried: list[tuple[float, frozenset[str]]] = []
    wide: frozenset[str] = frozenset()
    for layer in sorted(moved, key=lambda name: (-moved[name], name))[:MAX_TAKEN]:
        wide |= {layer} | simulation.fed_by(layer)
        narrow = [name for name in simulation.layers if name not in wide]
        tried.append((reference.distance(simulation.tflite(narrow)), wide))
        advance(1)
        if tried[-1][0] <= _ENOUGH * distance_int8:
            break
    distance, wide = min(tried, key=lambda each: (each[0], len(each[1])))
    weights, multiply_adds = _sizes(float_tflite)
    return Mixed(
        layers=tuple(name for name in simulation.layers if name in wide),
        distance_int8=round(distance_int8, 5),
        distance=round(distance, 5),
        extra_bytes=_WEIGHT_BYTES * sum(weights.get(name, 0) for name in wide),
        multiply_adds=round(sum(multiply_adds.get(name, 0) for name in wide) / max(1, sum(multiply_adds.values())), 5),
    )


def tensors_of(float_tflite: bytes, layers: Mixed) -> frozenset[str]:
    """Names of the tensors that the layers give, as they are in the float file.

    Args:
        float_tflite: Content of the file.
        layers: The layers.
    """
    return frozenset(each.tensor for each in flowing(float_tflite) if each.name in layers.layers)


def _sizes(float_tflite: bytes) -> tuple[dict[str, int], dict[str, int]]:
    """Weights and multiply-adds of each layer that has weights."""
    model = schema.ModelT.InitFromPackedBuf(float_tflite)
    graph = model.subgraphs[0]
    names = {each.index: each.name for each in flowing(float_tflite)}
    weights: dict[str, int] = {}
    multiply_adds: dict[str, int] = {}
    for operator in graph.operators:
        kind = model.operatorCodes[operator.opcodeIndex].builtinCode
        if kind in LAYERS:
            name, kernel = names[operator.outputs[0]], _shape(graph, operator.inputs[1])
            outputs = kernel[-1] if kind == schema.BuiltinOperator.DEPTHWISE_CONV_2D else kernel[0]
            weights[name] = math.prod(kernel)
            multiply_adds[name] = math.prod(kernel) // outputs * math.prod(_shape(graph, operator.outputs[0]))
    return weights, multiply_adds


def _shape(graph: Any, index: int) -> list[int]:
    return [int(size) for size in graph.tensors[index].shape]
