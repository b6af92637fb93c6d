"""The address that code deploys to: by the clip.toml of the project that its file belongs to."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipper.address import FunctionAddress
from clipper.contract.rules import SpecError, check_name
from clipper.project_files import PROJECT_FILE, read_table

__all__ = ["address_of"]


def address_of(wrapped: Callable[..., Any], name: str) -> FunctionAddress:
    """Where the code of `wrapped` deploys to: the nearest clip.toml above its file. Raises SpecError."""
    try:
        source = inspect.getsourcefile(wrapped)
    except TypeError:
        source = None
    path = Path(source or "").resolve()
    for directory in path.parents if path.is_file() else ():
        if (directory / PROJECT_FILE).is_file():
            return _address_in(directory, path, wrapped, name)
    raise SpecError(
        f"{name} belongs to no project: there is no {PROJECT_FILE} above its file; deploy it with clipper.deploy(...), "
        'or call what is deployed with clipper.Function.from_name("project/function")'
    )


def _address_in(directory: Path, path: Path, wrapped: Callable[..., Any], name: str) -> FunctionAddress:
    table = read_table(directory)
    project = check_name(table.get("name"), "project", where=PROJECT_FILE)
    tables = table.get("functions", {})
    if isinstance(tables, dict):
        module = ".".join(path.relative_to(directory).with_suffix("").parts).removesuffix(".__init__")
        entrypoint = f"{module}:{wrapped.__qualname__}"
        for key, entry in tables.items():
            # A table may give the same code another name; one of the same name is the nearer meaning.
            if isinstance(entry, dict) and entry.get("entrypoint") == entrypoint and name not in tables:
                return FunctionAddress(project, check_name(key, "function", where=PROJECT_FILE))
    return FunctionAddress(project, check_name(name, "function"))
