"""`requirements = "pyproject.toml"`: what uv has locked, else the declared dependencies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipper.contract.spec import SpecError
from clipper.requirement_files import read_requirements
from tests.support.wheels import write_wheel


def read(directory: Path) -> tuple[str, ...]:
    return read_requirements(directory, "pyproject.toml", where="clip.toml", environ={"TOKEN": "t"}).lines


def test_without_a_lock_file_the_dependencies_count(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\ndependencies = ["a>=1", "b"]\n')
    assert read(tmp_path) == ("a>=1", "b")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[project]\nname = "x"\ndynamic = ["dependencies"]\n', "dynamic"),
        ('[project]\ndependencies = ["a"]\n[tool.uv.sources]\na = { path = "../a" }\n', "lock file"),
        ('[project]\ndependencies = ["a 2"]\n', "'a 2' is not allowed"),
        ("[project\n", "not valid TOML"),
    ],
)
def test_what_only_a_lock_file_tells_is_refused_without_one(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(SpecError, match=reason):
        read(tmp_path)


def test_a_lock_file_is_exported_with_hashes_and_indexes(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "wheels", "tinypkg", "1.0")
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["tinypkg"]\n'
        '[dependency-groups]\ndev = ["tinypkg"]\n[tool.uv]\nno-index = true\nfind-links = ["wheels"]\n'
    )
    lock = [Path(sys.executable).with_name("uv"), "lock", "--quiet"]
    subprocess.run(lock, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    lines = read(tmp_path)
    assert lines[:2] == ("--find-links ./wheels", "--no-index")
    assert any(line.startswith("tinypkg==1.0") or "tinypkg-1.0" in line for line in lines), (lines, wheel)


def test_a_lock_file_that_does_not_fit_is_refused_with_uvs_words(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1"\n')
    (tmp_path / "uv.lock").write_text("no lock file")
    with pytest.raises(SpecError, match=r"uv\.lock: uv cannot export it: .*parse"):
        read(tmp_path)
