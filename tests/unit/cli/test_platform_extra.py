from __future__ import annotations

import importlib.metadata
from importlib.metadata import EntryPoint, EntryPoints

import pytest

from clipper.cli import platform_extra
from clipper.cli.problems import CommandFailed


@pytest.mark.parametrize(
    ("target", "missing"),
    [("clipper_nowhere:up", "no module 'clipper_nowhere'"), (None, "no entry point 'up'")],
)
def test_without_the_platform_the_command_to_install_it_is_given(
    target: str | None, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = EntryPoints([EntryPoint("up", target, platform_extra.GROUP)] if target else [])
    monkeypatch.setattr(importlib.metadata, "entry_points", installed.select)
    with pytest.raises(CommandFailed, match=missing) as failed:
        platform_extra.load("up")
    assert failed.value.code == "platform_missing"
    assert failed.value.__notes__ == ["Install it: pip install 'clipper[platform]'"]


def test_an_entry_point_is_loaded_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = EntryPoints([EntryPoint("up", "json:dumps", platform_extra.GROUP)])
    monkeypatch.setattr(importlib.metadata, "entry_points", installed.select)
    assert platform_extra.load("up")([1]) == "[1]"
