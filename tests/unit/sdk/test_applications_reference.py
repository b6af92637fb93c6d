"""`infra/docs/applications.md` says what the contract and the policies do, key by key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from clipper.contract.applications import INPUT_TYPES, LOSSES, NO_MODELS, POLICIES, TOO_LATE, ApplicationSpec, LinkSpec
from clipper.project import load_project

REFERENCE = Path(__file__).resolve().parents[3] / "infra" / "docs" / "applications.md"
TEXT = REFERENCE.read_text(encoding="utf-8")


def rows(section: str) -> dict[str, list[str]]:
    """The cells after the first one of each row of a section's first table."""
    body = re.search(rf"^## {section}\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert body is not None, f"there is no section {section}"
    found = {}
    for line in body[1].splitlines():
        if line.startswith("| `"):
            key, *cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip("|"))]
            found[key.strip("`")] = cells
    return found


def shown(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if default is None:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, str):
        return f'`"{default}"`'
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{list(default)}`" if isinstance(default, tuple) else f"`{default}`"


def test_every_key_is_described_with_its_default_and_no_other() -> None:
    fields = {field.name: field for field in msgspec.structs.fields(ApplicationSpec) if field.name != "name"}
    described = rows("Keys")
    assert list(described) == list(fields)
    assert {key: cells[1] for key, cells in described.items()} == {key: shown(f) for key, f in fields.items()}


def test_the_words_of_a_key_are_all_there() -> None:
    described = rows("Keys")
    assert all(f"`{word}`" in described["input_type"][2] for word in INPUT_TYPES)
    assert all(f"`{word}`" in described["loss"][2] for word in LOSSES)
    assert all(f"`{key}`" in described["links"][2] for key in LinkSpec.__struct_fields__)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_is_named(policy: str) -> None:
    section = TEXT.partition("## Policies")[2].partition("###")[0]
    assert f"`{policy}`" in section


@pytest.mark.parametrize("words", [NO_MODELS, TOO_LATE])
def test_the_explanations_of_default_outputs_are_those_of_the_contract(words: str) -> None:
    assert f"`{words}`" in TEXT


def test_the_tables_of_the_file_make_a_project(tmp_path: Path) -> None:
    block = re.search(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    (tmp_path / "clip.toml").write_text(block[1])
    functions = "\n".join(
        f"@clipper.function()\ndef {name}(x: list[float]) -> int: ..." for name in ("tree", "neighbours")
    )
    (tmp_path / "app.py").write_text(f"import clipper\n{functions}\n")
    (spec,) = load_project(tmp_path).apps
    assert [link.id for link in spec.links] == ["readers/tree", "readers/neighbours", "other/net@3", "other/wide"]
