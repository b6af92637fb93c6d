from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from clipper.cli.console import Output
from clipper.cli.main import main
from clipper.cli.up import banner, without_password
from clipper_platform.errors import Conflict
from clipper_platform.settings import Settings


def started_by(monkeypatch: pytest.MonkeyPatch, run: Callable[..., int]) -> None:
    """Let `clip up` find `run` where it finds the platform's."""
    module = ModuleType("clipper_platform.main")
    module.run = run  # type: ignore[attr-defined]  # a module's attributes are what is put there
    monkeypatch.setitem(sys.modules, "clipper_platform.main", module)


def test_the_banner_says_where_it_listens_and_what_to_type_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    banner(Settings.load(home=tmp_path), Output(), url="http://127.0.0.1:1234")
    said = capsys.readouterr().out
    for words in ("http://127.0.0.1:1234", "process", f"sqlite:///{tmp_path}/clipper.db", str(tmp_path), "clip deploy"):
        assert words in said


def test_with_json_the_banner_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    banner(Settings.load(home=tmp_path), Output(json=True), url="http://127.0.0.1:1234")
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line) == {
        "event": "listening",
        "url": "http://127.0.0.1:1234",
        "store": f"sqlite:///{tmp_path}/clipper.db",
        "backend": "process",
        "home": str(tmp_path),
    }


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
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Settings] = []

    def run(settings: Settings, **_: Any) -> int:
        seen.append(settings)
        return 7

    started_by(monkeypatch, run)
    flags = ["--home", str(tmp_path), "--port", "0", "--log-level", "debug"]
    code = main(["up", *flags, "--cors-origin", "http://a", "--cors-origin", "http://b"])
    assert code == 7
    assert (seen[0].home, seen[0].port, seen[0].log_level) == (tmp_path, 0, "debug")
    assert seen[0].cors_origins == ("http://a", "http://b")


def test_a_setting_that_is_not_allowed_is_a_failure_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started_by(monkeypatch, lambda settings, **_: 0)
    assert main(["up", "--home", str(tmp_path), "--store", "mysql://x"]) == 1
    assert "store = 'mysql://x' is not allowed" in capsys.readouterr().err


@pytest.mark.parametrize("json_output", [False, True])
def test_a_platform_that_is_in_the_way_is_named_with_what_to_do(
    json_output: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(settings: Settings, **_: Any) -> int:
        raise Conflict(f"a platform runs in {settings.home} already")

    started_by(monkeypatch, run)
    assert main(["up", "--home", str(tmp_path), *(["--json"] if json_output else [])]) == 1
    out, err = capsys.readouterr()
    if json_output:
        error = json.loads(out)["error"]
        assert (error["code"], "clip up --home DIR" in error["hint"]) == ("conflict", True)
    else:
        assert f"a platform runs in {tmp_path} already" in err
        assert "clip up --home DIR" in err


def test_without_the_platform_extra_the_command_to_install_it_is_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "clipper_platform.main", None)
    assert main(["up"]) == 1
    assert "pip install 'clipper[platform]'" in capsys.readouterr().err
