"""`clip rollback`, `delete`, `key` and `secret` against a platform over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.support.fake_platform import FakePlatform, client_environment, fake_platform
from tests.support.terminal import clip, on_terminal


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        running.add_project("digits", version=3, previous=2)
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


def test_rollback_returns_to_the_version_before_and_says_how_to_undo_it(
    platform: FakePlatform, env: dict[str, str]
) -> None:
    done = clip("rollback", "digits", env=env)
    assert done.code == 0
    assert "digits answers with version 2" in done.out
    assert "clip rollback digits 3" in done.out
    assert platform.projects["digits"]["version"] == 2


def test_rollback_to_a_named_version(platform: FakePlatform, env: dict[str, str]) -> None:
    assert json.loads(clip("rollback", "digits", "1", "--json", env=env).out)["version"] == 1
    assert platform.body_of("POST", "/api/v1/projects/digits/rollback") == {"version": 1}


def test_with_nothing_to_return_to_rollback_fails(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("texts")
    done = clip("rollback", "texts", env=env)
    assert done.code == 1
    assert "no version to return to" in done.err


def test_delete_without_a_terminal_needs_yes(platform: FakePlatform, env: dict[str, str]) -> None:
    done = clip("delete", "digits", env=env, stdin="y\n")
    assert done.code == 1
    assert "--yes" in done.err
    assert "digits" in platform.projects


def test_delete_with_yes_deletes(platform: FakePlatform, env: dict[str, str]) -> None:
    assert clip("delete", "digits", "--yes", env=env).code == 0
    assert platform.projects == {}


@pytest.mark.parametrize(("answer", "code", "left"), [("y", 0, False), ("n", 1, True), ("", 1, True)])
def test_on_a_terminal_delete_asks_and_does_as_told(
    answer: str, code: int, left: bool, platform: FakePlatform, env: dict[str, str]
) -> None:
    with on_terminal("delete", "digits", env=env) as terminal:
        terminal.wait_for(r"Delete digits with 1 function \(analyze\) and all its versions\?")
        terminal.type(f"{answer}\n")
        assert terminal.finish().code == code
    assert ("digits" in platform.projects) is left


def test_a_new_key_is_alone_on_stdout(platform: FakePlatform, env: dict[str, str]) -> None:
    done = clip("key", "create", "ci", "--scope", "deploy", "--scope", "invoke", env=env)
    assert done.out == "clip_shown_once\n"
    assert "shown this once" in done.err.lower()
    assert platform.body_of("POST", "/api/v1/keys") == {"name": "ci", "scopes": ["deploy", "invoke"]}


def test_a_key_may_invoke_unless_told_otherwise(platform: FakePlatform, env: dict[str, str]) -> None:
    assert json.loads(clip("key", "create", "app", "--json", env=env).out)["scopes"] == ["invoke"]


def test_an_unknown_scope_is_a_usage_error_that_lists_them(env: dict[str, str]) -> None:
    done = clip("key", "create", "ci", "--scope", "root", env=env)
    assert done.code == 2
    assert "invoke, deploy, admin" in done.err


def test_a_revoked_key_is_listed_as_such(env: dict[str, str]) -> None:
    key = json.loads(clip("key", "create", "ci", "--json", env=env).out)
    assert clip("key", "revoke", key["id"], env=env).code == 0
    listed = clip("key", "list", env=env).out
    assert "revoked" in listed
    assert "clip_shown_once" not in listed


def test_revoking_an_unknown_key_says_where_the_ids_are(env: dict[str, str]) -> None:
    done = clip("key", "revoke", "k99", env=env)
    assert done.code == 1
    assert "clip key list" in done.err


@pytest.mark.parametrize(
    ("arguments", "stdin"), [(["s3cret"], ""), (["-"], "s3cret\n"), ([], "s3cret"), ([], "s3cret\r\n")]
)
def test_a_secret_comes_from_the_argument_or_from_stdin(
    arguments: list[str], stdin: str, platform: FakePlatform, env: dict[str, str]
) -> None:
    done = clip("secret", "set", "digits", "TOKEN", *arguments, env=env, stdin=stdin)
    assert done.code == 0
    assert platform.secrets == {"digits": {"TOKEN": "s3cret"}}
    assert "s3cret" not in done.out + done.err


@pytest.mark.parametrize("value", ["-x", "--token", "-----BEGIN KEY-----\nabc\n", "--help-me", "-"])
def test_a_secret_may_begin_with_a_dash(value: str, platform: FakePlatform, env: dict[str, str]) -> None:
    done = clip("secret", "set", "digits", "TOKEN", value, "--json", env=env, stdin="-")
    assert json.loads(done.out) == {"name": "TOKEN"}
    assert platform.secrets == {"digits": {"TOKEN": value}}


@pytest.mark.parametrize("text", ["-----BEGIN KEY-----\nabc\n-----END KEY-----\n", "a\r\nb\r\n", "a\n\n", "\na"])
def test_a_secret_of_several_lines_is_kept_with_its_last_line_break(
    text: str, platform: FakePlatform, env: dict[str, str]
) -> None:
    assert clip("secret", "set", "digits", "PEM", env=env, stdin=text).code == 0
    assert platform.secrets == {"digits": {"PEM": text}}


def test_on_a_terminal_a_secret_is_typed_unseen(platform: FakePlatform, env: dict[str, str]) -> None:
    with on_terminal("secret", "set", "digits", "TOKEN", env=env) as terminal:
        terminal.wait_for("Value of TOKEN")
        terminal.type("s3cret\n")
        done = terminal.finish()
    assert done.code == 0
    assert platform.secrets == {"digits": {"TOKEN": "s3cret"}}
    assert "s3cret" not in done.out


def test_an_empty_secret_from_a_pipe_is_refused(platform: FakePlatform, env: dict[str, str]) -> None:
    assert clip("secret", "set", "digits", "TOKEN", env=env, stdin="").code == 1
    assert platform.secrets == {}


def test_secrets_are_listed_by_name_and_deleted(env: dict[str, str]) -> None:
    assert "clip secret set digits NAME" in clip("secret", "list", "digits", env=env).out
    clip("secret", "set", "digits", "TOKEN", "x", env=env)
    assert clip("secret", "list", "digits", env=env).out == "TOKEN\n"
    assert json.loads(clip("secret", "list", "digits", "--json", env=env).out) == {"secrets": ["TOKEN"]}
    assert clip("secret", "delete", "digits", "TOKEN", env=env).code == 0
    assert clip("secret", "delete", "digits", "TOKEN", env=env).code == 1


def test_restart_says_how_each_function_does_then(platform: FakePlatform, env: dict[str, str]) -> None:
    function = platform.add_project("digits")["functions"][0]
    function |= {"replicas_ready": 1, "replicas_wanted": 1}
    done = clip("restart", "digits/analyze", env=env)
    assert (done.code, done.out.split()) == (0, ["✓", "digits/analyze", "1/1", "ready"])
    assert platform.body_of("POST", "/api/v1/projects/digits/restart") == {"function": "analyze"}


def test_restart_of_a_function_that_fails_again_fails_with_the_reason(
    platform: FakePlatform, env: dict[str, str]
) -> None:
    function = platform.add_project("digits")["functions"][0]
    function |= {"replicas_ready": 0, "replicas_wanted": 1, "state": "failed", "reason": "gave up: no model"}
    done = clip("restart", "digits", env=env)
    assert done.code == 1
    assert "gave up: no model" in done.out
    assert json.loads(clip("restart", "digits", "--json", env=env).out)["functions"][0]["state"] == "failed"
