"""`clip top` against a platform over HTTP: live on a terminal, as lines, as JSON."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.fake_platform import FakePlatform, client_environment, fake_platform
from tests.support.terminal import COMMAND, clip, environment, on_terminal

QUICK = ["--interval", "0.2"]


@pytest.fixture
def platform() -> Iterator[FakePlatform]:
    with fake_platform() as running:
        yield running


@pytest.fixture
def env(platform: FakePlatform) -> dict[str, str]:
    return client_environment(platform)


def scrape(answers: int, errors: int = 0) -> str:
    labels = 'function="digits/analyze",version="1"'
    return (
        f'clip_invocations_total{{{labels},code="200"}} {answers}\n'
        f'clip_invocations_total{{{labels},code="500"}} {errors}\n'
        f"clip_batch_size_sum{{{labels}}} {answers}\nclip_batch_size_count{{{labels}}} {answers // 4}\n"
        f"clip_batch_limit{{{labels}}} 16\nclip_queue_depth{{{labels}}} 7\nclip_running{{{labels}}} 3\n"
    )


def busy(platform: FakePlatform, scrapes: int = 200) -> None:
    platform.add_project("digits")
    platform.add_project("idle")
    platform.metrics = [scrape(1000 * n, n) for n in range(scrapes)]


def test_one_picture_as_json_is_one_document(platform: FakePlatform, env: dict[str, str]) -> None:
    busy(platform)
    done = clip("top", "--once", "--json", *QUICK, env=env)
    assert (done.code, done.err) == (0, "")
    document = json.loads(done.out)
    first, second = document["functions"]
    assert (first["function"], second["function"]) == ("digits/analyze", "idle/analyze")
    assert 500 < first["rate_per_s"] < 5006
    assert 0.5 < first["errors_per_s"] < 5.1
    assert (first["p50_s"], first["p99_s"]) == (0.0042, 0.0191)
    assert (first["queue_depth"], first["running"]) == (7, 3)
    assert (first["batch_size"], first["batch_limit"]) == (4.0, 16)
    assert (first["replicas_ready"], first["replicas_wanted"]) == (1, 1)
    assert second["rate_per_s"] == 0
    assert second["p50_s"] is None


def test_one_picture_without_a_terminal_is_a_line_per_function(platform: FakePlatform, env: dict[str, str]) -> None:
    busy(platform)
    lines = clip("top", "--once", *QUICK, env=env).out.splitlines()
    assert len(lines) == 2
    for words in (
        "digits/analyze",
        "p50 4.2 ms",
        "p99 19.1 ms",
        "queue 7",
        "running 3",
        "batch 4.0/16",
        "replicas 1/1",
    ):
        assert words in lines[0]


def test_an_empty_platform_says_how_to_start(env: dict[str, str]) -> None:
    assert "clip init demo" in clip("top", "--once", *QUICK, env=env).out


def test_json_is_a_document_per_interval_until_ctrl_c(platform: FakePlatform, env: dict[str, str]) -> None:
    busy(platform)
    process = subprocess.Popen(
        [*COMMAND, "top", "--json", *QUICK], env=environment(env), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        documents = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()
        process.stderr.close()
    assert all(document["functions"][0]["rate_per_s"] > 0 for document in documents)
    assert documents[0]["at"] < documents[1]["at"] < documents[2]["at"]


@pytest.mark.parametrize("leave", ["q", "Ctrl-C"])
def test_the_live_table_fits_eighty_columns_and_is_left_by_key(
    platform: FakePlatform, env: dict[str, str], leave: str
) -> None:
    busy(platform)
    with on_terminal("top", *QUICK, env=env) as terminal:
        terminal.wait_for(r"digits/analyze +[\d,.]+ +4\.2ms +19\.1ms +7 +3 +4\.0/16 +– +1/1 +[\d.]+")
        terminal.wait_for(r"2 functions +[\d,]+/s +[▁-█]{2}")
        if leave == "q":
            terminal.type("q")
        else:
            terminal.interrupt()
        done = terminal.finish()
    assert done.code == 0
    assert "Traceback" not in done.out
    table = [line for line in done.out.splitlines() if "analyze" in line or "FUNCTION" in line]
    assert table
    assert max(map(len, table)) <= 80


def test_a_platform_that_went_away_is_waited_for(env: dict[str, str]) -> None:
    with fake_platform() as platform:
        busy(platform)
        with on_terminal("top", *QUICK, env=client_environment(platform)) as terminal:
            terminal.wait_for("digits/analyze")
            platform.metrics = ["<html>a proxy's error page</html>"]
            terminal.wait_for("trying again")
            platform.metrics = [scrape(10**6 + 10**4 * n) for n in range(100)]
            terminal.wait_for(r"trying again[\s\S]+digits/analyze +[\d,]+ +4\.2ms")
            terminal.type("q")
            assert terminal.finish().code == 0


def test_an_interval_that_is_none_is_wrong_usage(env: dict[str, str]) -> None:
    assert clip("top", "--interval", "0", env=env).code == 2


def test_without_a_platform_it_says_how_to_start_one() -> None:
    nowhere = {"CLIP_URL": "http://127.0.0.1:9", "CLIP_API_KEY": "clip_any", "CLIP_HOME": "/nonexistent/clip-home"}
    done = clip("top", "--once", env=nowhere)
    assert (done.code, done.out) == (1, "")
    assert "No platform at http://127.0.0.1:9" in done.err
    assert json.loads(clip("top", "--once", "--json", env=nowhere).out)["error"]["code"] == "platform_unreachable"
