"""The sources of modules of this machine that a closure imports only when it runs."""

from __future__ import annotations

import ast
import dis
import importlib.util
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

from clipper.contract.constants import STAGED_PACKAGES

__all__ = ["imported_names", "is_installed", "local_sources"]


def imported_names(code: CodeType, package: str) -> Iterator[str]:
    """The modules that the code, and the functions in it, import when they run. `package`: of relative imports."""
    constants: list[Any] = []  # the last two: the level of the import and the names that it takes
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_CONST", "LOAD_SMALL_INT"):
            constants = [*constants[-1:], step.argval]
        elif step.opname == "IMPORT_NAME":
            level, names = constants
            yield from _absolute(str(step.argval), level, names or (), package)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from imported_names(constant, package)


def local_sources(names: Iterable[str]) -> dict[str, bytes]:
    """Files by their path in the bundle: the local ones among the modules, and what those import in turn."""
    files: dict[str, bytes] = {}
    waiting, seen = list(names), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        if parent:
            waiting.append(parent)
        path = _local_file(name)
        if path is None:
            continue
        is_package = path.name == "__init__.py"
        source = path.read_bytes()
        files[name.replace(".", "/") + ("/__init__.py" if is_package else ".py")] = source
        waiting += _imports_of(source, name if is_package else parent)
    return files


def _local_file(name: str) -> Path | None:
    """The source of a module that only this machine has. Imports nothing."""
    top, *inner = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, AttributeError, ValueError):
        return None
    if spec is None:
        return None
    files = [Path(spec.origin)] if spec.origin else []
    if inner:
        places = [Path(place, *inner) for place in spec.submodule_search_locations or ()]
        files = [file for place in places for file in (place.with_name(f"{place.name}.py"), place / "__init__.py")]
    for file in files:
        if file.suffix == ".py" and file.is_file() and not is_installed_file(name, str(file)):
            return file
    return None


def _imports_of(source: bytes, package: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _absolute(node.module or "", node.level, [alias.name for alias in node.names], package)


def _absolute(module: str, level: int, names: Iterable[str], package: str) -> Iterator[str]:
    """The module, and those that the names would be if it is a package."""
    if level:
        base = package.rsplit(".", level - 1)[0] if package else ""
        module = f"{base}.{module}".strip(".")
    if module:
        yield module
        yield from (f"{module}.{name}" for name in names if name != "*")


# Directories of the standard library and of installed packages, which the replica has too.
_HOMES: Final = tuple(
    Path(path).resolve()
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_PACKAGE_DIRECTORIES: Final = frozenset({"site-packages", "dist-packages"})


def is_installed(module: ModuleType | None) -> bool:
    """Whether the replica can import the module: it is not a file that only this machine has."""
    if module is None or module.__name__ == "__main__":
        return False
    file = getattr(module, "__file__", None)
    # A built-in module or a namespace package has no code to send.
    return not isinstance(file, str) or is_installed_file(module.__name__, file)


def is_installed_file(name: str, file: str) -> bool:
    if name.partition(".")[0] in STAGED_PACKAGES:
        return True
    path = Path(file).resolve()
    return not _PACKAGE_DIRECTORIES.isdisjoint(path.parts) or any(path.is_relative_to(home) for home in _HOMES)
