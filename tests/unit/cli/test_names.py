from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipper.cli.names import Target, complete_functions, complete_targets, parse_project, parse_target

NAME = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)


@given(NAME, st.none() | NAME, st.none() | st.integers(1, 10**8))
def test_an_address_is_read_back_as_it_was_written(project: str, function: str | None, version: int | None) -> None:
    target = Target(project, function, version if function is not None else None)
    assert parse_target(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "/", "p/", "/f", "p/f/g", "p/f@", "p/f@x", "p@3", "p f", "../x", "p/f@-1", "p\n", "p/f?x=1", "é/f"]
)
def test_what_is_no_address_is_a_usage_error_that_shows_one(text: str) -> None:
    with pytest.raises(click.BadParameter, match="PROJECT/FUNCTION"):
        parse_target(text)


def test_a_function_where_a_project_is_asked_for_names_the_project() -> None:
    with pytest.raises(click.BadParameter, match="takes a project: digits"):
        parse_project("digits/classify")


def test_completion_is_silent_while_no_platform_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLIP_URL", "http://127.0.0.1:9")
    context, parameter = click.Context(click.Command("status")), click.Argument(["target"])
    assert complete_functions(context, parameter, "dig") == []
    assert complete_targets(context, parameter, "dig") == []
    assert capsys.readouterr() == ("", "")
