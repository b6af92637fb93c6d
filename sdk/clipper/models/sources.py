"""Writes app.py for a model: code that a user would have written and can go on with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from clipper.models.description import Input
from clipper.models.names import identifiers

__all__ = [
    "ALIKE_IMPORTS",
    "BATCH",
    "BATCHED",
    "SINGLY",
    "WHOLE",
    "Source",
    "alike_function",
    "array_hint",
    "array_name",
    "columns_comment",
    "listed",
    "open_shape",
    "prose",
    "quoted",
    "row_class",
    "stacked",
]

# A batch that a CPU answers in a moment for most models; `latency_slo_s` in clip.toml adapts it.
BATCH: Final = 64

BATCHED, SINGLY, WHOLE = "batched", "singly", "whole"
"""How a program runs a batch: the first axis of all its values is open, so that the entries are stacked; or it is fixed
at 1, so that they run one by one; or neither, and a call gives the arrays as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The parts of an app.py with one class. Lines of `init` and `body` are not indented."""

    doc: str
    libraries: Sequence[str]  # import lines
    standard: Sequence[str] = ()
    definitions: Sequence[str] = ()  # hints and helpers between the imports and the class
    name: str = "predict"
    about: str = ""
    init: Sequence[str] = ()
    parameters: Sequence[tuple[str, str]] = ()  # name, hint
    returns: str = "list[Any]"
    body: Sequence[str] = ()
    batch: int = field(default=BATCH)

    def text(self) -> str:
        signature = ", ".join(["self", *(f"{name}: {hint}" for name, hint in self.parameters)])
        options = [f'name="{self.name}"'] + ([f"max_batch_size={self.batch}"] if self.batch > 1 else [])
        used = "\n".join([*self.definitions, *self.init, *self.body, signature, self.returns])
        standard = ["from pathlib import Path", *self.standard]
        if wanted := [name for name in ("Any", "Literal") if re.search(rf"\b{name}\b", used)]:
            standard.append(f"from typing import {', '.join(wanted)}")
        libraries = ["import clipper", *self.libraries]
        if "np." in used:
            libraries.append("import numpy as np")
        lines = [f'"""{prose(self.doc)}"""', "", *_sorted_imports(standard), "", *_sorted_imports(libraries), ""]
        lines += ["HERE = Path(__file__).parent", *self.definitions, "", ""]
        lines += [f"@clipper.function({', '.join(options)})", f"class {self.name.capitalize()}:"]
        lines += [f'    """{self.about}"""', ""] if self.about else []
        lines += ["    def __init__(self) -> None:", *_indented(self.init)]
        lines += ["", f"    def __call__({signature}) -> {self.returns}:", *_indented(self.body)]
        return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A text as a literal, in double quotes. JSON's escapes are Python's too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\x7f")


def listed(texts: Iterable[str]) -> str:
    """A list of texts as a literal, over several lines where one would be long."""
    literals = [quoted(text) for text in texts]
    line = f"[{', '.join(literals)}]"
    return line if len(line) <= 100 else "\n".join(["[", *(f"    {one}," for one in literals), "]"])


def prose(text: str) -> str:
    """A text of a file for a comment or a docstring: what would end these is left out."""
    return re.sub(r"[\\\x00-\x1f\x7f\u2028\u2029]+", " ", text).replace('"', "'")[:200]


def array_name(parameter: str) -> str:
    """The name of a parameter's type, as in `ImageArray` for `image`."""
    return "".join(part[:1].upper() + part[1:] for part in parameter.split("_")) + "Array"


def _sorted_imports(lines: Iterable[str]) -> list[str]:
    """As isort puts them: `import x` before `from x import y`, each by name."""
    return sorted(set(lines), key=lambda line: (line.startswith("from "), line.lower()))


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"        {line}" if line else "" for line in lines]


def array_hint(one: Input) -> str:
    """The type of one invocation's array: what does not fit is refused with 422 before it reaches the model."""
    dtype = f"np.dtype[np.{'bool_' if one.dtype == 'bool' else one.dtype}]"
    if one.shape is None:
        return f"np.ndarray[tuple[int, ...], {dtype}]"
    sides = ", ".join("int" if side is None else f"Literal[{side}]" for side in one.shape)
    return f"np.ndarray[tuple[{sides or '()'}], {dtype}]"


def stacked(one: Input, parameter: str) -> str:
    """The expression for a batch of this input."""
    return f"np.array({parameter}, dtype=object)" if one.dtype == "text" else f"np.stack({parameter})"


def columns_comment(names: Sequence[str]) -> list[str]:
    """Which columns an array has, where the model knows their names."""
    if not names:
        return []
    return [f"# The columns, in this order: {prose(', '.join(names[:12]))}{', …' if len(names) > 12 else ''}"]


def open_shape(one: Input) -> bool:
    """Whether the entries of a batch may have different shapes, so that they cannot always be stacked."""
    return one.shape is None or None in one.shape


ALIKE_IMPORTS = ("from collections import defaultdict", "from collections.abc import Collection")


def alike_function() -> list[str]:
    """A helper for models whose inputs may have any length: what has the same shape runs together."""
    return [
        "",
        "",
        "def alike(*arrays: list[np.ndarray]) -> Collection[list[int]]:",
        '    """The places of a batch, those whose arrays have the same shapes together: only these can be stacked."""',
        "    groups: defaultdict[tuple[tuple[int, ...], ...], list[int]] = defaultdict(list)",
        "    for place, entry in enumerate(zip(*arrays, strict=True)):",
        "        groups[tuple(array.shape for array in entry)].append(place)",
        "    return groups.values()",
    ]


def row_class(one: Input) -> list[str]:
    """A msgspec.Struct with a field for each column, under the column's own name."""
    fields = identifiers((name for name, _ in one.columns), "column")
    lines = ["", "", "class Row(msgspec.Struct):", '    """A row of the table that the model was trained on."""', ""]
    for attribute, (name, kind) in zip(fields, one.columns, strict=True):
        renamed = "" if attribute == name else f" = msgspec.field(name={quoted(name)})"
        lines.append(f"    {attribute}: {kind}{renamed}")
    return lines
