from __future__ import annotations

import io
import json

import pytest

from clipper.cli.console import Output
from clipper.cli.problems import CommandFailed, as_document, show
from clipper.contract.spec import SpecError
from clipper.errors import DeployFailed, Forbidden


def test_plain_tables_align_and_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(["NAME", "COUNT"], [["a", "1"], ["x" * 200, "1000"]], right=("COUNT",))
    heading, short, long = capsys.readouterr().out.splitlines()
    assert (heading.index("COUNT"), heading.split(), short.split()) == (202, ["NAME", "COUNT"], ["a", "1"])
    assert len(long) == len(heading) == len(short) == 207
    assert long.endswith(" 1000")


def test_with_json_only_documents_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(json=True)
    out.line("words")
    out.table(["A"], [["b"]])
    out.note("aside")
    out.document({"ä": 1})
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {"ä": 1}
    assert printed.err == "aside\n"


def test_advice_gathers_notes_and_the_platforms_hint() -> None:
    error = DeployFailed("no", details={"phase": "replicas", "hint": "do this"})
    error.add_note("or that")
    assert as_document(error)["error"]["hint"] == "do this or that"


def test_a_code_without_a_note_gets_its_general_advice() -> None:
    assert "scope" in as_document(Forbidden("no"))["error"]["hint"]


def test_a_specs_refusal_names_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    error = SpecError("x is not allowed", where="[functions.f]", key="x")
    assert as_document(error)["error"]["code"] == "invalid_spec"
    show(error, Output())
    assert "[functions.f]: x is not allowed" in capsys.readouterr().err


def test_only_the_last_lines_of_a_long_log_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show(DeployFailed("no", details={"log": [f"line {n}" for n in range(500)]}), Output())
    printed = capsys.readouterr().err
    assert "line 499" in printed
    assert "line 470" not in printed


def test_a_failures_hint_follows_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    show(CommandFailed("it broke", hint="mend it"), Output())
    assert capsys.readouterr().err.splitlines() == ["✗ it broke", "  → mend it"]


def test_json_is_escaped_where_the_locale_has_another_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding="ascii", errors="replace", write_through=True))
    Output(json=True).document({"word": "grün €"})
    assert json.loads(written.getvalue()) == {"word": "grün €"}
