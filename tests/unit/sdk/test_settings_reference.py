"""`infra/docs/functions.md` says what `clipper.contract.spec` does, key by key."""

from __future__ import annotations

import re
import types
import typing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

from clipper.contract.manifest import DEFAULT_KEEP_VERSIONS, KEEP_VERSIONS
from clipper.contract.spec import AutoscalingPolicy, EnvironmentSpec, FunctionSpec, Schedule, option_limits
from clipper.project import load_project

REFERENCE = Path(__file__).resolve().parents[3] / "infra" / "docs" / "functions.md"

TABLES = {
    "Function": FunctionSpec,
    "Autoscaling": AutoscalingPolicy,
    "Schedules": Schedule,
    "Environment": EnvironmentSpec,
}

NOUNS: dict[Any, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", Any: "any JSON", AutoscalingPolicy: "table",
    tuple[str, ...]: "array of strings", tuple[Schedule, ...]: "array of tables",
}  # fmt: skip


def kind(annotation: Any) -> str:
    """A key's type in TOML's words."""
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        (annotation,) = [part for part in typing.get_args(annotation) if part is not type(None)]
    if typing.get_origin(annotation) is typing.Literal:
        return "string"
    return NOUNS[annotation]


def unit(key: str) -> str:
    """The unit that a key's name carries; counts and the like carry none."""
    return "seconds" if key.endswith("_s") else "bytes" if key.endswith("_bytes") else ""


def shown(default: Any) -> str:
    if default is MISSING:
        return "required"
    if default is None or default == () or isinstance(default, AutoscalingPolicy):
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default:g}`" if isinstance(default, (int, float)) else f'`"{default}"`'


def rows(cls: Any) -> dict[str, list[str]]:
    """Type, unit, default and allowed values of each key, as the reference must show them."""
    hints, limits = typing.get_type_hints(cls), option_limits()
    return {
        f.name: [
            kind(hints[f.name]),
            unit(f.name),
            shown(f.default),
            limits[f.name].replace("'", '"') if f.name in limits and f.name not in ("cron", "timezone") else "",
        ]
        for f in fields(cls)
    }


def documented(section: str) -> dict[str, list[str]]:
    """The cells after the key of each row of a section's table, with the meaning last."""
    text = REFERENCE.read_text(encoding="utf-8")
    body = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert body is not None, f"there is no section {section}"
    found = {}
    for line in body[1].splitlines():
        if line.startswith("| `"):
            key, *cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert key.strip("`") not in found, f"{key} stands there twice"
            found[key.strip("`")] = cells
    return found


@pytest.mark.parametrize("section", TABLES)
def test_every_key_is_described_and_no_other(section: str) -> None:
    assert list(documented(section)) == list(rows(TABLES[section]))


@pytest.mark.parametrize(("section", "key"), [(s, key) for s, cls in TABLES.items() for key in rows(cls)])
def test_a_key_is_described_as_it_is(section: str, key: str) -> None:
    *columns, meaning = documented(section)[key]
    assert columns == rows(TABLES[section])[key]
    assert len(meaning) > 10


def test_the_number_of_versions_that_a_project_keeps_is_described_as_it_is() -> None:
    *row, meaning = documented("Project")["keep_versions"]
    assert row == ["integer", "", f"`{DEFAULT_KEEP_VERSIONS}`", KEEP_VERSIONS.words()]
    assert len(meaning) > 10


def test_the_example_of_the_reference_is_a_project(tmp_path: Path) -> None:
    blocks = re.findall(r"```(toml|python)\n# (\S+)\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)
    assert [name for _, name, _ in blocks] == ["app.py", "clip.toml", "autoscaling.toml"]
    for _, name, text in blocks:
        (tmp_path / name).write_text(text, encoding="utf-8")
    project = load_project(tmp_path)
    classify = {spec.name: spec for spec in project.functions}["classify"]
    assert classify.entrypoint == "app:Classify"
    assert classify.latency_slo_s == 0.05
    assert classify.autoscaling.schedule[0].min_replicas == 2
    assert project.provenance["classify"]["latency_slo_s"] == "clip.toml"
    assert project.provenance["classify"]["max_batch_size"].startswith("decorator (app.py:")
