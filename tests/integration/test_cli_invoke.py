"""`clip invoke` against a platform over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.responses import Response

from tests.support.fake_platform import REQUEST_ID, FakePlatform, Refusal, client_environment, fake_platform
from tests.support.terminal import clip, clip_process, on_terminal


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        running.add_project("texts")
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


def sent(platform: FakePlatform) -> tuple[dict[str, str], bytes]:
    """Headers and body of the invocation."""
    return next((headers, body) for method, path, headers, body in platform.requests if method == "POST")


def test_in_a_pipe_the_answer_is_the_bytes_as_they_came(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.answer = Response(b'{"a":  1}', media_type="application/json")
    assert clip("invoke", "texts/analyze", "--json-input", '{"text": "hi"}', env=env).out == '{"a":  1}\n'
    headers, body = sent(platform)
    assert (headers["content-type"], body) == ("application/json", b'{"text": "hi"}')


def test_on_a_terminal_the_answer_is_made_pretty(env: dict[str, str]) -> None:
    with on_terminal("invoke", "texts/analyze", "--json-input", '{"text": "hi"}', env=env) as terminal:
        done = terminal.finish()
    assert done.code == 0
    assert '  "echo": {\n' in done.out
    assert "version 1" in done.out


def test_with_json_the_answer_comes_with_its_facts(env: dict[str, str]) -> None:
    document = json.loads(clip("invoke", "texts/analyze", "--json-input", '{"text": "hi"}', "--json", env=env).out)
    assert document["result"] == {"echo": {"text": "hi"}}
    assert (document["status"], document["version"], document["request_id"]) == (200, "1", REQUEST_ID)


def test_a_version_and_a_deadline_are_passed_on(platform: FakePlatform, env: dict[str, str]) -> None:
    assert clip("invoke", "texts/analyze@1", "--timeout", "2.5", env=env).code == 0
    headers, body = sent(platform)
    assert 0 < int(headers["x-clip-timeout-ms"]) <= 2500
    assert body == b"{}"
    assert ("POST", "/fn/texts/analyze@1") in [(method, path) for method, path, *_ in platform.requests]


@pytest.mark.parametrize(
    ("name", "content_type"),
    [
        ("x.json", "application/json"),
        ("x.msgpack", "application/msgpack"),
        ("x.npy", "application/x-npy"),
        ("x.PNG", "image/png"),
        ("x.jpg", "image/jpeg"),
        ("x.bin", "application/octet-stream"),
        ("x", "application/octet-stream"),
    ],
)
def test_a_files_ending_says_what_it_holds(
    name: str, content_type: str, tmp_path: Path, platform: FakePlatform, env: dict[str, str]
) -> None:
    (tmp_path / name).write_bytes(b"{}")
    assert clip("invoke", "texts/analyze", "--file", str(tmp_path / name), env=env).code == 0
    headers, body = sent(platform)
    assert (headers["content-type"], body) == (content_type, b"{}")


@pytest.mark.parametrize(
    ("stdin", "content_type"), [('{"text": "hi"}', "application/json"), ("bytes", "application/octet-stream")]
)
def test_a_dash_reads_stdin(stdin: str, content_type: str, platform: FakePlatform, env: dict[str, str]) -> None:
    assert clip("invoke", "texts/analyze", "--file", "-", env=env, stdin=stdin).code == 0
    headers, body = sent(platform)
    assert (headers["content-type"], body) == (content_type, stdin.encode())


def test_the_answers_format_is_asked_for(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.answer = Response(bytes(range(256)), media_type="application/x-npy")
    clip_process("invoke", "texts/analyze", "--accept", "application/x-npy", env=env, binary=True)
    assert sent(platform)[0]["accept"] == "application/x-npy"


def test_binary_answers_reach_a_pipe_unchanged(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.answer = Response(bytes(range(256)), media_type="application/octet-stream")
    done = clip_process("invoke", "texts/analyze", env=env, binary=True)
    assert done.out.encode("latin-1") == bytes(range(256))


def test_binary_answers_are_kept_off_a_terminal(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.answer = Response(b"\x1b[2J" * 512, media_type="application/octet-stream")
    with on_terminal("invoke", "texts/analyze", env=env) as terminal:
        done = terminal.finish()
    assert "2.0 KiB of application/octet-stream" in done.out
    assert "[2J" not in terminal.raw


def test_a_streams_items_are_printed_one_by_one(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.schema |= {"streaming": True}
    platform.stream_items = [{"n": 1}, {"n": 2}]
    assert clip("invoke", "texts/analyze", env=env).out.splitlines() == ['{"n": 1}', '{"n": 2}']
    assert sent(platform)[0]["accept"] == "text/event-stream"


def test_with_json_a_text_stream_is_one_json_value_per_line(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.schema |= {"streaming": True}
    platform.stream_items = ["a", 'b"']
    assert [json.loads(line) for line in clip("invoke", "texts/analyze", "--json", env=env).out.splitlines()] == [
        "a",
        'b"',
    ]
    assert clip("invoke", "texts/analyze", env=env).out == 'a\nb"\n'


def test_a_mismatch_shows_the_path_the_code_and_the_request(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.answer = Refusal(422, "schema_mismatch", "expected str, got int - at `$.text`")
    done = clip("invoke", "texts/analyze", env=env)
    assert (done.code, done.out) == (1, "")
    for words in ("$.text", "schema_mismatch", REQUEST_ID, "/fn/texts/analyze/schema"):
        assert words in done.err


def test_an_exception_of_the_function_points_to_its_log(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.answer = Refusal(500, "function_error", "ValueError: no", type="ValueError")
    done = clip("invoke", "texts/analyze", env=env)
    assert "ValueError: no" in done.err
    assert "clip logs texts/analyze" in done.err


def test_with_json_an_error_is_the_document(platform: FakePlatform, env: dict[str, str]) -> None:
    platform.answer = Refusal(500, "function_error", "ValueError: no", type="ValueError")
    done = clip("invoke", "texts/analyze", "--json", env=env)
    error = json.loads(done.out)["error"]
    assert done.code == 1
    assert (error["code"], error["type"], error["request_id"]) == ("function_error", "ValueError", REQUEST_ID)
    assert "clip logs" in error["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["texts/analyze", "--json-input", "{"],
        ["texts/analyze", "--json-input", "{}", "--file", "x"],
        ["texts/analyze", "--timeout", "0"],
        ["texts/analyze/x"],
        [],
    ],
)
def test_wrong_usage_is_found_before_anything_is_sent(
    arguments: list[str], platform: FakePlatform, env: dict[str, str]
) -> None:
    assert clip("invoke", *arguments, env=env).code == 2
    assert platform.requests == []


def test_json_too_deep_for_this_side_is_left_to_the_platform(platform: FakePlatform, env: dict[str, str]) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    platform.answer = Refusal(400, "invalid_request", "nested too deeply")
    done = clip("invoke", "texts/analyze", "--json-input", deep, env=env)
    assert (done.code, "nested too deeply" in done.err) == (1, True)


def test_a_file_that_is_not_there_is_named(env: dict[str, str], tmp_path: Path) -> None:
    done = clip("invoke", "texts/analyze", "--file", str(tmp_path / "no.json"), env=env)
    assert done.code == 1
    assert "no.json" in done.err
