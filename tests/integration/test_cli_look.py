"""`clip list`, `status`, `versions` and `logs` against a platform over HTTP."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.support.fake_platform import STARTED, FakePlatform, client_environment, fake_platform
from tests.support.terminal import clip, on_terminal


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


def record(ts: float, message: str, *, level: str = "info", stream: str = "log", version: int = 1) -> dict[str, object]:
    return {
        "ts": ts,
        "stream": stream,
        "level": level,
        "message": message,
        "request_id": "req-7",
        "logger": "app",
        "version": version,
        "replica": "r-1",
    }


def test_an_empty_platform_says_how_to_start(env: dict[str, str]) -> None:
    done = clip("list", env=env)
    assert done.code == 0
    assert "clip init demo && clip deploy demo" in done.out


def test_list_is_one_plain_line_per_function(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits", version=3)
    platform.add_project("texts")
    heading, *lines = clip("list", env=env).out.splitlines()
    assert heading.split() == ["FUNCTION", "VERSION", "STATE", "REPLICAS", "UPDATED", "URL"]
    assert lines[0].split()[:4] == ["digits/analyze", "3", "ready", "1/1"]
    assert lines[0].endswith(f"{platform.url}/fn/digits/analyze")
    assert lines[1].startswith("texts/analyze")


def test_list_with_json_is_what_the_platform_said(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    assert json.loads(clip("list", "--json", env=env).out)["projects"][0]["name"] == "digits"


def test_status_shows_figures_replicas_and_events(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits", version=3, previous=2)
    out = clip("status", "digits", env=env).out
    for words in ("version 3 (before: 2)", "p50 4.2 ms", "p99 19.1 ms", "12.5/s", "cache 75%", "50.0 MiB", "1234"):
        assert words in out
    assert "version 3 answers" in out


def test_status_of_a_failed_function_gives_the_reason_and_its_log(platform: FakePlatform, env: dict[str, str]) -> None:
    function = platform.add_project("digits")["functions"][0]
    function |= {"state": "failed", "replicas": [], "latency": None}
    function["reason"] = "the replica crashed 5 times in a row\nTraceback (most recent call last):\nMemoryError"
    out = clip("status", "digits/analyze", env=env).out
    assert "failed" in out
    assert "the replica crashed 5 times in a row" in out
    assert "│ MemoryError" in out
    assert "p50" not in out


def test_status_says_why_a_function_has_no_snapshot(platform: FakePlatform, env: dict[str, str]) -> None:
    function = platform.add_project("digits")["functions"][0]
    function["snapshot"] = {"state": "ready", "reason": "", "retry_in_s": None}
    assert "snapshot" not in clip("status", "digits", env=env).out
    function["snapshot"] = {"state": "refused", "reason": "it left a socket open", "retry_in_s": 25.0}
    out = clip("status", "digits", env=env).out
    assert "no snapshot: it left a socket open (made again when a replica starts in 25.0 s or later)" in out
    function["snapshot"] |= {"reason": "it is async", "retry_in_s": None}
    assert "no snapshot: it is async (not tried again for this version)" in clip("status", "digits", env=env).out


def test_status_with_json_of_one_function_is_that_function(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    assert json.loads(clip("status", "digits/analyze", "--json", env=env).out)["name"] == "analyze"
    assert json.loads(clip("status", "digits", "--json", env=env).out)["name"] == "digits"


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["status", "digit"], "Did you mean digits?"),
        (["status", "digits/analyse"], "Did you mean digits/analyze?"),
        (["versions", "dgits"], "Did you mean digits?"),
        (["logs", "digits/analyse"], "Did you mean digits/analyze?"),
        (["invoke", "digits/analyse"], "Did you mean digits/analyze?"),
        (["rollback", "digts"], "Did you mean digits?"),
        (["status", "zzz"], "Projects here: digits"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(
    arguments: list[str], meant: str, platform: FakePlatform, env: dict[str, str]
) -> None:
    platform.add_project("digits")
    done = clip(*arguments, env=env)
    assert (done.code, done.out) == (1, "")
    assert meant in done.err


def test_versions_mark_the_current_one_and_say_why_one_failed(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits", version=3)
    _, three, two, one = clip("versions", "digits", env=env).out.splitlines()
    assert three.split()[:3] == ["*", "3", "ready"]
    assert "setup raised ValueError: no model" in two
    assert one.split()[0] == "1"


def test_logs_are_printed_oldest_first_with_their_request(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    platform.logs = [
        record(STARTED, "first", stream="stdout"),
        record(STARTED + 1, "second\nTraceback\n  line", level="error"),
    ]
    first, second, *more = clip("logs", "digits/analyze", env=env).out.splitlines()
    assert first.endswith("stdout   [req-7] first")
    assert second.endswith("ERROR    [req-7] second")
    assert [line.strip() for line in more] == ["Traceback", "line"]


def test_a_project_with_one_function_needs_no_function_name(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    platform.logs = [record(STARTED, "hello")]
    assert "hello" in clip("logs", "digits", env=env).out


def test_a_project_with_several_functions_asks_which(platform: FakePlatform, env: dict[str, str]) -> None:
    functions = platform.add_project("digits")["functions"]
    functions.append(functions[0] | {"name": "other"})
    done = clip("logs", "digits", env=env)
    assert done.code == 1
    assert "digits/analyze, digits/other" in done.err


def test_tail_since_and_version_choose_lines(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    platform.logs = [record(STARTED + n, f"line {n}", version=1 + n % 2) for n in range(10)]

    def messages(*options: str) -> list[str]:
        return [json.loads(line)["message"] for line in clip(*options, "--json", env=env).out.splitlines()]

    assert messages("logs", "digits/analyze", "--tail", "2") == ["line 8", "line 9"]
    assert messages("logs", "digits/analyze", "--since", str(STARTED + 7.5)) == ["line 8", "line 9"]
    assert messages("logs", "digits/analyze@1", "--tail", "4") == ["line 6", "line 8"]
    assert messages("logs", "digits/analyze", "--tail", "0") == []


def test_a_time_that_is_none_is_a_usage_error(env: dict[str, str]) -> None:
    done = clip("logs", "digits/analyze", "--since", "yesterday", env=env)
    assert done.code == 2
    assert "10m" in done.err


def test_an_empty_log_says_so_on_stderr(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    done = clip("logs", "digits/analyze", env=env)
    assert (done.code, done.out) == (0, "")
    assert "clip invoke digits/analyze" in done.err


def test_following_prints_new_lines_until_ctrl_c(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    platform.logs = [record(STARTED, "old line")]
    platform.followed = [record(STARTED + 1, "new line")]
    with on_terminal("logs", "digits/analyze", "-f", env=env) as terminal:
        terminal.wait_for("old line")
        terminal.wait_for("new line")
        terminal.interrupt()
        done = terminal.finish()
    assert done.code == 128 + signal.SIGINT
    assert "Traceback" not in done.out


def test_on_a_terminal_status_has_colours_and_fits_the_width(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    with on_terminal("status", "digits", env=env) as terminal:
        done = terminal.finish()
    assert done.code == 0
    assert "\x1b[" in terminal.raw
    assert max(len(line) for line in done.out.splitlines()) <= 80


def test_no_color_leaves_out_every_style(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    with on_terminal("list", env=env | {"NO_COLOR": "1"}) as terminal:
        done = terminal.finish()
    assert "digits/analyze" in done.out
    assert "\x1b" not in terminal.raw


def test_log_lines_cannot_command_the_terminal(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.add_project("digits")
    platform.logs = [record(STARTED, "\x1b]0;owned\x07\x1b[2Jgone\x9b31m")]
    with on_terminal("logs", "digits/analyze", env=env | {"NO_COLOR": "1"}) as terminal:
        terminal.finish()
    assert "gone" in terminal.raw
    assert not {"\x1b", "\x07", "\x9b"} & set(terminal.raw)


def test_status_says_which_version_gets_what_while_a_canary_runs(platform: FakePlatform, env: dict[str, str]) -> None:
    canary = {
        "deployment": "dep_1", "version": 2, "share": 10, "previous": 1, "previous_share": 90, "step": 1, "steps": 3,
        "step_s": 60.0, "functions": ["analyze"],
    }  # fmt: skip
    platform.add_project("digits")["canary"] = canary
    text = " ".join(clip("status", "digits", env=env).out.split())
    assert "version 2 gets 10 % of the calls, version 1 gets 90 %: step 1 of 3, 1 min each" in text
    assert json.loads(clip("status", "digits", "--json", env=env).out)["canary"] == canary
