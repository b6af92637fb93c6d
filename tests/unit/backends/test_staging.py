"""The packages that replicas import are staged whole, once for each content."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from clipper_platform.backends.process.staging import find_packages, stage


def packages(base: Path) -> dict[str, Path]:
    for name in ("clipper", "clipper_runtime"):
        for file in ("__init__.py", "deep/er.py", "py.typed", "__pycache__/x.pyc", "cli/main.py"):
            path = base / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {name} {file}\n")
    return {"clipper": base / "clipper", "clipper_runtime": base / "clipper_runtime"}


def staged_files(target: Path) -> set[str]:
    return {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}


def test_the_copy_has_every_module_but_the_command_line_and_bytecode(tmp_path: Path) -> None:
    target = stage(tmp_path / "runtime", packages(tmp_path))
    assert staged_files(target) == {
        "clipper/__init__.py", "clipper/deep/er.py", "clipper/py.typed",
        "clipper_runtime/__init__.py", "clipper_runtime/deep/er.py", "clipper_runtime/py.typed",
        "clipper_runtime/cli/main.py",
    }  # fmt: skip


def test_the_same_content_is_staged_once_and_bytecode_in_it_does_not_matter(tmp_path: Path) -> None:
    source = packages(tmp_path)
    target = stage(tmp_path / "runtime", source)
    cache = target / "clipper" / "__pycache__"
    cache.mkdir()
    (cache / "x.pyc").write_text("")
    inode = target.stat().st_ino
    assert stage(tmp_path / "runtime", source) == target
    assert target.stat().st_ino == inode


def test_another_content_is_another_directory_and_the_old_one_goes(tmp_path: Path) -> None:
    source = packages(tmp_path)
    old = stage(tmp_path / "runtime", source)
    (source["clipper"] / "__init__.py").write_text("# changed\n")
    new = stage(tmp_path / "runtime", source)
    assert new != old
    assert list((tmp_path / "runtime").iterdir()) == [new]


@pytest.mark.parametrize("damage", ["missing", "changed", "added"])
def test_a_damaged_copy_is_replaced(tmp_path: Path, damage: str) -> None:
    source = packages(tmp_path)
    target = stage(tmp_path / "runtime", source)
    whole = staged_files(target)
    if damage == "missing":
        (target / "clipper" / "__init__.py").unlink()
    else:
        (target / "clipper" / ("__init__.py" if damage == "changed" else "extra.py")).write_text("damaged")
    assert stage(tmp_path / "runtime", source) == target
    assert staged_files(target) == whole
    assert "damaged" not in (target / "clipper" / "__init__.py").read_text()


def test_the_real_packages_import_from_their_copy_alone(tmp_path: Path) -> None:
    target = stage(tmp_path / "runtime")
    code = (
        "import clipper, clipper.contract.spec, clipper.contract.wire\n"
        "print(clipper.__file__, clipper.contract.spec.__file__, clipper.contract.wire.__file__)"
    )
    environ = {"PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=environ, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert all(name.startswith(str(target)) for name in done.stdout.split())


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(RuntimeError, match="'no_such_package_here' is not installed"):
        find_packages({"no_such_package_here": frozenset()})
