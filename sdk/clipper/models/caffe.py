"""Caffe: weights in `.caffemodel`, the network in `.prototxt`; OpenCV's `dnn` runs both."""

from __future__ import annotations

from pathlib import Path

from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import mapped, read_text
from clipper.models.names import identifiers
from clipper.models.protobuf import BYTES, Message, WireError
from clipper.models.prototext import Block, PrototextError, read_prototext
from clipper.models.smoke import ones
from clipper.models.sources import Source, array_hint, array_name, listed, quoted

__all__ = ["is_caffe", "read_caffe"]

# NetParameter: name, layers of the first version, layers
_NAME, _OLD_LAYERS, _LAYERS = 1, 2, 100


def is_caffe(path: Path) -> bool:
    """Whether these are a network's weights: layers of either version."""
    try:
        with mapped(path) as data:
            kinds = {number: kind for number, kind, _ in Message.of(data).fields()}
    except WireError:
        return False
    return kinds.get(_NAME, BYTES) == BYTES and BYTES in (kinds.get(_LAYERS), kinds.get(_OLD_LAYERS))


def read_caffe(path: Path) -> Model:
    """From either of the two files; the other one lies beside it. Raises ModelError."""
    if path.suffix == ".prototxt":
        weights, network = _beside(path, ".caffemodel"), path
    else:
        weights, network = path, _beside(path, ".prototxt")
    try:
        net = read_prototext(read_text(network))
    except PrototextError as error:
        raise ModelError(f"is no whole description of a network: {error}", where=str(network)) from None
    if not is_caffe(weights):
        raise ModelError("is no whole file of Caffe's weights; save it again", where=str(weights))
    inputs = _inputs(net)
    if not inputs or any(shape is None for _, shape in inputs):
        raise ModelError(
            "names no input with a shape: give the network of the deployment (deploy.prototxt), not of the training",
            where=str(network),
        )
    outputs = _outputs(net)
    described = [
        Input(name=name, dtype="float32", shape=shape[1:] if shape else None)
        for name, (_, shape) in zip(identifiers(name for name, _ in inputs), inputs, strict=True)
    ]
    names = [name for name, _ in inputs]
    return Model(
        framework="opencv-python-headless",
        kind=_text(net, "name") or "network",
        format="Caffe",
        function="predict",
        inputs=tuple(described),
        outputs=tuple(Output(name=name, type="np.ndarray") for name in outputs),
        files=((weights.name, weights), (network.name, network)),
        app=_source(weights, network, names, described, outputs).text(),
        # OpenCV 5 reads no files of Caffe any more.
        requirements=("opencv-python-headless>=4.8,<5", "numpy>=1.26"),
        smoke=ones(described),
    )


def _beside(path: Path, ending: str) -> Path:
    same = path.with_suffix(ending)
    found = [same] if same.is_file() else sorted(path.parent.glob(f"*{ending}"))
    deploy = [one for one in found if "deploy" in one.name]
    found = deploy if len(found) > 1 and len(deploy) == 1 else found
    if len(found) == 1:
        return found[0]
    what = "weights" if ending == ".caffemodel" else "network's description"
    several = f"; there are {', '.join(one.name for one in found)}" if found else ""
    raise ModelError(f"needs the {what} beside it, as {same.name}{several}", where=str(path))


def _text(block: Block, name: str) -> str:
    found = block.get(name, [""])[-1]
    return found if isinstance(found, str) else ""


def _blocks(block: Block, name: str) -> list[Block]:
    return [one for one in block.get(name, []) if isinstance(one, dict)]


def _inputs(net: Block) -> list[tuple[str, tuple[int, ...] | None]]:
    """(name, shape with the batch) of layers of type Input, or of the older `input` with its dimensions."""
    found: list[tuple[str, tuple[int, ...] | None]] = []
    for layer in _blocks(net, "layer"):
        if _text(layer, "type") == "Input":
            shapes = [shape for one in _blocks(layer, "input_param") for shape in _blocks(one, "shape")]
            tops = [top for top in layer.get("top", []) if isinstance(top, str)]
            given = [_shape(one) for one in shapes] or [None]
            found += [(top, given[min(place, len(given) - 1)]) for place, top in enumerate(tops)]
    names = [name for name in net.get("input", []) if isinstance(name, str)]
    shapes = _blocks(net, "input_shape")
    sides = _numbers(net.get("input_dim", []))
    for place, name in enumerate(names):
        if place < len(shapes):
            found.append((name, _shape(shapes[place])))
        else:
            four = sides[4 * place : 4 * place + 4]
            found.append((name, tuple(four) if len(four) == 4 else None))
    return found


def _numbers(values: list[str | Block]) -> list[int]:
    return [int(one) for one in values if isinstance(one, str) and one.isascii() and one.isdigit() and len(one) < 10]


def _shape(block: Block) -> tuple[int, ...] | None:
    return tuple(_numbers(block.get("dim", []))) or None


def _outputs(net: Block) -> list[str]:
    """What layers give and no other layer takes, in the network's order."""
    layers = _blocks(net, "layer") or _blocks(net, "layers")
    taken = {name for layer in layers for name in layer.get("bottom", []) if name not in layer.get("top", [])}
    tops = [name for layer in layers if _text(layer, "type") != "Input" for name in layer.get("top", [])]
    return [name for name in dict.fromkeys(t for t in tops if isinstance(t, str)) if name not in taken]


def _source(weights: Path, network: Path, names: list[str], described: list[Input], outputs: list[str]) -> Source:
    classes = [array_name(one.name) for one in described]
    which = [f", {quoted(name)}" if len(names) > 1 else "" for name in names]
    body = [f"self.net.setInput(np.stack({this.name}){name})" for name, this in zip(which, described, strict=True)]
    if len(outputs) > 1:
        body += [
            f"outputs = self.net.forward({listed(outputs)})",
            f"return [dict(zip({listed(outputs)}, row, strict=True)) for row in zip(*outputs, strict=True)]",
        ]
    else:
        body.append("return list(self.net.forward())")
    return Source(
        doc=f"Serves {weights.name}, a network of Caffe, by OpenCV.",
        libraries=["import cv2"],
        definitions=["", *(f"{name} = {array_hint(this)}" for name, this in zip(classes, described, strict=True))],
        init=[
            f"network, weights = HERE / {quoted(network.name)}, HERE / {quoted(weights.name)}",
            "self.net = cv2.dnn.readNetFromCaffe(str(network), str(weights))",
        ],
        parameters=[(this.name, f"list[{name}]") for this, name in zip(described, classes, strict=True)],
        returns="list[Any]" if len(outputs) > 1 else "list[np.ndarray]",
        body=body,
    )
