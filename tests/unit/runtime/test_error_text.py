"""What a caller is told of an exception of user code."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from clipper_runtime.error_text import error_text


def test_a_write_beside_the_code_says_where_to_write() -> None:
    assert "$TMPDIR" in error_text(OSError(errno.EROFS, "Read-only file system", "helper.py"))


def test_a_refusal_by_permission_is_explained_below_the_working_directory_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "$TMPDIR" in error_text(PermissionError(errno.EACCES, "Permission denied", "helper.py"))
    assert "$TMPDIR" not in error_text(PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"))


def test_another_error_is_told_in_its_own_words() -> None:
    assert error_text(ValueError("no such model")) == "no such model"
    assert error_text(FileNotFoundError(errno.ENOENT, "No such file", "x")) == "[Errno 2] No such file: 'x'"


def test_an_error_whose_text_raises_is_told_all_the_same() -> None:
    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert error_text(Broken()) == "(its message cannot be shown)"
