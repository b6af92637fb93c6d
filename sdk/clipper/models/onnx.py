"""ONNX: the graph's inputs and outputs, and the files beside it that hold its weights.

https://github.com/onnx/onnx/blob/main/onnx/onnx.proto (the numbers of the fields below)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import mapped
from clipper.models.names import identifiers
from clipper.models.onnx_source import Graph, onnx_source
from clipper.models.packages import requirement
from clipper.models.protobuf import BYTES, VARINT, Message, WireError
from clipper.models.smoke import ones
from clipper.models.sources import BATCHED, SINGLY, WHOLE

__all__ = ["is_onnx", "read_onnx"]

# ModelProto
_IR_VERSION, _PRODUCER, _PRODUCER_VERSION, _GRAPH, _OPSETS = 1, 2, 3, 7, 8
# GraphProto
_INITIALIZERS, _INPUTS, _OUTPUTS = 5, 11, 12
# TensorProto
_TENSOR_NAME, _EXTERNAL = 8, 13
_NEWEST_IR: Final = 20  # far beyond what is defined

# TensorProto.DataType -> numpy's word
_DTYPES: Final = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "text", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


def is_onnx(path: Path) -> bool:
    """There is no magic number: the fields of a ModelProto, of which the first is its version."""
    try:
        with mapped(path) as data:
            kinds = {number: kind for number, kind, _ in Message.of(data).fields()}
            version = Message.of(data).number(_IR_VERSION) or 0
    except WireError:
        return False
    return kinds.get(_IR_VERSION) == VARINT and kinds.get(_GRAPH) == BYTES and 0 < version <= _NEWEST_IR


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A value of the graph; `shape` with the axis of the batch, None where the graph does not say."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


def read_onnx(path: Path) -> Model:
    """Raises ModelError for a damaged file and for inputs that no call can give."""
    try:
        with mapped(path) as data:
            return _read(Message.of(data), path)
    except WireError as error:
        raise ModelError(f"is no whole ONNX model: {error}; save it again", where=str(path)) from None


def _read(model: Message, path: Path) -> Model:
    graph = model.message(_GRAPH)
    if graph is None:
        raise ModelError("is an ONNX model without a graph; save it again", where=str(path))
    weights = {name for one in graph.messages(_INITIALIZERS) for name in one.texts(_TENSOR_NAME)}
    inputs = [one for one in _values(graph, _INPUTS, path) if one.name not in weights]
    outputs = list(_values(graph, _OUTPUTS, path, refuse=False))
    if not inputs or not outputs:
        raise ModelError("is an ONNX graph without an input or an output: it has nothing to be asked", where=str(path))
    opset = next((one.number(2) for one in model.messages(_OPSETS) if not "".join(one.texts(1))), None)
    if opset is None:  # every model names it, after the graph
        raise ModelError("is no whole ONNX model: it names no version of its operators; save it again", where=str(path))
    producer = " ".join([*model.texts(_PRODUCER), *model.texts(_PRODUCER_VERSION)])
    return _model(path, inputs, outputs, _external(graph, path), {
        "ir version": str(model.number(_IR_VERSION)), "opset": str(opset), "written by": producer,
    })  # fmt: skip


def _values(graph: Message, number: int, path: Path, *, refuse: bool = True) -> Iterator[_Tensor]:
    """ValueInfoProto: a name (1) and a type (2), of which only tensors (1) can be inputs."""
    for value in graph.messages(number):
        name = "".join(value.texts(1))
        kind = value.message(2)
        tensor = kind.message(1) if kind is not None else None
        dtype = _DTYPES.get(tensor.number(1) or 0) if tensor is not None else None
        if dtype is None and refuse:
            raise ModelError(
                f"its input {name!r} is no tensor of numbers or text, which no call can give", where=str(path)
            )
        shape = tensor.message(2) if tensor is not None else None
        yield _Tensor(name, dtype or "any", None if shape is None else tuple(_sides(shape)))


def _sides(shape: Message) -> Iterator[int | None]:
    for side in shape.messages(1):
        length = side.number(1)
        yield length if length else None  # 0 and a name stand for any length


def _external(graph: Message, path: Path) -> list[tuple[str, Path]]:
    """Files that hold weights outside of the model: TensorProto.external_data, pairs of key and value."""
    names: dict[str, None] = {}
    for tensor in graph.messages(_INITIALIZERS):
        for entry in tensor.messages(_EXTERNAL):
            if "".join(entry.texts(1)) == "location":
                names["".join(entry.texts(2))] = None
    found = []
    for name in names:
        file = path.parent / name
        if not file.resolve().is_relative_to(path.parent.resolve()) or not file.is_file():
            raise ModelError(f"keeps weights in {name!r}, which is not beside it", where=str(path))
        found.append((name, file))
    return found


# What is proposed


def _model(
    path: Path, inputs: list[_Tensor], outputs: list[_Tensor], external: list[tuple[str, Path]], facts: dict[str, str]
) -> Model:
    mode = _mode(inputs, outputs)
    described = tuple(
        Input(name=name, dtype=one.dtype, shape=one.shape if mode == WHOLE or one.shape is None else one.shape[1:])
        for name, one in zip(identifiers(one.name for one in inputs), inputs, strict=True)
    )
    plain = len(outputs) == 1 and outputs[0].dtype not in ("any", "text")
    graph = Graph(
        file=path.name,
        inputs=tuple(zip((one.name for one in inputs), described, strict=True)),
        outputs=tuple(one.name for one in outputs),
        returns="np.ndarray" if plain else "Any",
        mode=mode,
    )
    return Model(
        framework="onnxruntime",
        kind="ONNX graph",
        format="ONNX",
        function="predict",
        inputs=described,
        outputs=tuple(Output(name=one.name, type=one.dtype) for one in outputs),
        files=((path.name, path), *external),
        app=onnx_source(graph).text(),
        requirements=(requirement("onnxruntime", otherwise=">=1.20"), "numpy>=1.26"),
        smoke=ones(described),
        facts=facts,
    )


def _mode(inputs: list[_Tensor], outputs: list[_Tensor]) -> str:
    """How a batch runs. Outputs without a shape are taken to have the batch's axis."""
    shapes = [one.shape for one in inputs] + [one.shape for one in outputs if one.shape is not None]
    if all(shape is not None and shape[:1] == (None,) for shape in shapes):
        return BATCHED
    return SINGLY if all(shape is not None and shape[:1] == (1,) for shape in shapes) else WHOLE
