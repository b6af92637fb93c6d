"""Model files on the command line: what was found in one, the project made of it, and the call that it takes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from clipper.cli.console import Output, Part
from clipper.cli.options import usage_error
from clipper.contract.rules import SpecError, check_name, nearest

if TYPE_CHECKING:
    from clipper.models.description import Input, Model

__all__ = ["Wanted", "array_calls", "as_document", "found_model", "is_model", "model_project", "show_model"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the command line asks of a model; "" for what it leaves to the file."""

    name: str = ""
    smoke: str = ""
    method: str = ""

    def given(self) -> str | None:
        """The first option that is there, None if none is."""
        values = {"--name": self.name, "--smoke": self.smoke, "--method": self.method}
        return next((option for option, value in values.items() if value), None)


def is_model(path: Path) -> bool:
    """Whether the path is a model's rather than a project's. One that is not there is a file's if its name has an
    ending."""
    if not path.is_dir():
        return path.exists() or bool(path.suffix)
    from clipper.models.reading import is_model

    return is_model(path)


def found_model(path: Path, wanted: Wanted) -> tuple[Model, str, dict[str, Any] | None]:
    """The model, the name of its project, and the arguments of its smoke call. Raises ModelError and SpecError."""
    from clipper.models.names import project_name
    from clipper.models.reading import read_model

    model = read_model(path, wanted.method or None)
    name = check_name(wanted.name, "project", where="--name") if wanted.name else project_name(path)
    return model, name, _smoke(wanted.smoke, model) if wanted.smoke else model.smoke


def _smoke(text: str, model: Model) -> dict[str, Any]:
    names = [one.name for one in model.inputs]
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise usage_error(f"is not JSON: {error}", "--smoke") from None
    if not isinstance(arguments, dict):
        raise usage_error(f"must be an object of arguments, as in {{{json.dumps(names[0])}: …}}", "--smoke")
    for name in arguments:
        if name not in names:
            guess = nearest(name, names) or ", ".join(names)
            raise SpecError(f"the model has no input {name!r}; it takes {guess}", where="--smoke", key=name)
    if missing := [name for name in names if name not in arguments]:
        raise SpecError(f"lacks the model's input {missing[0]!r}", where="--smoke", key=missing[0])
    return arguments


@contextmanager
def model_project(model: Model, name: str, smoke: Mapping[str, Any] | None) -> Iterator[Path]:
    """A directory with the model's project, for as long as the block lasts."""
    from clipper.models.projects import write_project

    with TemporaryDirectory(prefix="clip-model-") as directory:
        project = Path(directory) / name
        write_project(model, project, name=name, smoke=smoke)
        yield project


def show_model(out: Output, model: Model, path: Path, name: str) -> None:
    """What was found and what is proposed."""
    version = f" {model.version}" if model.version else ""
    rows: list[tuple[str, Part]] = [
        ("Model", (f"{model.kind}", "bold")),
        ("Framework", f"{model.framework}{version} ({model.format})"),
        *((key.capitalize(), value) for key, value in model.facts.items() if value),
        ("Takes", ", ".join(f"{one.name}: {one.words()}" for one in model.inputs)),
        *(("Columns", _columns(one)) for one in model.inputs if one.columns),
        ("Gives", ", ".join(f"{one.name}: {one.type}" for one in model.outputs)),
        ("Environment", ", ".join([f"Python {model.python}"] * bool(model.python) + list(model.requirements))),
        ("Project", f"{name}, function {model.function}"),
    ]
    for label, value in rows:
        out.line((f"{label:<12} ", "dim"), value)
    for warning in model.warnings:
        out.note(("! ", "yellow"), warning, wrap=True)
    if not out.json:
        out.line((f"To change any of it: clip init --from {shlex.quote(str(path))} DIR", "dim"))
        out.line()


def _columns(one: Input) -> str:
    return ", ".join(f"{name}: {kind}" for name, kind in one.columns)


def as_document(model: Model) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "framework": model.framework,
        "version": model.version,
        "kind": model.kind,
        "format": model.format,
        "inputs": [
            {"name": one.name, "dtype": one.dtype, "shape": one.shape and list(one.shape)}
            | ({"columns": [{"name": column, "type": kind} for column, kind in one.columns]} if one.columns else {})
            for one in model.inputs
        ],
        "outputs": [{"name": one.name, "type": one.type} for one in model.outputs],
        "requirements": list(model.requirements),
        "python": model.python,
        "warnings": list(model.warnings),
    }


def array_calls(model: Model, smoke: Mapping[str, Any] | None, url: str, path: str) -> list[str] | None:
    """Calls with arrays of ones, for a model whose arrays are too large for a line of JSON; None for any other."""
    if smoke is not None or any(not one.shape or None in one.shape or one.columns for one in model.inputs):
        return None
    arrays = {one.name: _array(one) for one in model.inputs}
    if any(one.dtype == "text" for one in model.inputs):
        return None
    arguments = ", ".join(f"{name}={array}" for name, array in arrays.items())
    lines = ["import clipper, numpy as np", f'clipper.Function.from_name("{path}").remote({arguments})']
    if len(arrays) == 1:
        made = f"import numpy as np, sys; np.save(sys.stdout.buffer, {next(iter(arrays.values()))})"
        curl = f"python -c {shlex.quote(made)} | curl {shlex.quote(url)} \\"
        lines = [curl, "  -H 'Content-Type: application/x-npy' --data-binary @-", "", *lines]
    return lines


def _array(one: Input) -> str:
    sides = [side or 0 for side in one.shape or ()]
    shape = f"({sides[0]},)" if len(sides) == 1 else f"({', '.join(map(str, sides))})"
    return f"np.{'ones' if one.dtype.startswith('float') else 'zeros'}({shape}, np.{one.dtype})"
