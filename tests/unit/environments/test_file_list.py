"""A changed environment is noticed; what the platform itself writes into it is no change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipper_platform.environments.file_list import changed_file, record_files


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    packages = tmp_path / "lib" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "one.py").write_text("ONE = 1\n")
    (packages / "two.py").write_text("TWO = 2\n")
    record_files(tmp_path)
    return tmp_path


def test_an_untouched_environment_is_unchanged(environment: Path) -> None:
    assert changed_file(environment) is None


@pytest.mark.parametrize("change", ["append", "replace", "add", "remove", "mode"])
def test_a_change_is_noticed_and_named(environment: Path, change: str) -> None:
    one = environment / "lib" / "site-packages" / "one.py"
    match change:
        case "append":
            one.write_text("ONE = 1\nEVIL = 1\n")
        case "replace":
            other = one.with_name("other")
            other.write_text("ONE = 2\n")
            os.replace(other, one)
        case "add":
            one.with_name("evil.pth").write_text("")
        case "remove":
            one.unlink()
        case _:
            one.chmod(0o777)
    assert "site-packages/" in str(changed_file(environment))


def test_bytecode_and_what_the_platform_keeps_are_no_change(environment: Path) -> None:
    cache = environment / "lib" / "site-packages" / "__pycache__"
    cache.mkdir()
    (cache / "one.cpython-311.pyc").write_bytes(b"")
    (environment / ".complete").write_text("{}")
    os.link(environment / "lib" / "site-packages" / "two.py", environment.parent / "linked-by-a-cache")
    assert changed_file(environment) is None


def test_an_environment_of_before_counts_as_unchanged(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert changed_file(tmp_path) is None
