"""The report of imported modules."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from clipper.contract.constants import REPORT_VARIABLE
from clipper_runtime import modules


def test_only_modules_that_another_process_can_import_by_name_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_the_bundle.py").write_text("import colorsys\n")
    report = tmp_path / "report.json"
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(REPORT_VARIABLE, str(report))
    __import__("of_the_bundle")
    modules.report_modules(str(tmp_path))
    names = json.loads(report.read_text())
    assert {"colorsys", "pytest"} <= set(names)
    assert not {"of_the_bundle", "clipper_runtime", "clipper", "os.path", "__main__"} & set(names)
    assert REPORT_VARIABLE not in os.environ
    del sys.modules["of_the_bundle"]


def test_without_the_variable_nothing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(REPORT_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    modules.report_modules(str(tmp_path))
    assert list(tmp_path.iterdir()) == []
