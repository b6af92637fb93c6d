"""app.py for a program of PyTorch: one call for a batch, where its first axis allows it."""

from __future__ import annotations

from collections.abc import Sequence

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
    open_shape,
)

__all__ = ["torch_source"]


def torch_source(file: str, inputs: Sequence[Input], *, load: str, mode: str, single: bool) -> Source:
    """`load` is the expression that loads the program; `single`: it gives one tensor."""
    names = [one.name for one in inputs]
    uneven = mode == BATCHED and any(map(open_shape, inputs))
    runs = {BATCHED: _by_shape if uneven else _batched, SINGLY: _singly, WHOLE: _whole}
    body = runs[mode](names, single)
    definitions = ["", *(f"{array_name(one.name)} = {array_hint(one)}" for one in inputs)]
    definitions += [*(alike_function() if uneven else []), *([] if single else _plain_function(rows=mode != WHOLE))]
    several = mode != WHOLE
    returns = "np.ndarray" if single else "Any"
    return Source(
        doc=f"Serves {file} by PyTorch, on the CPU.",
        libraries=["import torch"],
        standard=ALIKE_IMPORTS if uneven else (),
        definitions=definitions,
        init=[f"self.model = {load}"],
        parameters=[(name, f"list[{array_name(name)}]" if several else array_name(name)) for name in names],
        returns=f"list[{returns}]" if several else returns,
        body=["with torch.inference_mode():", *(f"    {line}" for line in body)],
        batch=BATCH if several else 1,
    )


def _run(expressions: list[str]) -> str:
    return f"self.model({', '.join(f'torch.from_numpy({one})' for one in expressions)})"


def _batched(names: list[str], single: bool) -> list[str]:
    run = _run([f"np.stack({name})" for name in names])
    return [f"return list({run}.numpy())" if single else f"return rows({run})"]


def _by_shape(names: list[str], single: bool) -> list[str]:
    """A batch whose entries may have different shapes."""
    run = _run([f"np.stack([{name}[place] for place in places])" for name in names])
    return [
        f"answers: list[Any] = [None] * len({names[0]})",
        f"for places in alike({', '.join(names)}):",
        f"    outputs = {f'{run}.numpy()' if single else f'rows({run})'}",
        "    for place, answer in zip(places, outputs, strict=True):",
        "        answers[place] = answer",
        "return answers",
    ]


def _singly(names: list[str], single: bool) -> list[str]:
    run = _run([f"{name}[np.newaxis]" for name in names])
    loop = f"for {', '.join(names)} in zip({', '.join(names)}, strict=True)"
    if len(names) == 1:
        loop = f"for {names[0]} in {names[0]}"
    return [
        "# The program takes one at a time: its first axis is fixed at 1.",
        f"return [{f'{run}.numpy()[0]' if single else f'rows({run})[0]'} {loop}]",
    ]


def _whole(names: list[str], single: bool) -> list[str]:
    run = _run(names)
    return [f"return {run}.numpy()" if single else f"return plain({run})"]


def _plain_function(*, rows: bool) -> list[str]:
    lines = [
        "",
        "",
        "def plain(value: Any) -> Any:",
        '    """Tensors as arrays, wherever they are in tuples and dicts."""',
        "    if isinstance(value, dict):",
        "        return {key: plain(one) for key, one in value.items()}",
        "    if isinstance(value, (list, tuple)):",
        "        return [plain(one) for one in value]",
        "    return value.numpy() if isinstance(value, torch.Tensor) else value",
    ]
    if rows:
        lines += [
            "",
            "",
            "def rows(outputs: Any) -> list[Any]:",
            '    """What a batch gave, by invocation."""',
            "    values = plain(outputs)",
            "    if isinstance(values, dict):",
            "        return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]",
            "    return [list(row) for row in zip(*values, strict=True)] if isinstance(values, list) else list(values)",
        ]
    return lines
