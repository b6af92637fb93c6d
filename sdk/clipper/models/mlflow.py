"""MLflow's model directories: `MLmodel` with the flavours and the signature, `requirements.txt` with the versions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import msgspec

from clipper.models.description import Input, Model, ModelError, Output
from clipper.models.files import read_text
from clipper.models.packages import exactly
from clipper.models.smoke import NUMBERS, ones
from clipper.models.sources import Source, array_hint, listed, quoted, row_class

__all__ = ["is_mlflow", "read_mlflow"]

_MAX_BYTES: Final = 4 * 1024 * 1024
# Types of a signature's columns -> types of Python.
_TYPES: Final = {
    "boolean": "bool", "integer": "int", "long": "int", "float": "float", "double": "float", "string": "str",
    "binary": "bytes", "datetime": "datetime",
}  # fmt: skip


def is_mlflow(directory: Path) -> bool:
    return (directory / "MLmodel").is_file()


def read_mlflow(directory: Path) -> Model:
    """Raises ModelError for a description that cannot be read, and for a model without a Python function."""
    where = str(directory / "MLmodel")
    table = _table(directory / "MLmodel")
    flavors = table.get("flavors")
    if not isinstance(flavors, dict) or not isinstance(function := flavors.get("python_function"), dict):
        raise ModelError("has no flavor python_function, which is what is served", where=where)
    one = _input(table.get("signature"), where)
    names = [name for name in flavors if name != "python_function"]
    version = str(table.get("mlflow_version", "")) or None
    return Model(
        framework="mlflow",
        kind=", ".join(map(str, names)) or "python_function",
        format="MLflow directory",
        function="predict",
        inputs=(one,),
        outputs=(Output(name="predict", type="Any"),),
        files=((directory.name, directory),),
        app=_source(directory, one).text(),
        requirements=_requirements(directory, version),
        version=version,
        python=_python(function),
        smoke=_smoke(one),
        warnings=() if table.get("signature") else (f"{where} has no signature: rows are taken as they come",),
    )


def _python(function: dict[str, Any]) -> str | None:
    """The minor version that the model was saved with."""
    match = re.match(r"3\.\d{1,2}", str(function.get("python_version", "")))
    return match[0] if match else None


def _table(path: Path) -> dict[str, Any]:
    import yaml  # type: ignore[import-untyped]  # it ships no types; loads with the first directory of MLflow

    try:
        table = yaml.safe_load(read_text(path, _MAX_BYTES))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ModelError(f"is no YAML: {str(error).splitlines()[0]}", where=str(path)) from None
    if not isinstance(table, dict):
        raise ModelError("does not describe a model", where=str(path))
    return table


def _input(signature: object, where: str) -> Input:
    text = signature.get("inputs") if isinstance(signature, dict) else None
    try:
        fields = msgspec.json.decode(text) if isinstance(text, str) else []
    except msgspec.DecodeError as error:
        raise ModelError(f"has a signature that cannot be read: {error}", where=where) from None
    columns = [one for one in fields if isinstance(one, dict)]
    if len(columns) == 1 and columns[0].get("type") == "tensor":
        return _tensor(columns[0].get("tensor-spec"), where)
    if columns and all(one.get("type") in _TYPES and isinstance(one.get("name"), str) for one in columns):
        return Input(name="row", dtype="table", columns=tuple(map(_column, columns)))
    return Input(name="row", dtype="dict")


def _tensor(spec: object, where: str) -> Input:
    table = spec if isinstance(spec, dict) else {}
    dtype, shape = table.get("dtype"), table.get("shape")
    if dtype not in NUMBERS or not isinstance(shape, list) or not all(isinstance(side, int) for side in shape):
        raise ModelError("has a signature with a tensor that is not described", where=where)
    return Input(name="features", dtype=str(dtype), shape=tuple(None if side < 0 else side for side in shape[1:]))


def _column(column: dict[str, Any]) -> tuple[str, str]:
    kind = _TYPES[column["type"]]
    return str(column["name"]), kind if column.get("required", True) else f"{kind} | None"


def _requirements(directory: Path, version: str | None) -> tuple[str, ...]:
    """What the directory asks for, as it stands there."""
    file = directory / "requirements.txt"
    lines = read_text(file, _MAX_BYTES).splitlines() if file.is_file() else []
    lines = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not any(re.match(r"mlflow(-skinny)?\b", line) for line in lines):
        lines.insert(0, exactly("mlflow-skinny", version) or "mlflow-skinny")
    named = {re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines}
    # A skinny MLflow brings neither, and its Python functions need both.
    return (*lines, *(name for name in ("pandas", "numpy") if name not in named))


def _smoke(one: Input) -> dict[str, Any] | None:
    if one.columns:
        examples: dict[str, Any] = {"float": 1.0, "int": 1, "bool": True}
        kinds = [(name, kind.partition(" ")[0]) for name, kind in one.columns]
        # A text may have to be one of some categories: only numbers are sure to be taken.
        sure = all(kind in examples for _, kind in kinds)
        return {"row": {name: examples[kind] for name, kind in kinds}} if sure else None
    return ones((one,))


def _source(directory: Path, one: Input) -> Source:
    standard: list[str] = []
    libraries = ["import mlflow.pyfunc", "import pandas as pd"]
    if one.columns:
        definitions = ["", f"COLUMNS = {listed(name for name, _ in one.columns)}", *row_class(one)]
        hint, batch = "Row", f"pd.DataFrame(msgspec.to_builtins({one.name}), columns=COLUMNS)"
        libraries.append("import msgspec")
        if any("datetime" in kind for _, kind in one.columns):
            standard.append("from datetime import datetime")
    elif one.dtype == "dict":
        definitions, hint, batch = [], "dict[str, Any]", f"pd.DataFrame({one.name})"
    else:
        definitions, hint, batch = ["", f"Features = {array_hint(one)}"], "Features", f"np.stack({one.name})"
    return Source(
        doc=f"Serves {directory.name}, a model of MLflow, by its Python function.",
        standard=standard,
        libraries=libraries,
        definitions=definitions,
        init=[f"self.model = mlflow.pyfunc.load_model(str(HERE / {quoted(directory.name)}))"],
        parameters=[(one.name, f"list[{hint}]")],
        returns="list[Any]",
        body=[
            f"answers = self.model.predict({batch})",
            "# The rows of a table, or one value for each.",
            'return answers.to_dict("records") if isinstance(answers, pd.DataFrame) else list(answers)',
        ],
    )
