"""Audits whether every op of a `.tflite` file is an integer op.

The converter leaves ops that it cannot quantize (SIGN, NEG, SQUARE, ELU among them) in float between a DEQUANTIZE and a
QUANTIZE, silently, even when it was set to integer ops only. So the file itself is read.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgebcnn.bundle import ModelFile, Tensor

INTEGER_DTYPES = frozenset(
    {"bool", "int2", "int4", "int8", "int16", "int32", "int64", "uint4", "uint8", "uint16", "uint32", "uint64"}
)


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}


_OP_NAMES = _names(schema.BuiltinOperator)
_DTYPE_NAMES = {value: name.lower() for value, name in _names(schema.TensorType).items()}


@dataclass(frozen=True)
class Op:
    """One op of a model file.

    Attributes:
        name: TFLite's name of it (`CONV_2D`), or its own where it is not built in.
        inputs: Dtypes of the tensors that flow in.
        outputs: Dtypes of the tensors that flow out.
        constants: Dtypes of what it reads from the file: weights, biases, sizes.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: tuple[str, ...] = ()

    @property
    def is_integer(self) -> bool:
        """Whether nothing but integers flows in and out, and nothing else is in its constants."""
        return INTEGER_DTYPES.issuperset(self.inputs + self.outputs + self.constants)


@dataclass(frozen=True)
class Audit:
    """What a model file does, op by op, and in which numbers.

    Attributes:
        ops: Every op of every subgraph, in order of execution.
        input: The image.
        output: The probabilities.
    """

    ops: tuple[Op, ...]
    input: Tensor
    output: Tensor

    @property
    def float_ops(self) -> tuple[Op, ...]:
        """Ops that take or give a number that is not an integer, the conversions at their borders included."""
        return tuple(op for op in self.ops if not op.is_integer)

    @property
    def integer_only(self) -> bool:
        """Whether an accelerator without float arithmetic can run the whole file: no op of it sees a float."""
        return not self.float_ops

    def proof(self) -> str:
        """`summary`, and the dtypes in the file: `71 ops, all integer; int8 and uint8 flow, …`."""
        flowing = {dtype for op in self.ops for dtype in op.inputs + op.outputs}
        constants = {dtype for op in self.ops for dtype in op.constants}
        return f"{self.summary()}; {_listed(flowing)} flow, constants are {_listed(constants)}"

    def summary(self) -> str:
        """`69 ops, all integer`, `69 ops, all in float`, or `72 ops, 4 not integer (2 DEQUANTIZE, QUANTIZE, SIGN)`."""
        if self.integer_only:
            return f"{len(self.ops)} ops, all integer"
        if self.float_ops == self.ops:
            return f"{len(self.ops)} ops, all in float"
        return f"{len(self.ops)} ops, {len(self.float_ops)} not integer ({', '.join(self._counted())})"

    def model_file(self, file: str) -> ModelFile:
        """The manifest's entry for this model, stored in the bundle as `file`."""
        return ModelFile(
            file=file,
            input=self.input,
            output=self.output,
            integer_only=self.integer_only,
            float_ops=tuple(sorted({op.name for op in self.float_ops})),
        )

    def _counted(self) -> list[str]:
        counts = Counter(op.name for op in self.float_ops)
        return [name if count == 1 else f"{count} {name}" for name, count in sorted(counts.items())]


def audit(tflite: bytes) -> Audit:
    """Reads every op of a model file that has one input and one output.

    Args:
        tflite: Content of the `.tflite` file.
    """
    model = schema.ModelT.InitFromPackedBuf(tflite)
    main = model.subgraphs[0]
    return Audit(
        ops=tuple(_op(model, graph, operator) for graph in model.subgraphs for operator in graph.operators),
        input=_tensor(main.tensors[main.inputs[0]]),
        output=_tensor(main.tensors[main.outputs[0]]),
    )


def op_name(code: Any) -> str:
    """TFLite's name of an op, or its own where it is not built in.

    Args:
        code: The schema's `OperatorCodeT`.
    """
    if code.customCode is not None:
        return str(code.customCode.decode())
    # Codes up to 127 are written to both fields, for old runtimes; later ones to the new field alone.
    return _OP_NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]


def _op(model: Any, graph: Any, operator: Any) -> Op:
    name = op_name(model.operatorCodes[operator.opcodeIndex])
    flowing, constants = _dtypes(model, graph, operator.inputs)
    return Op(name, flowing, _dtypes(model, graph, operator.outputs)[0], constants)


def _dtypes(model: Any, graph: Any, indices: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Dtypes of those tensors that flow, and of those that lie in the file."""
    found: tuple[list[str], list[str]] = ([], [])
    for index in indices:
        if index >= 0:  # -1 is an optional input that is left out
            tensor = graph.tensors[index]
            found[model.buffers[tensor.buffer].data is not None].append(_DTYPE_NAMES[tensor.type])
    return tuple(found[0]), tuple(found[1])


def _listed(dtypes: set[str]) -> str:
    return " and ".join(sorted(dtypes))


def _tensor(tensor: Any) -> Tensor:
    found: dict[str, Any] = {"dtype": _DTYPE_NAMES[tensor.type]}
    if tensor.quantization is not None and tensor.quantization.scale is not None:
        found["scale"] = float(tensor.quantization.scale[0])
        found["zero_point"] = int(tensor.quantization.zeroPoint[0])
    return Tensor.model_validate(found)
