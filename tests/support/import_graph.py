"""The imports among our modules, with those that static analysis does not see: modules named by a string."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import grimp

__all__ = ["NamedModule", "cycles", "edges", "named_modules", "source_files", "strings"]


class NamedModule(NamedTuple):
    """A literal in `importer` that is the dotted name of the module `imported`, as in `import_module("a.b")`."""

    importer: str
    imported: str
    line: int


def source_files(package: str) -> dict[str, Path]:
    """The file of each module of a top-level package, by the module's name."""
    spec = find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"{package} is not a package that can be found")
    found = {}
    for location in map(Path, spec.submodule_search_locations):
        for file in location.rglob("*.py"):
            parts = file.relative_to(location).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = file
    return found


def strings(file: Path, *, compared: bool = True) -> Iterator[tuple[str, int]]:
    """Each string literal of a source file with its line; docstrings and other bare strings are left out.

    compared: also literals inside a comparison, which recognise a name and import nothing.
    """
    tree = ast.parse(file.read_text(encoding="utf-8"))
    left_out = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    if not compared:
        left_out |= {id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in left_out:
            yield node.value, node.lineno


def named_modules(packages: Sequence[str]) -> list[NamedModule]:
    """Every string that is the name of a module inside one of the packages, except in comparisons."""
    files = {module: file for package in packages for module, file in source_files(package).items()}
    return [
        NamedModule(module, text, line)
        for module, file in files.items()
        for text, line in strings(file, compared=False)
        if "." in text and text in files
    ]


def edges(packages: Sequence[str]) -> dict[str, set[str]]:
    """What each module imports of the packages: at the top, in functions, for types only, and by name."""
    first, *others = packages
    graph = grimp.build_graph(first, *others, exclude_type_checking_imports=False, cache_dir=None)
    found = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    for named in named_modules(packages):
        found[named.importer].add(named.imported)
    return found


def cycles(graph: Mapping[str, set[str]]) -> list[frozenset[str]]:
    """The strongly connected components of more than one module (Kosaraju: by finishing time, then backwards)."""
    backwards: dict[str, set[str]] = {module: set() for module in graph}
    for module, imported in graph.items():
        for target in imported:
            backwards[target].add(module)
    finished: list[str] = []
    seen: set[str] = set()
    for module in sorted(graph):
        finished += _reach(graph, module, seen)
    seen.clear()
    components = [frozenset(_reach(backwards, module, seen)) for module in reversed(finished)]
    return sorted((found for found in components if len(found) > 1), key=sorted)


def _reach(graph: Mapping[str, set[str]], start: str, seen: set[str]) -> list[str]:
    """The modules that are reached from `start` and not seen before, each after those that it leads to."""
    order: list[str] = []
    stack = [] if start in seen else [(start, iter(sorted(graph[start])))]
    seen.add(start)
    while stack:
        module, upcoming = stack[-1]
        target = next((target for target in upcoming if target not in seen), None)
        if target is None:
            stack.pop()
            order.append(module)
        else:
            seen.add(target)
            stack.append((target, iter(sorted(graph[target]))))
    return order
