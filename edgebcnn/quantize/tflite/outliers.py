"""Splits the outlier weights of a dense layer into a layer of their own.

A row of int8 weights has one step, as wide as its largest weight needs, and all others are rounded to it. A classifier
that began as the factorized one of a full model has a weight or two for each product that are tens of times as large as
its others: those along the product's own direction. So they become a layer of their own,

    W x + b  =  (W_rest x + b) + W_outliers x,

each with its own steps, and zeros, which int8 holds exactly, where the other has a weight. In real arithmetic that is
the same; outlier splitting as in Dettmers et al. 2022 (arXiv 2208.07339), here as weights and in int8.

Rounding moves a row's output by a variance of Σ Δ²/12 · E[x²] over its weights that are not zero, with Δ the step of
the part that a weight is in. The largest m weights go where that is least, and a layer is split where less than
a ninth is left, because two more outputs are then rounded to 256 steps.

Fine-tuning leaves the outliers as they are, because one of their steps is too large for its zeros.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgebcnn.quantize.calibration.observe import packed
from edgebcnn.quantize.tflite.bias import add_constant, constant, op_code

WORTH = 1 / 9
"""A layer is split where at most this share of the variance from rounding its weights is left."""

_kinds, _fused = schema.BuiltinOperator, schema.ActivationFunctionType


def without_outliers(float_tflite: bytes) -> bytes:
    """Splits the outlier weights of dense layers in a float file, where that helps int8; the file computes the same.

    Tensors keep their places in the file. A layer `logits` is followed by `logits_outliers`, and by their sum.

    Args:
        float_tflite: Content of the file.
    """
    model = schema.ModelT.InitFromPackedBuf(float_tflite)
    layers = [operator for operator in model.subgraphs[0].operators if _can_be_split(model, operator)]
    split = [(layer, mask) for layer in layers if (mask := outliers(constant(model, layer.inputs[1]))) is not None]
    for layer, mask in split:
        _split(model, layer, mask)
    return packed(model) if split else float_tflite


def outliers(weights: NDArray[np.float64]) -> NDArray[np.bool_] | None:
    """Finds the weights that go into a layer of their own.

    Args:
        weights: `(out, in)`.

    Returns:
        `(out, in)`; None where too little would be gained.
    """
    order = np.argsort(-np.abs(weights), axis=1, kind="stable")
    sizes = np.take_along_axis(np.abs(weights), order, axis=1)
    outlying = np.arange(sizes.shape[1])
    left = np.count_nonzero(sizes, axis=1, keepdims=True) - outlying
    # With m weights split off, theirs is the step of the largest, and the others' that of the next one.
    variances = outlying * sizes[:, :1] ** 2 + np.maximum(left, 0) * sizes**2
    counts = variances.argmin(axis=1)
    if variances.min(axis=1).sum() >= WORTH * variances[:, 0].sum():
        return None
    mask = np.zeros(weights.shape, np.bool_)
    np.put_along_axis(mask, order, outlying < counts[:, np.newaxis], axis=1)
    return mask


def _can_be_split(model: Any, operator: Any) -> bool:
    if model.operatorCodes[operator.opcodeIndex].builtinCode != _kinds.FULLY_CONNECTED:
        return False
    weights = model.subgraphs[0].tensors[operator.inputs[1]]
    is_constant = model.buffers[weights.buffer].data is not None and weights.type == schema.TensorType.FLOAT32
    return is_constant and operator.builtinOptions.fusedActivationFunction == _fused.NONE


def _split(model: Any, layer: Any, mask: NDArray[np.bool_]) -> None:
    x, kernel, *bias = (int(index) for index in layer.inputs)
    (given,) = layer.outputs
    weights = constant(model, kernel)
    outlying = copy.copy(layer)
    outlying.inputs = [x, add_constant(model, kernel, np.where(mask, weights, 0))]
    outlying.inputs += [add_constant(model, index, np.zeros(len(weights))) for index in bias]
    layer.inputs = [x, add_constant(model, kernel, np.where(mask, 0, weights)), *bias]
    scope, _, ops = model.subgraphs[0].tensors[given].name.partition(b";")[0].rpartition(b"/")
    layer.outputs = [_like(model, given, b"%s/rest" % scope)]
    outlying.outputs = [_like(model, given, b"%s_outliers/%s" % (scope, ops))]
    model.subgraphs[0].tensors[given].name = b"%s/sum" % scope
    addition = schema.OperatorT()
    addition.opcodeIndex = op_code(model, _kinds.ADD)
    addition.inputs, addition.outputs = [*layer.outputs, *outlying.outputs], [given]
    addition.builtinOptionsType, addition.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    operators = model.subgraphs[0].operators
    place = operators.index(layer) + 1
    operators[place:place] = [outlying, addition]


def _like(model: Any, index: int, name: bytes) -> int:
    """Index of a new tensor of another's shape."""
    tensors = model.subgraphs[0].tensors
    tensor = copy.copy(tensors[index])
    tensor.name = name
    tensors.append(tensor)
    return len(tensors) - 1
