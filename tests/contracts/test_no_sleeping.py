"""Unit and property tests do not wait for real time: they move a clock, wait for events, or run in simulated time."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
MODULES = sorted([*TESTS.glob("unit/**/*.py"), *TESTS.glob("property/**/*.py")])


def sleeps(tree: ast.Module) -> Iterator[int]:
    """The lines that sleep for more than a turn of the event loop."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        if called == "sleep" and [ast.unparse(argument) for argument in node.args] != ["0"]:
            yield node.lineno


def in_simulated_time(tree: ast.Module) -> bool:
    return any(isinstance(node, ast.Assign) and "virtual_time" in ast.unparse(node) for node in tree.body)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(TESTS)))
def test_a_unit_or_property_test_does_not_sleep_in_real_time(path: Path) -> None:
    tree = ast.parse(path.read_text())
    if not in_simulated_time(tree):
        assert [*sleeps(tree)] == []


def test_a_sleep_is_found() -> None:
    tree = ast.parse("await asyncio.sleep(0)\nawait asyncio.sleep(0.1)\ntime.sleep(1)")
    assert sorted(sleeps(tree)) == [2, 3]
