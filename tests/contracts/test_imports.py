"""The imports among the three packages: no cycles, no sibling named by the SDK, and a place for every module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import grimp
import pytest

from tests.support.import_graph import cycles, edges, named_modules, source_files, strings
from tests.support.import_places import PlacesContract, place_of, read_places

PACKAGES: Final = ("clipper", "clipper_platform", "clipper_runtime")


# The three packages


def test_no_modules_import_each_other_in_a_cycle() -> None:
    """Imports for types only, inside functions and by name count."""
    assert [sorted(cycle) for cycle in cycles(edges(PACKAGES))] == []


def test_the_sdk_names_neither_sibling_in_a_string() -> None:
    naming = {
        module
        for module, file in source_files("clipper").items()
        if not module.startswith("clipper.contract.")  # the siblings' as much as the SDK's
        for text, _ in strings(file)
        if text.startswith(("clipper_platform", "clipper_runtime"))
    }
    assert naming == set()


# How imports are found


def test_a_cycle_is_every_module_that_reaches_itself() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"d"}, "e": {"f", "a"}, "f": {"e"}}
    assert cycles(graph) == [frozenset("abc"), frozenset("ef")]


def test_imports_for_types_inside_functions_and_by_name_are_found(tree: Callable[[Mapping[str, str]], str]) -> None:
    package = tree(
        {
            "types_only": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from PACKAGE import top\n",
            "lazy": "def late():\n    from PACKAGE.top import VALUE\n",
            "named": '"""PACKAGE.lazy"""\nLATER = {"x": "PACKAGE.top"}\nKNOWN = "y" in ("PACKAGE.lazy",)\n',
            "top": "VALUE = 1\n",
        }
    )
    assert edges([package]) == {
        package: set(),
        f"{package}.types_only": {f"{package}.top"},
        f"{package}.lazy": {f"{package}.top"},
        f"{package}.named": {f"{package}.top"},
        f"{package}.top": set(),
    }
    assert named_modules([package]) == [(f"{package}.named", f"{package}.top", 2)]


# The contract type that `infra/scripts/check` runs


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], str]:
    """Writes a package of these modules, in which PACKAGE stands for its name, and returns the name."""
    package = f"tree_{abs(hash(tmp_path))}"
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(modules: Mapping[str, str]) -> str:
        for name, text in {"__init__": "", **modules}.items():
            file = tmp_path / package / f"{name}.py"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("PACKAGE", package))
        return package

    return write


Places = Mapping[str, Mapping[str, list[str]]]


def problems(package: str, places: Places) -> list[str]:
    """What the contract refuses of a package, with PACKAGE for the package's name."""
    named = {
        name: {key: [value.replace("PACKAGE", package) for value in values] for key, values in keys.items()}
        for name, keys in places.items()
    }
    contract = PlacesContract("places", {"root_packages": [package]}, {"places": named})
    graph = grimp.build_graph(package, include_external_packages=True, cache_dir=None)
    check = contract.check(graph, verbose=False)
    assert check.kept is not bool(check.metadata["problems"])
    return [problem.replace(package, "PACKAGE") for problem in check.metadata["problems"]]


ROOT: Final = {"root": {"modules": ["PACKAGE"], "imports": []}}


def test_a_module_without_a_place_is_refused(tree: Callable[[Mapping[str, str]], str]) -> None:
    package = tree({"placed": "", "forgotten": "", "inner/__init__": "", "inner/new": ""})
    places = {**ROOT, "some": {"modules": ["PACKAGE.placed", "PACKAGE.inner.*"], "imports": []}}
    assert problems(package, places) == ["PACKAGE.forgotten has no place: name it, or its package, in one"]


def test_an_import_that_a_place_does_not_list_is_refused(tree: Callable[[Mapping[str, str]], str]) -> None:
    package = tree({"low": "", "high": "import PACKAGE.low\n\nimport PACKAGE.side\n", "side": ""})
    places = {
        **ROOT,
        "low": {"modules": ["PACKAGE.low"], "imports": []},
        "side": {"modules": ["PACKAGE.side"], "imports": []},
        "high": {"modules": ["PACKAGE.high"], "imports": ["low"]},
    }
    assert problems(package, places) == ["PACKAGE.high (high) may not import PACKAGE.side: line 3"]


def test_a_library_that_a_place_does_not_list_is_refused(tree: Callable[[Mapping[str, str]], str]) -> None:
    package = tree({"pure": "import math\nimport time\nimport msgspec\n", "any": "import time\nimport pickle\n"})
    places = {
        **ROOT,
        "pure": {"modules": ["PACKAGE.pure"], "imports": ["math"]},
        "any": {"modules": ["PACKAGE.any"], "imports": ["stdlib"]},
    }
    assert problems(package, places) == [
        "PACKAGE.any (any) may not import pickle: line 2",
        "PACKAGE.pure (pure) may not import msgspec: line 3",
        "PACKAGE.pure (pure) may not import time: line 2",
    ]


def test_a_module_named_by_a_string_is_refused_unless_the_place_starts_it(
    tree: Callable[[Mapping[str, str]], str],
) -> None:
    package = tree({"high": 'NAMES = ["PACKAGE.low"]\n', "low": ""})
    places: dict[str, dict[str, list[str]]] = {
        **ROOT,
        "high": {"modules": ["PACKAGE.high"], "imports": []},
        "low": {"modules": ["PACKAGE.low"], "imports": []},
    }
    assert problems(package, places) == ["PACKAGE.high (high) may not name PACKAGE.low: line 1"]
    places["high"]["starts"] = ["low"]
    assert problems(package, places) == []
    places["low"]["starts"] = ["high"]
    assert problems(package, places) == ["low names no module of high: remove it from starts"]


def test_a_pattern_without_a_module_is_refused(tree: Callable[[Mapping[str, str]], str]) -> None:
    places = {**ROOT, "gone": {"modules": ["PACKAGE.gone.*"], "imports": []}}
    assert problems(tree({}), places) == [
        "PACKAGE.gone.* in the place gone is not the longest pattern of any module: remove it"
    ]


def test_a_module_has_the_place_of_its_longest_pattern() -> None:
    places = read_places(
        {
            "general": {"modules": ["a.store.*"], "imports": []},
            "redis": {"modules": ["a.store.redis*"], "imports": ["redis"]},
        }
    )

    def name(module: str) -> str:
        found = place_of(module, places)
        return found[0].name if found else ""

    assert [name(m) for m in ("a.store", "a.store.base", "a.store.redis", "a.store.redis_keys", "a.stored", "a")] == [
        "general", "general", "redis", "redis", "", "",
    ]  # fmt: skip


def test_a_pattern_in_two_places_is_refused() -> None:
    with pytest.raises(ValueError, match="stands in one and in two"):
        read_places({"one": {"modules": ["a"], "imports": []}, "two": {"modules": ["a"], "imports": []}})
