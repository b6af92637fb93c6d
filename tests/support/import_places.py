"""A contract type for import-linter: every module has a place, and a place lists all that its modules may import.

import-linter's own types forbid single imports or order layers; a module that nobody mentioned may then import anything
from outside its layer, and every library. Here all that is not allowed is refused, also an import of a new module, by a
new module or of a new library. `[tool.importlinter]` in pyproject.toml registers the type and holds the places:

    places.core = { modules = ["clipper_platform.core.*"], imports = ["contract", "math"] }

modules: names of modules; `a.b.*` is the package `a.b` with all inside it, `a.b*` each module whose name begins so. Of
    several patterns that match a module the longest counts, so that a part of a package may have a place of its own.
imports: names of places, top-level names of libraries and of the standard library's modules. `stdlib` is all of the
    standard library except what reads pickles. A place may always import itself.
starts: places whose modules may be named by a string literal, because they run as processes. Any other literal that is
    the name of a module counts as an import of it, as in `import_module("a.b")`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output

from tests.support.import_graph import named_modules

__all__ = ["Place", "PlacesContract", "place_of", "read_places"]

_READS_PICKLES: Final = frozenset({"pickle", "shelve", "marshal", "multiprocessing"})
_STANDARD: Final = frozenset(sys.stdlib_module_names) - _READS_PICKLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    name: str
    modules: tuple[str, ...]
    imports: frozenset[str]
    starts: frozenset[str] = frozenset()

    def allows_library(self, name: str) -> bool:
        return name in self.imports or ("stdlib" in self.imports and name in _STANDARD)


def read_places(table: Mapping[str, Mapping[str, list[str]]]) -> dict[str, Place]:
    """The places of a table in pyproject.toml. Raises ValueError for a pattern that two places have."""
    places = {
        name: Place(
            name=name,
            modules=tuple(keys["modules"]),
            imports=frozenset(keys["imports"]),
            starts=frozenset(keys.get("starts", ())),
        )
        for name, keys in table.items()
    }
    owners: dict[str, str] = {}
    for place in places.values():
        for pattern in place.modules:
            if pattern in owners:
                raise ValueError(f"{pattern} stands in {owners[pattern]} and in {place.name}; keep one")
            owners[pattern] = place.name
    return places


def place_of(module: str, places: Mapping[str, Place]) -> tuple[Place, str] | None:
    """The place of a module and the pattern that matched it: its own name, or else the longest."""
    matching = [
        (pattern == module, len(pattern), place.name, pattern)
        for place in places.values()
        for pattern in place.modules
        if _matches(pattern, module)
    ]
    if not matching:
        return None
    *_, name, pattern = max(matching)
    return places[name], pattern


def _matches(pattern: str, module: str) -> bool:
    if pattern.endswith(".*"):
        return module == pattern[:-2] or module.startswith(pattern[:-1])
    if pattern.endswith("*"):
        return module.startswith(pattern[:-1])
    return module == pattern


class _PlacesField(fields.Field[dict[str, Place]]):
    def parse(self, raw_data: Any) -> dict[str, Place]:
        try:
            return read_places(raw_data)
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise fields.ValidationError(f"not a table of places: {error!r}") from None


class PlacesContract(Contract):
    """Kept when every module has a place and imports only what the place allows."""

    places = _PlacesField()

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        problems = sorted(self._problems(graph))
        return ContractCheck(kept=not problems, metadata={"problems": problems})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for problem in check.metadata["problems"]:
            output.print_error(f"- {problem}", bold=False)
        output.print_error("The places stand in pyproject.toml; tests/support/import_places.py explains them.")

    def _problems(self, graph: ImportGraph) -> Iterator[str]:
        places: dict[str, Place] = self.places
        roots: list[str] = self.session_options["root_packages"]
        used: set[str] = set()
        for module in graph.modules:
            if graph.is_module_squashed(module):
                continue  # a library
            if (found := place_of(module, places)) is None:
                yield f"{module} has no place: name it, or its package, in one"
                continue
            place, pattern = found
            used.add(pattern)
            for imported in graph.find_modules_directly_imported_by(module):
                if not self._allows(place, imported, library=graph.is_module_squashed(imported)):
                    details = graph.get_import_details(importer=module, imported=imported)
                    lines = ", ".join(str(line) for line in sorted({detail["line_number"] for detail in details}))
                    yield f"{module} ({place.name}) may not import {imported}: line {lines}"
        for place in places.values():
            for pattern in set(place.modules) - used:
                yield f"{pattern} in the place {place.name} is not the longest pattern of any module: remove it"
            for name in place.imports & set(roots):
                yield f"{place.name} allows {name}, which is no library: name places instead"
        yield from self._named_problems(roots)

    def _named_problems(self, roots: list[str]) -> Iterator[str]:
        unused = {(place.name, name) for place in self.places.values() for name in place.starts}
        for named in named_modules(roots):
            importer, target = place_of(named.importer, self.places), place_of(named.imported, self.places)
            if importer is None or target is None:
                continue  # the module itself is refused
            place, name = importer[0], target[0].name
            unused.discard((place.name, name))
            if name not in place.starts and not self._allows(place, named.imported, library=False):
                yield f"{named.importer} ({place.name}) may not name {named.imported}: line {named.line}"
        for place_name, name in unused:
            yield f"{place_name} names no module of {name}: remove it from starts"

    def _allows(self, place: Place, imported: str, *, library: bool) -> bool:
        if library:
            return place.allows_library(imported.partition(".")[0])
        target = place_of(imported, self.places)
        return target is None or target[0].name in {place.name, *place.imports}
