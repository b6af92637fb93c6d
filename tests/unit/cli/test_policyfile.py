from __future__ import annotations

from pathlib import Path

import pytest

from clipper.cli.policyfile import read_policy, read_trace
from clipper.contract.spec import SpecError
from tests.support.terminal import clip


def test_a_file_that_is_not_there_or_not_text_is_said(tmp_path: Path) -> None:
    done = clip("policy", "check", str(tmp_path / "none.toml"), env={})
    assert (done.code, "cannot be read" in done.err) == (1, True)
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="not UTF-8"):
        read_policy(tmp_path / "bytes.toml")


@pytest.mark.parametrize("text", ["", "at\n", "1\nx\n", "2\n1\n", "0,5\n1\n", "0,-1\n", "nan\n0\n"])
def test_a_trace_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(SpecError, match=r"trace\.csv"):
        read_trace(path)
