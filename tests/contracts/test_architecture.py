"""The page on the architecture names functions that exist, and all folders that there are."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "infra" / "docs" / "architecture.md"
NAMED = re.compile(r"\[`([\w.]+)`\]\(\s*([^)\s]+\.py)\)")


def named() -> list[tuple[str, str]]:
    """(name, path of its module), for each link from a name to a module."""
    return sorted(set(NAMED.findall(PAGE.read_text(encoding="utf-8"))))


def defined(path: Path) -> set[str]:
    """`function`, `Class` and `Class.method` of a module."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return names


@pytest.mark.parametrize(("name", "module"), named())
def test_a_named_function_exists_where_the_page_says(name: str, module: str) -> None:
    path = (PAGE.parent / module).resolve()
    assert path.is_relative_to(ROOT)
    assert name in defined(path)


def test_the_page_leads_through_a_request_a_deploy_and_a_scaling_decision() -> None:
    names = {name for name, _ in named()}
    assert {"Dispatcher.offer", "Deployer.submit", "decide"} <= names
    assert len(names) > 40


def test_every_folder_of_the_platform_has_a_row() -> None:
    folders = {path.parent.name for path in (ROOT / "platform/clipper_platform").glob("*/__init__.py")}
    rows = set(re.findall(r"^\| `(\w+)/` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert folders - {"entry_points"} <= rows
