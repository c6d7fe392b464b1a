"""Equalizes the channels of a tensor, so that each fills the int8 range that all share.

A channel whose values end at an eighth of the range has an eighth of its steps. So what the layer before gives is
multiplied, channel by channel, and the layer after takes it back (cross-layer equalization, Nagel et al. 2019, arXiv
1906.04721, section 4.1). Factors are powers of two, which round nothing: the float model computes the same, bit for
bit. What lies between the two layers decides:

| between                 | factors                                                                                   |
|-------------------------|-------------------------------------------------------------------------------------------|
| nothing, ReLU, poolings | any                                                                                       |
| additions               | any, and the same for all that is added: a residual stage is one group                    |
| ReLU6                   | from 1 to 6 / the highest value seen, because what it clips must stay what it was         |
| a product of two layers | any; one is divided by what the other is multiplied                                       |
| a signed square root    | powers of four: √(4x) = 2 √x, with ε of each channel multiplied too; taken back behind it |

A channel that never reached 6 ends closer to the highest value that the calibration photos showed. Beyond it the float
model clips, as int8 does with any range that was chosen on photos; up to it, nothing changes.

Weights have a scale for each output channel, so that the layer before loses nothing, nor does a depthwise one after.
Others after hold all their input channels in one scale: factors go half the way, where both lose equally.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgebcnn.quantize.calibration.observe import Activation, packed
from edgebcnn.quantize.tflite.bias import LAYERS, add_constant, constant
from edgebcnn.report.calibration import Between, EqualizedGroup

MAX_EXPONENT = 8
"""A channel below 2⁻⁸ of its tensor's range is all zeros in int8: its observed values are too few to go further."""

Values = NDArray[np.float64]

_kinds, _fused = schema.BuiltinOperator, schema.ActivationFunctionType
_PASSING = (_kinds.ADD, _kinds.AVERAGE_POOL_2D, _kinds.MAX_POOL_2D, _kinds.PAD, _kinds.RELU, _kinds.RELU6)
_RELU6_END = 6.0


@dataclass(frozen=True)
class Equalized:
    """A float file whose channels fill their ranges.

    Attributes:
        content: The file.
        groups: What was scaled, in the order of computation.
    """

    content: bytes
    groups: tuple[EqualizedGroup, ...]


