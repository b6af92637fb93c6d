"""app.py for an ONNX graph: one call of the session for a batch, where the graph's first axis allows it."""

from __future__ import annotations

from dataclasses import dataclass

from clipper.models.description import Input
from clipper.models.sources import (
    ALIKE_IMPORTS,
    BATCH,
    BATCHED,
    SINGLY,
    WHOLE,
    Source,
    alike_function,
    array_hint,
    array_name,
    listed,
    open_shape,
    quoted,
    stacked,
)

__all__ = ["Graph", "onnx_source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """`inputs` are (name in the graph, what an invocation gives); `outputs` are names in the graph."""

    file: str
    inputs: tuple[tuple[str, Input], ...]
    outputs: tuple[str, ...]
    returns: str  # the type of an invocation's value
    mode: str  # how a batch runs, see BATCHED


def onnx_source(graph: Graph) -> Source:
    hints, definitions = _hints(graph)
    uneven = graph.mode == BATCHED and any(open_shape(one) for _, one in graph.inputs if one.dtype != "text")
    runs = {BATCHED: _by_shape if uneven else _batched, SINGLY: _singly, WHOLE: _whole}
    several = graph.mode != WHOLE
    session = f"onnxruntime.InferenceSession(HERE / {quoted(graph.file)}, providers=PROVIDERS)"
    return Source(
        doc=f"Serves {graph.file}, an ONNX graph, by ONNX Runtime.",
        standard=ALIKE_IMPORTS if uneven else (),
        libraries=["import onnxruntime"],
        definitions=['PROVIDERS = ["CPUExecutionProvider"]', *definitions, *(alike_function() if uneven else [])],
        init=[f"self.session = {session}"],
        parameters=[(one.name, f"list[{hints[one.name]}]" if several else hints[one.name]) for _, one in graph.inputs],
        returns=f"list[{graph.returns}]" if several else graph.returns,
        body=runs[graph.mode](graph),
        batch=BATCH if several else 1,
    )


def _hints(graph: Graph) -> tuple[dict[str, str], list[str]]:
    """A hint for each input, and the definitions that give the arrays' hints a name."""
    hints, definitions = {}, []
    for _, one in graph.inputs:
        if one.dtype == "text":
            axes = len(one.shape or ())
            hints[one.name] = "list[" * axes + "str" + "]" * axes
        else:
            hints[one.name] = array_name(one.name)
            definitions.append(f"{array_name(one.name)} = {array_hint(one)}")
    return hints, definitions


def _run(graph: Graph, expressions: list[str]) -> str:
    """The call of the session; an expression for each input."""
    given = ", ".join(f"{quoted(name)}: {value}" for (name, _), value in zip(graph.inputs, expressions, strict=True))
    return f"self.session.run({listed(graph.outputs)}, {{{given}}})"


def _named(graph: Graph, values: str) -> str:
    return f"dict(zip({listed(graph.outputs)}, {values}, strict=True))"


def _batched(graph: Graph) -> list[str]:
    run = _run(graph, [stacked(one, one.name) for _, one in graph.inputs])
    if len(graph.outputs) == 1:
        return [f"return list({run}[0])"]
    return [f"outputs = {run}", f"return [{_named(graph, 'row')} for row in zip(*outputs, strict=True)]"]


def _by_shape(graph: Graph) -> list[str]:
    """A batch whose entries may have different shapes."""
    run = _run(graph, [stacked(one, f"[{one.name}[place] for place in places]") for _, one in graph.inputs])
    arrays = ", ".join(one.name for _, one in graph.inputs if one.dtype != "text")
    answer = "row[0]" if len(graph.outputs) == 1 else _named(graph, "row")
    return [
        f"answers: list[Any] = [None] * len({graph.inputs[0][1].name})",
        f"for places in alike({arrays}):",
        f"    outputs = {run}",
        "    for place, *row in zip(places, *outputs, strict=True):",
        f"        answers[place] = {answer}",
        "return answers",
    ]


def _singly(graph: Graph) -> list[str]:
    names = [one.name for _, one in graph.inputs]
    values = [
        f"np.array([{one.name}], dtype=object)" if one.dtype == "text" else f"{one.name}[np.newaxis]"
        for _, one in graph.inputs
    ]
    loop = f"for {', '.join(names)} in zip({', '.join(names)}, strict=True)"
    if len(names) == 1:
        loop = f"for {names[0]} in {names[0]}"
    single = len(graph.outputs) == 1
    answer = "outputs[0][0]" if single else _named(graph, "(output[0] for output in outputs)")
    return [
        "# The graph takes one at a time: its first axis is fixed at 1.",
        f"runs = [{_run(graph, values)} {loop}]",
        f"return [{answer} for outputs in runs]",
    ]


def _whole(graph: Graph) -> list[str]:
    values = [f"np.array({one.name}, dtype=object)" if one.dtype == "text" else one.name for _, one in graph.inputs]
    run = _run(graph, values)
    return [f"return {run}[0]" if len(graph.outputs) == 1 else f"return {_named(graph, run)}"]
