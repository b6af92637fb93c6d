"""PyTorch's archives: programs of `torch.export`, and TorchScript. A pickled module is refused: it needs its code.

Both are zip archives. An exported program describes its inputs as JSON; TorchScript holds the source of `forward`.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any, Final

import msgspec

from clipper.models.byte_stream import ByteStream
from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import member
from clipper.models.names import identifiers
from clipper.models.packages import exactly, requirement
from clipper.models.pickled import PickleProblem, read_pickle
from clipper.models.pickled_objects import Built
from clipper.models.smoke import ones
from clipper.models.sources import BATCHED, SINGLY, WHOLE, quoted
from clipper.models.torch_source import torch_source

__all__ = ["read_torch"]

_MAX_GRAPH_BYTES: Final = 256 * 1024 * 1024
# torch._export.serde.schema.ScalarType
_DTYPES: Final = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64", 12: "bool",
}  # fmt: skip
_HOW: Final = (
    'save it by torch.export.save(torch.export.export(model, …), "model.pt2") or torch.jit.script(model).save(…)'
)


def read_torch(path: Path) -> Model:
    """A zip archive as PyTorch writes them. Raises ModelError for one that cannot be served, or is another's."""
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:  # noqa: BLE001 - zipfile raises many types for a damaged directory
        raise ModelError(f"is a damaged archive: {error}; save the model again", where=str(path)) from None
    with archive:
        return _read(archive, path)


def _read(archive: zipfile.ZipFile, path: Path) -> Model:
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    names |= {name: name for name in archive.namelist() if "/" not in name}
    graph = next((names[name] for name in names if re.fullmatch(r"models/[^/]+\.json", name)), None)
    graph = graph or names.get("serialized_exported_program.json")
    if graph is not None:
        return _exported(archive, graph, path)
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        return _script(archive, names, path)
    if "data.pkl" in names:
        raise ModelError(_pickled(archive, names["data.pkl"]), where=str(path))
    if "config.json" in names and "metadata.json" in names:
        raise ModelError(
            'is a model of Keras, which is not served as it is: model.export("model.onnx", format="onnx")',
            where=str(path),
        )
    raise ModelError("is an archive, but none of PyTorch's: name the model's file itself", where=str(path))


def _pickled(archive: zipfile.ZipFile, name: str) -> str:
    try:
        root = read_pickle(ByteStream(io.BytesIO(member(archive, name)))).root
    except PickleProblem as problem:
        return f"is a damaged file of torch.save: {problem}"
    if isinstance(root, Built) and root.name.module:
        return f"holds a pickled {root.name}, which needs the code of that class: {_HOW}"
    return f"holds weights without a network (a state dict): load them into the module, then {_HOW}"


# torch.export


class _Argument(msgspec.Struct):
    """An argument of the program: a tensor's name; anything else is not served."""

    as_tensor: dict[str, Any] | None = None


class _UserInput(msgspec.Struct):
    arg: _Argument


class _InputSpec(msgspec.Struct):
    user_input: _UserInput | None = None


class _Signature(msgspec.Struct):
    input_specs: list[_InputSpec] = []
    output_specs: list[dict[str, Any]] = []


class _Tensor(msgspec.Struct):
    dtype: int = 0
    sizes: list[dict[str, Any]] = []


class _Graph(msgspec.Struct):
    tensor_values: dict[str, _Tensor] = {}


class _GraphModule(msgspec.Struct):
    graph: _Graph
    signature: _Signature


class _Program(msgspec.Struct):
    graph_module: _GraphModule
    torch_version: str = ""


