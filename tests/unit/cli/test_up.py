from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from clipper.cli import platform_extra
from clipper.cli.console import Output
from clipper.cli.main import main
from clipper.cli.up import banner, without_password

LISTENING = {
    "url": "http://127.0.0.1:1234", "store": "redis://:s3cret@host/0", "backend": "process", "home": "/home/me/.clip"
}  # fmt: skip

Up = Callable[[Mapping[str, Any], Callable[[Mapping[str, str]], None]], dict[str, Any]]


def offers(monkeypatch: pytest.MonkeyPatch, up: Up) -> None:
    """Let `clip up` find `up` where it looks for the platform's."""
    monkeypatch.setattr(platform_extra, "load", {"up": up}.__getitem__)


def test_the_banner_says_where_it_listens_and_what_to_type_next(capsys: pytest.CaptureFixture[str]) -> None:
    banner(Output(), LISTENING)
    printed = capsys.readouterr().out
    for words in ("http://127.0.0.1:1234", "process", "redis://***@host/0", "/home/me/.clip", "clip deploy"):
        assert words in printed


def test_with_json_the_banner_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    banner(Output(json=True), LISTENING)
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {"event": "listening", **LISTENING, "store": "redis://***@host/0"}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:s3cret@host:6379/0", "redis://***@host:6379/0"),
        ("redis://:p@ss@host/0", "redis://***@host/0"),
        ("redis://host/0", "redis://host/0"),
        ("sqlite:////tmp/clipper.db", "sqlite:////tmp/clipper.db"),
    ],
)
def test_the_password_of_a_store_is_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_flags_become_settings_and_the_exit_code_is_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, Any] = {}

    def up(flags: Mapping[str, Any], on_listening: Callable[[Mapping[str, str]], None]) -> dict[str, Any]:
        given.update(flags)
        on_listening(LISTENING)
        return {"exit_code": 7}

    offers(monkeypatch, up)
    flags = ["--home", str(tmp_path), "--port", "0", "--log-level", "debug"]
    assert main(["up", *flags, "--cors-origin", "http://a", "--cors-origin", "http://b"]) == 7
    assert {name: value for name, value in given.items() if value is not None} == {
        "home": tmp_path, "port": 0, "log_level": "debug", "cors_origins": ("http://a", "http://b"),
    }  # fmt: skip
    assert "listens on http://127.0.0.1:1234" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        ({"code": "conflict", "message": "a platform runs already"}, "clip up --home DIR"),
        ({"code": "conflict", "message": "cannot listen", "port": 80}, "Use another port: clip up --port 81"),
        ({"code": "conflict", "message": "the home is locked", "hint": "Wait for it"}, "Wait for it"),
        ({"code": "store_unavailable", "message": "the store is away"}, "Nothing was started"),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["words", "json"])
def test_what_is_in_the_way_is_named_with_what_to_do(
    error: dict[str, Any], hint: str, flags: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    offers(monkeypatch, lambda _flags, _on_listening: {"error": error})
    assert main(["up", *flags]) == 1
    out, err = capsys.readouterr()
    if flags:
        document = json.loads(out)["error"]
        assert (document["code"], document["message"]) == (error["code"], error["message"])
        assert hint in document["hint"]
    else:
        assert error["message"] in err
        assert hint in err
