from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipper.errors import PlatformUnreachable
from clipper.location import Location, find_platform, home_directory


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "platform.json").write_text(json.dumps({"url": "http://127.0.0.1:8700/", "pid": 1}))
    (tmp_path / "api_key").write_text("clip_local\n")
    return {"CLIP_HOME": str(tmp_path)}


def test_the_environment_says_where_the_platform_is() -> None:
    found = find_platform(environ={"CLIP_URL": "https://models.example/", "CLIP_API_KEY": "k", "CLIP_HOME": "/none"})
    assert found == Location("https://models.example", "k")


def test_without_it_the_files_of_the_running_platform_do(home: dict[str, str]) -> None:
    assert find_platform(environ=home) == Location("http://127.0.0.1:8700", "clip_local")


def test_arguments_win_over_the_environment(home: dict[str, str]) -> None:
    environ = home | {"CLIP_URL": "http://a:1", "CLIP_API_KEY": "k"}
    assert find_platform("http://b:2", "l", environ=environ) == Location("http://b:2", "l")


def test_the_local_key_is_not_sent_to_another_address(home: dict[str, str]) -> None:
    assert find_platform(environ=home | {"CLIP_URL": "http://elsewhere:8700"}).api_key is None
    assert find_platform("http://elsewhere:8700", environ=home).api_key is None


def test_the_local_key_is_used_when_the_address_is_given_in_words(home: dict[str, str]) -> None:
    assert find_platform(environ=home | {"CLIP_URL": "http://127.0.0.1:8700"}).api_key == "clip_local"


def test_a_key_from_the_environment_opens_the_local_platform(home: dict[str, str]) -> None:
    assert find_platform(environ=home | {"CLIP_API_KEY": "k"}) == Location("http://127.0.0.1:8700", "k")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}', '{"url": 5}'])
def test_a_half_written_file_is_no_platform(tmp_path: Path, content: str) -> None:
    (tmp_path / "platform.json").write_text(content)
    with pytest.raises(PlatformUnreachable, match="is `clip up` running"):
        find_platform(environ={"CLIP_HOME": str(tmp_path)})


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "ftp://x", "http://", "unix:/x"])
def test_what_is_no_http_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not the platform's address"):
        find_platform(url)


def test_the_key_is_not_in_the_repr() -> None:
    assert "secret" not in repr(Location("http://a", "secret"))


@pytest.mark.parametrize(
    ("url", "loopback"),
    [("http://127.0.0.1:1", True), ("http://localhost:1", True), ("http://[::1]:1", True), ("http://10.0.0.1", False)],
)
def test_loopback_is_recognised(url: str, loopback: bool) -> None:
    assert Location(url).loopback is loopback


def test_the_home_defaults_to_the_users() -> None:
    assert home_directory({}) == Path("~/.clip").expanduser()


def test_a_user_without_a_home_directory_needs_only_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    assert home_directory({}) == Path("/.clip")
    assert find_platform(environ={"CLIP_URL": "http://models:8700"}) == Location("http://models:8700")