def _exported(archive: zipfile.ZipFile, name: str, path: Path) -> Model:
    try:
        program = msgspec.json.decode(member(archive, name, _MAX_GRAPH_BYTES), type=_Program)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ModelError(f"has a program that cannot be read: {error}; export it again", where=str(path)) from None
    module = program.graph_module
    tensors = []
    for spec in module.signature.input_specs:
        if spec.user_input is None:
            continue
        tensor = spec.user_input.arg.as_tensor
        if tensor is None:
            raise ModelError("has an input that is no tensor: export it with tensors only", where=str(path))
        known = module.graph.tensor_values.get(str(tensor.get("name")), _Tensor())
        sizes = tuple(_side(one) for one in known.sizes)
        tensors.append((str(tensor.get("name")), _DTYPES.get(known.dtype, "float32"), sizes))
    if not tensors:
        raise ModelError("is an exported program without an input: it has nothing to be asked", where=str(path))
    outputs = [one for one in module.signature.output_specs if "user_output" in one]
    firsts = {sizes[:1] for *_, sizes in tensors}
    mode = BATCHED if firsts == {(None,)} else SINGLY if firsts == {(1,)} else WHOLE
    inputs = [
        Input(name=name, dtype=dtype, shape=sizes if mode == WHOLE else sizes[1:])
        for name, (_, dtype, sizes) in zip(identifiers(t[0] for t in tensors), tensors, strict=True)
    ]
    return _model(
        path,
        inputs,
        load=f"torch.export.load(HERE / {quoted(path.name)}).module()",
        kind="exported program",
        format="torch.export",
        mode=mode,
        single=len(outputs) == 1,
        version=program.torch_version or None,
    )


def _side(size: dict[str, Any]) -> int | None:
    """None for a dimension that was exported as dynamic."""
    fixed = size.get("as_int")
    return fixed if isinstance(fixed, int) else None


# TorchScript


def _script(archive: zipfile.ZipFile, names: dict[str, str], path: Path) -> Model:
    try:
        root = read_pickle(ByteStream(io.BytesIO(member(archive, names["data.pkl"])))).root
    except (PickleProblem, KeyError) as problem:
        raise ModelError(f"is damaged TorchScript: {problem}; save it again", where=str(path)) from None
    if not isinstance(root, Built):
        raise ModelError("is TorchScript without a module; save it again", where=str(path))
    module, _, name = str(root.name).rpartition(".")
    file = names.get(f"code/{module.replace('.', '/')}.py")
    source = member(archive, file).decode("utf-8", "replace") if file else ""
    found = re.search(
        rf"class {re.escape(name)}\(Module\):.*?\n  def forward\([^,)]*,?(.*?)\) -> ([^:]+):", source, re.S
    )
    if found is None:
        raise ModelError("is TorchScript without a forward method; save the module itself", where=str(path))
    declared = [one.strip().partition(": ") for one in found[1].split(",\n") if one.strip()]
    tensors = [name for name, _, kind in declared if kind.strip().partition(" = ")[0] == "Tensor"]
    if not tensors or len(tensors) != len(declared):
        raise ModelError(
            f"has a forward({found[1].strip()[:200]}) with inputs that are not all tensors: wrap it in a module that "
            "takes tensors",
            where=str(path),
        )
    width = _first_width(root) if len(tensors) == 1 else None
    inputs = [Input(name=one, dtype="float32", shape=(width,) if width else None) for one in identifiers(tensors)]
    return _model(
        path,
        inputs,
        load=f"torch.jit.load(HERE / {quoted(path.name)}).eval()",
        kind=name,
        format="TorchScript",
        mode=BATCHED,
        single=found[2].strip() == "Tensor",
    )


def _first_width(module: Built, depth: int = 0) -> int | None:
    """How many features the first layer takes, where that is a linear one."""
    if depth > 20:
        return None
    if module.name.module.endswith("linear") and module.name.name.startswith("Linear"):
        weight = module.attributes.get("weight")
        shape = weight.arguments[2] if isinstance(weight, Built) and len(weight.arguments) > 2 else None
        return shape[1] if isinstance(shape, tuple) and len(shape) == 2 and isinstance(shape[1], int) else None
    layers = [
        one for one in module.attributes.values() if isinstance(one, Built) and one.name.module.startswith("__torch__")
    ]
    return _first_width(layers[0], depth + 1) if layers else None


# What is proposed


def _model(
    path: Path,
    inputs: list[Input],
    *,
    load: str,
    kind: str,
    format: str,
    mode: str,
    single: bool,
    version: str | None = None,
) -> Model:
    line = exactly("torch", version) or requirement("torch", otherwise=">=2.6")
    return Model(
        framework="torch",
        kind=kind,
        format=format,
        function="predict",
        inputs=tuple(inputs),
        outputs=(Output(name="forward", type="np.ndarray" if single else "Any"),),
        files=((path.name, path),),
        app=torch_source(path.name, inputs, load=load, mode=mode, single=single).text(),
        requirements=(line, "numpy>=1.26"),
        version=version,
        smoke=ones(inputs),
    )