def equalized(float_tflite: bytes, activations: tuple[Activation, ...]) -> Equalized:
    """Scales the channels of a float model file, which computes the same.

    Args:
        float_tflite: Content of the file.
        activations: What flows in it, as `observe` saw it.
    """
    model = schema.ModelT.InitFromPackedBuf(float_tflite)
    names = {activation.index: activation.name for activation in activations}
    reach = {activation.index: activation.reach for activation in activations}
    found = []
    graph = _Graph(model)
    for root in list(_square_roots(graph)):
        factors = 4.0 ** (_unused_bits(reach[root.pooled]) // 2)
        found.append(_described("square root", {root.pooled: factors}, reach, names))
        _scale_square_root(graph, root, factors)
        reach[root.projected] = reach[root.projected] * factors
    graph = _Graph(model)  # there is an op more behind each root
    for group in list(_groups(graph)):
        factors = 2.0 ** _exponents(graph, group, reach)
        of_members = {index: factors**sign for index, sign in group.members.items()}
        found.append(_described(group.between, of_members, reach, names))
        _scale(graph, group, of_members)
    order = list(names.values())
    return Equalized(packed(model), tuple(sorted(found, key=lambda group: order.index(group.tensors[0]))))


class _Graph:
    """Who makes and who takes the tensors of the main subgraph."""

    def __init__(self, model: Any) -> None:
        self.model, self.tensors = model, model.subgraphs[0].tensors
        self.operators = model.subgraphs[0].operators
        self.makers: dict[int, Any] = {}
        self.takers: defaultdict[int, list[Any]] = defaultdict(list)
        self.ends = frozenset((*model.subgraphs[0].inputs, *model.subgraphs[0].outputs))
        for operator in self.operators:
            operator.inputs = [int(index) for index in operator.inputs]  # as read, they cannot be replaced
            self.makers |= {int(index): operator for index in operator.outputs}
            for index in operator.inputs:
                self.takers[index].append(operator)

    def kind(self, operator: Any) -> int:
        return int(self.model.operatorCodes[operator.opcodeIndex].builtinCode)

    def activation(self, operator: Any) -> int:
        """What follows within the op."""
        if self.kind(operator) == _kinds.RELU6:
            return int(_fused.RELU6)
        return int(getattr(operator.builtinOptions, "fusedActivationFunction", _fused.NONE))

    def channels(self, index: int) -> int:
        return int([1, *self.tensors[index].shape][-1])

    def is_constant(self, index: int) -> bool:
        return index < 0 or self.model.buffers[self.tensors[index].buffer].data is not None

    def flowing(self, operator: Any) -> list[int]:
        return [index for index in operator.inputs if not self.is_constant(index)]

    def replace(self, operator: Any, place: int, values: Values) -> None:
        """Gives an op a constant of its own."""
        operator.inputs[place] = add_constant(self.model, operator.inputs[place], values)


@dataclass(frozen=True)
class _Group:
    """Tensors whose channels can only be scaled together.

    Attributes:
        members: Their indices; -1 for those that are divided by what the others are multiplied, else 1.
        clipped: Those that end at 6.
    """

    members: Mapping[int, int]
    clipped: frozenset[int]

    @property
    def between(self) -> Between:
        if len(set(self.members.values())) > 1:
            return "product"
        return "relu6" if self.clipped else "linear"


def _groups(graph: _Graph) -> Iterator[_Group]:
    seen: set[int] = set()
    for operator in graph.operators:
        members = None if operator.outputs[0] in seen else _members(graph, int(operator.outputs[0]))
        seen.update(members or ())
        if members:
            clipped = (index for index in members if graph.activation(graph.makers[index]) == _fused.RELU6)
            yield _Group(members, frozenset(clipped))


def _members(graph: _Graph, first: int) -> dict[int, int] | None:
    """The group of a tensor; None where a layer, or anything else, does not let a factor through."""
    members: dict[int, int] = {}
    ahead = [(first, 1)]
    while ahead:
        index, sign = ahead.pop()
        if members.setdefault(index, sign) != sign or index in graph.ends:
            return None
        for operator in (graph.makers[index], *graph.takers[index]):
            tied = _tied(graph, operator, index)
            if tied is None:
                return None
            ahead += [(other, sign * way) for other, way in tied.items() if members.get(other) != sign * way]
    return members


def _tied(graph: _Graph, operator: Any, index: int) -> dict[int, int] | None:
    """Other tensors of an op that take the same factors (1) or the inverse (-1); None where it lets none through."""
    kind, output, flowing = graph.kind(operator), int(operator.outputs[0]), graph.flowing(operator)
    lets_through = graph.activation(operator) in (_fused.NONE, _fused.RELU, _fused.RELU6)
    if kind in LAYERS:
        is_free = lets_through if output == index else _takes(graph, operator, index)
        return {} if is_free and len(flowing) == 1 else None
    if not lets_through or any(graph.channels(other) != graph.channels(index) for other in (*flowing, output)):
        return None
    if kind == _kinds.MUL and output != index and len(set(flowing)) == 2:
        return {other: -1 for other in flowing if other != index}
    passes = kind in _PASSING and (kind != _kinds.ADD or len(flowing) == 2)
    if passes or (kind == _kinds.MEAN and _keeps_channels(graph, operator)):
        return dict.fromkeys((*flowing, output), 1)
    return None


def _takes(graph: _Graph, operator: Any, index: int) -> bool:
    """Whether a layer has weights for each channel of a tensor: a grouped one and a flattened map have not."""
    weights = graph.channels(operator.inputs[1])
    return graph.kind(operator) == _kinds.DEPTHWISE_CONV_2D or weights == graph.channels(index)


def _keeps_channels(graph: _Graph, operator: Any) -> bool:
    axes = np.frombuffer(bytes(graph.model.buffers[graph.tensors[operator.inputs[1]].buffer].data), np.int32)
    return not {-1, len(graph.tensors[operator.inputs[0]].shape) - 1}.intersection(axes.tolist())


def _exponents(graph: _Graph, group: _Group, reach: Mapping[int, Values]) -> Values:
    """Of the factors, one for each channel."""
    wanted = np.mean([sign * _unused_bits(reach[index]) for index, sign in group.members.items()], axis=0)
    shares = [_shares(graph, taker) for index in group.members for taker in graph.takers[index] if _mixes(graph, taker)]
    if shares:
        wanted = (wanted + np.log2(np.max(shares, axis=0))) / 2
    exponents: Values = np.clip(np.rint(wanted), -MAX_EXPONENT, MAX_EXPONENT)
    for index in group.clipped:
        free = np.floor(_unused_bits(reach[index], _RELU6_END))
        exponents = np.clip(group.members[index] * exponents, 0, free) * group.members[index]
    return exponents


def _unused_bits(reach: Values, end: float = 0.0) -> Values:
    """By how many powers of two each channel ends below the highest one, or below `end`; 0 for one that is always 0."""
    widest = max(end, float(reach.max()))
    reached = np.where(reach > 0, reach, widest or 1.0)
    bits: Values = np.clip(np.log2((widest or 1.0) / reached), 0, MAX_EXPONENT)
    return bits


def _mixes(graph: _Graph, operator: Any) -> bool:
    """Whether the weights of all input channels share a scale."""
    return graph.kind(operator) in (_kinds.CONV_2D, _kinds.FULLY_CONNECTED)


def _shares(graph: _Graph, operator: Any) -> Values:
    """The largest weight of each input channel, relative to the largest of the output channel that it belongs to."""
    weights = np.abs(constant(graph.model, operator.inputs[1]))
    largest = weights.reshape(len(weights), -1, weights.shape[-1]).max(axis=1)
    of_output = largest.max(axis=1, keepdims=True)
    shares: Values = (largest / np.where(of_output > 0, of_output, 1.0)).max(axis=0)
    return np.clip(shares, 2.0**-MAX_EXPONENT, 1)


def _scale(graph: _Graph, group: _Group, factors: Mapping[int, Values]) -> None:
    for index in group.members:
        maker = graph.makers[index]
        if graph.kind(maker) in LAYERS:
            _scale_output(graph, maker, factors[index])
        for taker in graph.takers[index]:
            if graph.kind(taker) in LAYERS:
                weights = constant(graph.model, taker.inputs[1])
                each = np.repeat(factors[index], weights.shape[-1] // len(factors[index]))
                graph.replace(taker, 1, weights / each)


def _scale_output(graph: _Graph, layer: Any, factors: Values) -> None:
    weights = constant(graph.model, layer.inputs[1])
    shape = [1] * weights.ndim
    shape[-1 if graph.kind(layer) == _kinds.DEPTHWISE_CONV_2D else 0] = -1
    graph.replace(layer, 1, weights * factors.reshape(shape))
    if len(layer.inputs) > 2 and layer.inputs[2] >= 0:
        graph.replace(layer, 2, constant(graph.model, layer.inputs[2]) * factors)


@dataclass(frozen=True)
class _SquareRoot:
    """z · (|z| + ε)^-½ of a pooled product z.

    Attributes:
        projected: The tensor that one of the two layers gives; the product goes with it.
        pooled: z.
        added: The op that adds ε.
        last: The op that ends it.
    """

    projected: int
    pooled: int
    added: Any
    last: Any


def _square_roots(graph: _Graph) -> Iterator[_SquareRoot]:
    for root in graph.operators:
        behind = (_kinds.RSQRT, _kinds.ADD, _kinds.ABS, _kinds.MEAN, _kinds.MUL, _kinds.CONV_2D)
        chain = _chain(graph, root, behind)
        if chain is None or not _is_plain(graph, chain):
            continue
        _, added, absolute, _, _, layer = chain
        (last,) = graph.takers[root.outputs[0]]
        yield _SquareRoot(int(layer.outputs[0]), absolute.inputs[0], added, last)


def _chain(graph: _Graph, last: Any, kinds: Sequence[int]) -> list[Any] | None:
    """Ops of these kinds, each behind its predecessor, which takes nothing that flows but what it gives, or first."""
    found: list[Any] = []
    operator = last
    for kind in kinds:
        if operator is None or graph.kind(operator) != kind:
            return None
        found.append(operator)
        operator = graph.makers.get(graph.flowing(operator)[0])
    return found


def _is_plain(graph: _Graph, chain: Sequence[Any]) -> bool:
    """Whether nothing else sees what a factor changes, which is all of it from the layer to the end of the root."""
    root, added, absolute, mean, product, layer = chain
    (pooled,) = mean.outputs
    within = [(layer, [product]), (product, [mean]), (absolute, [added]), (added, [root])]
    last = graph.takers[root.outputs[0]]
    return (
        all(graph.takers[operator.outputs[0]] == takers for operator, takers in within)
        and all(graph.activation(operator) == _fused.NONE for operator in (*chain, *last))
        and len(set(product.inputs)) == 2
        and [graph.kind(operator) for operator in last] == [_kinds.MUL]
        and {id(operator) for operator in graph.takers[pooled]} == {id(absolute), id(last[0])}
        and _keeps_channels(graph, mean)
    )


def _scale_square_root(graph: _Graph, root: _SquareRoot, factors: Values) -> None:
    model, last = graph.model, root.last
    _scale_output(graph, graph.makers[root.projected], factors)
    (place,) = (place for place, index in enumerate(root.added.inputs) if graph.is_constant(index))
    epsilon = root.added.inputs[place]
    root.added.inputs[place] = _vector(model, epsilon, constant(model, epsilon) * factors)
    (given,) = last.outputs
    raw = copy.copy(graph.tensors[given])
    raw.name = raw.name.partition(b";")[0].rpartition(b"/")[0] + b"/equalized"
    graph.tensors.append(raw)
    undoing = copy.copy(last)
    last.outputs = [len(graph.tensors) - 1]
    undoing.inputs, undoing.outputs = [last.outputs[0], _vector(model, epsilon, factors**-0.5)], [given]
    graph.operators.insert(graph.operators.index(last) + 1, undoing)


def _vector(model: Any, like: int, values: Values) -> int:
    """Index of a new constant with a number for each channel."""
    index = add_constant(model, like, values)
    model.subgraphs[0].tensors[index].shape, model.subgraphs[0].tensors[index].shapeSignature = [len(values)], None
    return index


def _described(
    between: Between, factors: Mapping[int, Values], reach: Mapping[int, Values], names: Mapping[int, str]
) -> EqualizedGroup:
    before = [_unused_bits(reach[index]).mean() for index in factors]
    after = [_unused_bits(reach[index] * each).mean() for index, each in factors.items()]
    first = next(iter(factors.values()))
    return EqualizedGroup(
        tensors=tuple(names[index] for index in sorted(factors)),
        between=between,
        lowest_factor=float(first.min()),
        highest_factor=float(first.max()),
        unused_bits_before=round(float(np.mean(before)), 3),
        unused_bits_after=round(float(np.mean(after)), 3),
    )
